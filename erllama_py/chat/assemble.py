"""From the bytes of tokens to text: whole characters, up to a stop sequence.

One assembler follows one reply; the engine's thread feeds it each token, at about a microsecond a token. How the text
is cut into tokens changes nothing.

The stop sequence that occurs first wins; where several begin at the same place, the shortest, since the reply is
the same and no more text is needed to know it. Text is held back as long as it could be the beginning of a
stop sequence. That goes for a whole stop sequence too: with "cd" and "abcdef", the text "abcd" is not decided yet.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence

from erllama_py.chat.segments import Markers, Piece, Segmenter, SegmentKind

_Decoder = codecs.getincrementaldecoder("utf-8")


class StopMatcher:
    """Feeds text through until a stop sequence is met; `matched` is that sequence then. None of them is empty."""

    def __init__(self, stop_sequences: Sequence[str]) -> None:
        self.matched: str | None = None
        self._stops = tuple(sorted(stop_sequences, key=len))
        self._first_characters = frozenset(stop[0] for stop in self._stops)
        self._longest = len(self._stops[-1]) if self._stops else 0
        self._held = ""

    def feed(self, text: str) -> str:
        """What is safe to emit after `text` came in; always empty after a match."""
        if self.matched is not None:
            return ""
        if not self._stops:
            return text
        text = self._held + text
        end, stop = self._earliest(text)
        begun = self._begun(text, end)
        if begun < end:
            self._held = text[begun:]
            return text[:begun]
        self._held, self.matched = "", stop
        return text[:end]

    def flush(self) -> str:
        """The end of the text: what was held back becomes text, up to a stop sequence that lies in it."""
        if self.matched is not None:
            return ""
        text, self._held = self._held, ""
        end, self.matched = self._earliest(text)
        return text[:end]

    def _earliest(self, text: str) -> tuple[int, str | None]:
        """Where the first stop sequence begins and which it is; the end of the text and `None` without one."""
        best, winner = len(text), None
        for stop in self._stops:  # from the shortest on, so that a longer one must begin earlier to win
            found = text.find(stop, 0, best + len(stop) - 1)
            if found >= 0:
                best, winner = found, stop
        return best, winner

    def _begun(self, text: str, end: int) -> int:
        """Where before `end` a stop sequence begins that the text does not complete; `end` if nowhere."""
        for start in range(max(0, len(text) - self._longest + 1), end):
            if text[start] in self._first_characters:
                rest = text[start:]
                if any(stop.startswith(rest) for stop in self._stops):
                    return start
        return end


class TextAssembler:
    """A character that spans tokens comes out whole, bytes that are no UTF-8 as U+FFFD.

    `matched` is the stop sequence that ended the text. It can be found as late as in `finish`, when a longer
    one that began before it was still possible until then.
    """

    def __init__(self, stop_sequences: Sequence[str]) -> None:
        self._decode = _Decoder("replace").decode
        self._matcher = StopMatcher(stop_sequences)

    @property
    def matched(self) -> str | None:
        return self._matcher.matched

    @property
    def kind(self) -> SegmentKind:
        """All of it is text."""
        return "text"

    @property
    def is_whole(self) -> bool:
        """See `SegmentAssembler`; there is no block that could be closed."""
        return True

    def feed(self, data: bytes) -> str:
        """The text that is due after `data`; always empty after a match."""
        return self._matcher.feed(self._decode(data))

    def finish(self) -> str:
        """What was held back: a torn character becomes U+FFFD, the beginning of a stop sequence is text."""
        return self._matcher.feed(self._decode(b"", True)) + self._matcher.flush()


class SegmentAssembler:
    """The same for a reply in segments. Stop sequences end its text: what is thought, and the calls, have none."""

    def __init__(self, stop_sequences: Sequence[str], markers: Markers) -> None:
        self._decoder = _Decoder("replace")
        self._decode = self._decoder.decode
        self._stops = stop_sequences
        self._matcher = StopMatcher(stop_sequences)
        self._segmenter = Segmenter(markers)

    @property
    def matched(self) -> str | None:
        return self._matcher.matched

    @property
    def kind(self) -> SegmentKind:
        """What the next text belongs to, as far as is known."""
        return self._segmenter.kind

    @property
    def is_whole(self) -> bool:
        """Whether it ends neither within a character nor within what may be a marker."""
        return self._segmenter.is_whole and not self._decoder.getstate()[0]

    def feed(self, data: bytes) -> list[Piece]:
        """The pieces that are due after `data`; always none after a match."""
        return self._cut(self._segmenter.feed(self._decode(data)))

    def finish(self) -> list[Piece]:
        """What was held back."""
        pieces = self._cut([*self._segmenter.feed(self._decode(b"", True)), *self._segmenter.flush()])
        return pieces if self.matched is not None else [*pieces, *self._flushed()]

    def _cut(self, pieces: list[Piece]) -> list[Piece]:
        found: list[Piece] = []
        for piece in pieces:
            if self.matched is not None:
                break
            if piece.kind == "text":
                if text := self._matcher.feed(piece.text):
                    found.append(Piece("text", text))
                continue
            found += self._flushed()  # a stop sequence does not go on behind a marker
            if self.matched is None:
                found.append(piece)
        return found

    def _flushed(self) -> list[Piece]:
        text = self._matcher.flush()
        return [Piece("text", text)] if text else []
