"""The page of commands says what the command line says, and the guide speaks of each command."""

from __future__ import annotations

import re
from pathlib import Path

import commands
from helpers.project import TOP

from erllama_py.serve.cli import commands as given
from erllama_py.serve.cli.bare import OTHERS

GUIDE = TOP / "docs" / "guides" / "command-line.md"


def test_the_page_is_what_the_code_makes_of_it() -> None:
    """Written anew by `make format`."""
    assert commands.PAGE.read_text() == commands.page(), "run: make format, or python -m scripts.commands"


def test_every_command_has_an_example_that_calls_it() -> None:
    """And a function; without the extra it is known, too."""
    assert set(given.EXAMPLES) == set(given.COMMANDS)
    assert {*given.COMMANDS, *given.GROUPS} == {*OTHERS, "demo"}
    for _, of_group, examples in given.GROUPS.values():
        assert set(of_group) == set(examples)
    for name, example in commands.examples():
        assert re.search(rf"\b{name}\b", example)


def test_the_guide_speaks_of_each_command() -> None:
    """By its whole name."""
    text = Path(GUIDE).read_text()
    assert [name for name, _ in commands.examples() if name not in text] == []


def test_every_option_is_described() -> None:
    """With a sentence; its default is said where there is one."""
    lines = [line for line in commands.page().splitlines() if line.startswith("* `")]
    assert lines
    assert [line for line in lines if not re.search(r"`: .*\w", line)] == []
