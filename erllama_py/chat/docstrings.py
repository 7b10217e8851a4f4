"""What a docstring says of a function and of each argument, in the styles of Google, NumPy and Sphinx. Pure."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator

MAX_DOCSTRING = 65_536  # characters that are read; the rest says nothing

_GOOGLE = re.compile(r"(Args|Arguments|Parameters|Params):")
_HEADING = re.compile(
    r"(Args|Arguments|Parameters|Params|Returns?|Yields?|Raises|Examples?|Notes?|Warnings?|Warns|Attributes|See Also|"
    r"References|Todo):"
)
_GOOGLE_ITEM = re.compile(r"\*{0,2}(\w+) *(?:\([^)]*\))? *: ?(.*)")
_NUMPY_ITEM = re.compile(r"(\w+(?: *, *\w+)*) *(?:: .*)?")
_SPHINX = re.compile(r":(\w+)((?: +[^\s:]+)*) *: ?(.*)")
_SPHINX_PARAMETERS = ("param", "parameter", "arg", "argument", "key", "keyword")


def read_docstring(docstring: str | None) -> tuple[str, dict[str, str]]:
    """The description, which is all before the first section, and the text of each argument that has one."""
    lines = inspect.cleandoc((docstring or "")[:MAX_DOCSTRING]).splitlines()
    end = next((number for number, _ in enumerate(lines) if _begins_section(lines, number)), len(lines))
    arguments: dict[str, str] = {}
    for items in (_google, _numpy, _sphinx):
        for name, text in items(lines[end:]):
            arguments.setdefault(name, _joined(text))
    return _joined(lines[:end]), {name: text for name, text in arguments.items() if text}


def _begins_section(lines: list[str], number: int) -> bool:
    line = lines[number]
    return bool(_HEADING.fullmatch(line.strip()) or _SPHINX.match(line) or _is_underlined(lines, number))


def _is_underlined(lines: list[str], number: int) -> bool:
    """Whether the next line underlines this one, as NumPy's headings are."""
    below = lines[number + 1].strip() if number + 1 < len(lines) else ""
    return bool(lines[number].strip()) and len(below) >= 3 and not below.strip("-")


def _joined(lines: list[str]) -> str:
    """Lines as paragraphs, each on one line."""
    paragraphs = "\n".join(line.strip() for line in lines).strip().split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs if paragraph.strip())


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _google(lines: list[str]) -> Iterator[tuple[str, list[str]]]:
    start = next((number for number, line in enumerate(lines) if _GOOGLE.fullmatch(line.strip())), None)
    if start is None:
        return
    depth, item = None, None
    for line in lines[start + 1 :]:
        if not line.strip():
            continue
        if _indent(line) <= _indent(lines[start]):
            break
        depth = _indent(line) if depth is None else depth
        found = _GOOGLE_ITEM.fullmatch(line.strip())
        if _indent(line) <= depth and found:
            if item is not None:
                yield item
            item = (found[1], [found[2]])
        elif item is not None:
            item[1].append(line)
    if item is not None:
        yield item


def _numpy(lines: list[str]) -> Iterator[tuple[str, list[str]]]:
    names = ("Parameters", "Other Parameters")
    inside, open_, text = False, list[str](), list[str]()
    for number, line in enumerate(lines):
        if _is_underlined(lines, number):
            yield from ((name, text) for name in open_)
            inside, open_, text = line.strip() in names, [], []
        elif inside and line.strip() and not _indent(line) and line.strip("- "):
            yield from ((name, text) for name in open_)
            found = _NUMPY_ITEM.fullmatch(line.strip())
            open_, text = re.split(r" *, *", found[1]) if found else [], []
        elif inside and line.strip("- "):
            text.append(line)
    yield from ((name, text) for name in open_)


def _sphinx(lines: list[str]) -> Iterator[tuple[str, list[str]]]:
    item: tuple[str, list[str]] | None = None
    for line in lines:
        found = _SPHINX.match(line.strip())
        if found or not line.strip():
            if item is not None:
                yield item
            is_parameter = found is not None and found[1] in _SPHINX_PARAMETERS and found[2].strip()
            item = (found[2].split()[-1], [found[3]]) if found and is_parameter else None
        elif item is not None:
            item[1].append(line)
    if item is not None:
        yield item
