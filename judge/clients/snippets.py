"""The snippets of the documents that are judged: their packages and their text. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

BLOCK = re.compile(r"^<!-- judged with: (\S[^\n]*) -->\n```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)


class Snippet(NamedTuple):
    """One of them."""

    client: str
    """The heading that it stands under."""
    packages: str
    """What it needs, as pip reads it."""
    text: str


def snippets_of(page: str) -> list[Snippet]:
    """Those of a page, in their order."""
    found = []
    for block in BLOCK.finditer(page):
        headings = HEADING.findall(page[: block.start()])
        found.append(Snippet(headings[-1] if headings else "", block[1], block[2]))
    return found


def localized(text: str, changes: Mapping[str, str]) -> str:
    """A snippet with what is different here, such as the address."""
    for written, here in changes.items():
        text = text.replace(written, here)
    return text
