"""The project as text, for the rules that look at files: its sources as syntax trees, its documents as pages."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
PACKAGE = TOP / "erllama_py"
CODE_FOLDERS = ("erllama_py", "tests", "benchmarks", "judge", "scripts", "docs/examples")


@cache
def syntax(path: Path) -> ast.Module:
    """The parsed file."""
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def sources(*folders: str) -> list[Path]:
    """All Python files below these folders of the project; below all that hold code, without any."""
    return sorted(path for folder in folders or CODE_FOLDERS for path in (TOP / folder).rglob("*.py"))


def documents() -> list[Path]:
    """All pages: those of the site, and those at the top of the project. The changelog speaks of the past."""
    pages = [*TOP.glob("*.md"), *(TOP / "docs").rglob("*.md")]
    return sorted(page for page in pages if page.name != "CHANGELOG.md")


def label(path: Path) -> str:
    """A path as a reader knows it."""
    return path.relative_to(TOP).as_posix()


def fenced(page: Path, language: str) -> list[tuple[str, str, int]]:
    """The blocks of one language: `(the line above, the text, the number of its first line)`."""
    blocks = []
    lines = page.read_text(encoding="utf-8").splitlines()
    start = 0
    indent = language_here = ""
    for number, line in enumerate(lines):
        opening = re.match(r"( *)```(\w*)", line)
        if not opening:
            continue
        if not start:
            start, indent, language_here = number + 1, opening[1], opening[2]
            continue
        if language_here == language:
            above = next((text for text in reversed(lines[: start - 1]) if text.strip()), "")
            text = "\n".join(line.removeprefix(indent) for line in lines[start:number])
            blocks.append((above.strip(), text + "\n", start + 1))
        start = 0
    return blocks


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return re.sub(r"^( *)```.*?^\1```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
