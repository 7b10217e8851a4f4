"""Write a benchmark's table into its section of `docs/benchmarks.md`.

A section lies between `<!-- NAME -->` and `<!-- /NAME -->`; all else on the page is prose and stays.
"""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Sequence
from pathlib import Path

PAGE = Path(__file__).parent.parent / "docs" / "benchmarks.md"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def machine() -> str:
    """What the figures were taken on, without naming it."""
    return f"{len(os.sched_getaffinity(0))} CPUs, {platform.machine()}, Python {platform.python_version()}"


def publish(name: str, text: str) -> None:
    """Print the section and write it to the page."""
    print(text)
    page = PAGE.read_text()
    section = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    if not section.search(page):
        raise SystemExit(f"{PAGE} has no section {name}")
    body = f"\n{text}\n\nMeasured on {machine()}.\n\n"
    PAGE.write_text(section.sub(lambda match: match[1] + body + match[2], page))
