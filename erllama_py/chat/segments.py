"""A reply in segments: its text, what the model thinks, and the tools it calls, told apart by markers. Pure.

A marker may span tokens and chunks: what could be the beginning of one is held back until that is known. How the text
is cut into chunks changes nothing. White space beside a marker belongs to it: a reply that was thought about does not
begin with blank lines.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal, NamedTuple

import msgspec

SegmentKind = Literal["text", "thinking", "call"]

# What ends a text in a call, or escapes what would.
_TEXT_END = {quote: re.compile(f"[{quote}\\\\\n]") for quote in "\"'"}


class Markers(msgspec.Struct, frozen=True, kw_only=True):
    """Where thinking and calls begin and end. No marker is empty."""

    thinking: tuple[str, str] | None = None
    """What opens a block of thinking, and what closes it."""
    calls: tuple[str, ...] = ()
    """What opens a call; it is part of the call's text, as is what closes it."""
    calls_at_start: tuple[str, ...] = ()
    """What opens a call where there is no text before it: of formats without a marker, such as `{"name":`."""
    call_end: str | None = None
    """What closes a call; `None`: it goes on to the reply's end."""
    call_quotes: str = ""
    """The characters around texts in calls, where what closes a call is content; a backslash escapes one, and no text
    spans lines."""
    dropped: tuple[str, ...] = ()
    """Headers of the model's own format, which are no content. None is the beginning of another marker."""
    dropped_at_start: tuple[str, ...] = ()
    """The same, where there is no text before it."""
    begins: SegmentKind = "text"
    """What the reply begins in: a template may have opened the thinking itself."""
    tokens: tuple[int, ...] = ()
    """Control tokens whose names are part of a marker: they are hidden otherwise."""
    closing: tuple[int, ...] = ()
    """The tokens by which an engine closes a block of thinking itself."""
    budget: int | None = None
    """Most tokens of thinking in the whole reply, before the engine closes it."""
    ended: bool = False
    """Whether the engine is to close the block at once that the reply begins in."""


class Piece(NamedTuple):
    """New text of one segment; `closed` where the segment, thinking or a call, ends with it."""

    kind: SegmentKind
    text: str
    closed: bool = False


class Segmenter:
    """Follows one reply."""

    def __init__(self, markers: Markers) -> None:
        self._markers = markers
        self._kind: SegmentKind = markers.begins
        self._held = ""
        self._space = ""  # at the end of what was handed out: dropped where a marker follows
        self._after_marker = markers.begins != "text"  # white space that comes now is dropped
        self._is_start = True  # there was no text, and no call
        thinking = () if markers.thinking is None else (markers.thinking[0],)
        self._openers = (*thinking, *markers.calls, *markers.dropped)
        self._starts = (*markers.calls_at_start, *markers.dropped_at_start)
        self._quote = ""  # what closes the text in a call that is under way
        # What closes a call, or begins a text in it; of two at the same place the first.
        self._in_calls = re.compile("|".join(map(re.escape, (markers.call_end or "", *markers.call_quotes))))

    @property
    def kind(self) -> SegmentKind:
        """What the next text belongs to, as far as is known."""
        return self._kind

    @property
    def is_whole(self) -> bool:
        """Whether nothing is held back that may become a marker."""
        return not self._held

    def feed(self, text: str) -> list[Piece]:
        """What is known of the reply after `text` came in."""
        self._held += text
        pieces: list[Piece] = []
        while self._step(pieces):
            pass
        return pieces

    def flush(self) -> list[Piece]:
        """The end of the reply: what was held back is text of the segment that it is in."""
        pieces: list[Piece] = []
        rest, self._held = self._held, ""
        if self._kind == "call":
            pieces.append(Piece("call", rest, closed=True))
            return pieces
        self._give(rest, pieces)
        if self._space and self._kind == "text":
            pieces.append(Piece("text", self._space))
        self._space = ""
        return pieces

    def _step(self, pieces: list[Piece]) -> bool:
        """Take the next marker, if it is whole; false when more text is needed."""
        if self._kind == "call":
            return self._in_call(pieces)
        markers, held = self._markers, self._held
        if self._kind == "thinking":
            assert markers.thinking is not None
            wanted: Sequence[str] = (markers.thinking[1],)
        else:
            if self._is_start and self._starts and (opened := self._at_start()) is not None:
                return opened
            wanted = self._openers
        at, found = _first(held, wanted)
        if found is None:
            keep = begun(held, wanted)
            self._held = held[len(held) - keep :]
            self._give(held[: len(held) - keep], pieces)
            return False
        self._give(held[:at], pieces)
        self._held, self._space, self._after_marker = held[at + len(found) :], "", True
        if self._kind == "thinking":
            pieces.append(Piece("thinking", "", closed=True))
            self._kind = "text"
        elif markers.thinking is not None and found == markers.thinking[0]:
            self._kind = "thinking"
        elif found in markers.calls:
            self._kind, self._held, self._quote, self._is_start = "call", found + self._held, "", False
        return True

    def _at_start(self) -> bool | None:
        """Whether a call begins here that has no marker: true where it does, false where more text is needed, `None`
        where it does not."""
        text = self._held.lstrip()
        if any(text.startswith(opener) for opener in self._markers.calls_at_start):
            self._kind, self._held, self._is_start, self._quote = "call", text, False, ""
            return True
        if dropped := next((one for one in self._markers.dropped_at_start if text.startswith(one)), None):
            self._held, self._is_start, self._after_marker = text[len(dropped) :], False, True
            return True
        if any(opener.startswith(text) for opener in self._starts):
            return False
        self._is_start = False
        return None

    def _in_call(self, pieces: list[Piece]) -> bool:
        held = self._held
        known, is_end = self._known_call(held)
        if text := held[:known]:
            pieces.append(Piece("call", text, closed=is_end))
        self._held = held[known:]
        if is_end:
            self._kind, self._after_marker = "text", True
        return is_end

    def _known_call(self, held: str) -> tuple[int, bool]:
        """How much of the text is known to be of the call, and whether the call ends there."""
        end = self._markers.call_end
        if end is None:
            return len(held), False
        at = 0
        while True:
            if self._quote:
                found = _TEXT_END[self._quote].search(held, at)
                if found is None:
                    return len(held), False
                if found[0] != "\\":
                    self._quote, at = "", found.end()
                elif found.end() < len(held):
                    at = found.end() + 1
                else:
                    return found.start(), False  # what it escapes has not come
                continue
            found = self._in_calls.search(held, at)
            if found is None:
                return len(held) - begun(held[at:], (end,)), False
            if found[0] == end:
                return found.end(), True
            self._quote, at = found[0], found.end()

    def _give(self, text: str, pieces: list[Piece]) -> None:
        """Hand out text that is of no call, but for white space that a marker may follow."""
        if self._after_marker:
            text = text.lstrip()
        if not text:
            return
        self._after_marker = False
        text = self._space + text
        kept = text.rstrip()
        self._space = text[len(kept) :]
        if kept:
            self._is_start = self._is_start and self._kind != "text"
            pieces.append(Piece(self._kind, kept))


def joined(pieces: Sequence[Piece]) -> list[Piece]:
    """The same, with neighbours of one segment put together."""
    found: list[Piece] = []
    for piece in pieces:
        if found and found[-1].kind == piece.kind and not found[-1].closed:
            piece = Piece(piece.kind, found.pop().text + piece.text, piece.closed)
        found.append(piece)
    return found


def text_of(pieces: Sequence[Piece]) -> str:
    """The text of a reply."""
    return "".join([piece.text for piece in pieces if piece.kind == "text"])


def thinking_of(pieces: Sequence[Piece]) -> str | None:
    """What a reply thought, its blocks one after the other; None where there is none."""
    blocks = [piece.text for piece in joined([piece for piece in pieces if piece.kind == "thinking"])]
    return "\n\n".join(block for block in blocks if block) if blocks else None


def calls_of(pieces: Sequence[Piece]) -> tuple[str, ...]:
    """The text of each call of a reply."""
    return tuple(piece.text for piece in joined([piece for piece in pieces if piece.kind == "call"]))


def _first(text: str, markers: Sequence[str]) -> tuple[int, str | None]:
    """Where the first marker begins and which it is; of two at the same place the longer."""
    found = [(at, -len(marker), marker) for marker in markers if (at := text.find(marker)) >= 0]
    if not found:
        return len(text), None
    at, _, marker = min(found)
    return at, marker


def begun(text: str, markers: Sequence[str]) -> int:
    """How many characters at the end of `text` could be the beginning of a marker."""
    longest = max(map(len, markers), default=1) - 1
    for length in range(min(longest, len(text)), 0, -1):
        end = text[len(text) - length :]
        if any(marker.startswith(end) for marker in markers):
            return length
    return 0
