"""What a format of tool calls is: an entry of the table in `table`. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from erllama_py.chat.lark_rules import LarkRules


class Read(NamedTuple):
    """One call of a section, as far as it has come. The first begins at 0, another where the one before it ends."""

    start: int
    name: str = ""  # empty as long as it is not whole
    arguments: dict[str, Any] | None = None  # None as long as there are none
    whole: bool = False
    problem: str | None = None  # why it cannot be carried out


class Offered(msgspec.Struct, frozen=True):
    """A tool that may be called. `schema` is the text of its parameters' schema, closed and with the style of its JSON,
    `parameters` the schema itself."""

    name: str
    parameters: dict[str, Any]
    schema: str


class Marks(msgspec.Struct, frozen=True, kw_only=True):
    """The markers around calls; see `Markers` in `segments`."""

    opens: tuple[str, ...] = ()
    at_start: tuple[str, ...] = ()
    end: str | None = None
    quotes: str = ""
    dropped: tuple[str, ...] = ()
    dropped_at_start: tuple[str, ...] = ()
    before: tuple[str, ...] = ()
    """Those of the dropped ones that a call may follow where it is all that the reply is."""
    banned: tuple[str, ...] | None = None
    """What text must not have in it where nothing may be called; `None`: what opens a call."""
    heads: tuple[str, ...] = ()
    """What begins another call of the same section, where that is not seen by its first character."""
    inner: tuple[str, ...] = ()
    """Markers within a call."""

    def all(self) -> tuple[str, ...]:
        """All that may stand in a reply and is no text."""
        end = () if self.end is None else (self.end,)
        opening = (*self.opens, *self.at_start, *self.dropped, *self.dropped_at_start)
        return (*opening, *self.heads, *self.inner, *end)


class Form(NamedTuple):
    """One way to write a section: its opening marker, and the rest of it in Lark, the closing marker included."""

    opener: str  # empty where there is none: then the section can only begin the reply
    body: str


Reader = Callable[[str, Mapping[str, dict[str, Any]], bool], list[Read]]
"""The calls in the text of a section: by the text so far, the parameters' schemas by tool, and whether it is over."""
Writer = Callable[[Sequence[Offered], LarkRules, bool], list[Form]]
"""The forms of a section in a grammar; the flag says whether it may hold several calls."""


class ToolFormat(msgspec.Struct, frozen=True, kw_only=True):
    """How models of one kind write calls."""

    name: str
    found: Callable[[str], bool]
    """Whether a chat template, by its source, speaks it."""
    marks: Callable[[Sequence[str]], Marks]
    """The markers, by the names of the tools."""
    reader: Reader
    """What finds the calls of a section; see `read`."""
    forms: Writer
    guesses: bool = False
    """Whether `at_start` is no part of the format, but what models write that forget its marker. A reply that may also
    follow a structure is not held to be a call for that."""
    short_ids: bool = False
    """Whether ids are nine letters and digits, since the template refuses others."""

    def read(self, section: str, tools: Mapping[str, dict[str, Any]], over: bool) -> list[Read]:
        """The calls of a section, the first from its beginning on; one that has no call in it is malformed."""
        reads = self.reader(section, tools, over)
        if not reads:
            return [Read(0, problem="there is no call in it" if over else None)]
        return [reads[0]._replace(start=0), *reads[1:]]


def fixed(marks: Marks) -> Callable[[Sequence[str]], Marks]:
    """The same markers whatever the tools are called."""
    return lambda names: marks


def after_opener(section: str, opens: Sequence[str], start: int = 0) -> int:
    """Where the text after an opening marker and white space begins."""
    at = start
    while True:
        while at < len(section) and section[at].isspace():
            at += 1
        opener = next((one for one in opens if section.startswith(one, at)), None)
        if opener is None:
            return at
        at += len(opener)


def without_end(section: str, end: str | None, over: bool) -> str:
    """The section up to its closing marker; before it is over that is content."""
    return section.removesuffix(end) if end is not None and over else section


def is_begun_marker(rest: str, marks: Marks) -> bool:
    """Whether what is left of a section is the beginning of a marker, which is being written or was cut."""
    return any(one.startswith(rest) for one in (*marks.opens, marks.end or ""))
