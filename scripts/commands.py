"""Writes docs/command-line-reference.md: every command with its usage, arguments, options and an example.

Cyclopts describes the commands from the signatures and docstrings of their functions, as `--help` does; examples and
exit codes are those of the command line itself. A house rule holds the page to what this makes of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from erllama_py.serve.cli import commands

PAGE = Path(__file__).resolve().parent.parent / "docs" / "command-line-reference.md"
HEAD = """# Commands

Every command and option of `erllama`; `make format` writes this page from the code. What the commands are for, with
their output: [the command line](guides/command-line.md).

"""
# Defaults that the option itself says.
PLAIN_DEFAULTS = re.compile(r" \*\[default: (?:False|\(\)|\"\")\]\*")
USAGE = re.compile(r"```console\n\S.*?(?= \[| [A-Z]{2}|$)", re.MULTILINE)
SECTION = re.compile(r"^(#+) (erllama [a-z ]+)$", re.MULTILINE)


def examples() -> Iterator[tuple[str, str]]:
    """An example of each command, by the words that call it."""
    for name, example in commands.EXAMPLES.items():
        yield f"erllama {name}", example
    for group, (_, _, of_group) in commands.GROUPS.items():
        for name, example in of_group.items():
            yield f"erllama {group} {name}", example


def page() -> str:
    """The whole page."""
    made = commands.application().generate_docs(usage_name="erllama")
    _, _, body = made.partition("## Table of Contents")
    body = body[SECTION.search(body).start() :]  # type: ignore[union-attr]  # there are commands
    known = dict(examples())
    parts = [HEAD, f"{commands.CODES}\n\n"]
    parts += [f"- [`{name}`](#{name.replace(' ', '-')})\n" for name in known]
    starts = [*SECTION.finditer(body)]
    for one, after in zip(starts, [*starts[1:], None], strict=True):
        text = body[one.end() : after.start() if after else len(body)]
        parts.append(f"\n{one[1]} {one[2]}\n{_section(one[2], text, known.get(one[2]))}")
    return re.sub(r"\n{3,}", "\n\n", "".join(parts)).rstrip() + "\n"


def _section(name: str, text: str, example: str | None) -> str:
    """One command: its usage, what it does, and an example before its options."""
    text = USAGE.sub(f"```console\n{name}", text, count=1)  # else how this program was started is in it
    text = PLAIN_DEFAULTS.sub("", text).replace("```console", "```text").replace("**Parameters**:", "**Options**:")
    text = re.sub(r"\n {4,}", " ", text)  # a docstring's own lines
    if example is None:
        return text
    shown = f"```sh\n{example}\n```\n\n"
    found = re.search(r"^\*\*(?:Arguments|Options)\*\*:", text, re.MULTILINE)
    return text + f"\n{shown}" if found is None else text[: found.start()] + shown + text[found.start() :]


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
