"""The page of the configuration file has every key of the structs, and its examples are what they say."""

from __future__ import annotations

import re
from pathlib import Path

import configuration
import pytest
from helpers.project import TOP, fenced

from erllama_py.serve.config import Config, ConfigError, Tables, check_tables
from erllama_py.serve.config.reading import parse_tables

PAGE = TOP / "docs" / "guides" / "configuration.md"
FILE = Path("/etc/erllama/erllama.toml")


def read(text: str) -> Config:
    return check_tables(parse_tables(text.encode(), str(FILE)), FILE)


def test_the_tables_are_what_the_structs_say() -> None:
    """`make format` writes them."""
    assert PAGE.read_text() == configuration.page(), "run: make format, or python -m scripts.reference"


def test_each_table_of_the_file_has_its_part() -> None:
    """Also those whose keys are told elsewhere."""
    page = PAGE.read_text()
    places = set(re.findall(r"<!-- keys: (\S+) -->", page))
    assert places == set(configuration.sections())
    for name in Tables.__struct_fields__:
        assert re.search(rf"^## `\[+{name}(\.NAME)?\]+`$", page, re.MULTILINE), name


def test_the_examples_can_be_served() -> None:
    """Each TOML block of the page."""
    blocks = [text for _, text, _ in fenced(PAGE, "toml")]
    assert blocks
    first = read(blocks[0])
    assert [model.name for model in first.models] == ["assistant", "embedder"]
    for block in blocks:
        read(block)


@pytest.mark.parametrize(
    "text",
    [
        '[[models]]\npath = "a"\n[[models]]\npath = "b"\nn_ctx = 1',
        '[[models]]\npath = "a"\ncontext_opts = { n_ctx = "many" }',
    ],
)
def test_errors_are_as_the_page_shows_them(text: str) -> None:
    """Word for word."""
    with pytest.raises(ConfigError) as caught:
        read(text)
    assert f"erllama: {caught.value}" in PAGE.read_text()
