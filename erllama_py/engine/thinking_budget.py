"""When the engine closes what a reply thinks, and with which tokens: its budget is spent, or its caller asked. Pure.

The tokens that close a block are written in place of draws, so that the model goes on as if they were its own. A
character is not cut in two, nor a marker that the model has begun to write: either is waited for, for as many tokens
as it can take. The budget is that of the whole reply: a block that is opened when it is spent is closed at once.
"""

from __future__ import annotations

from erllama_py.chat.segments import Markers, SegmentKind
from erllama_py.engine.drawn import Thinking

MOST_WRITTEN = 64  # tokens in one go, as many as a structure forces: longer messages take several decodes
MOST_TORN = 4  # bytes of a character


class ThinkingBudget:
    """Follows the thinking of one reply, token by token; without markers there is none."""

    def __init__(self, markers: Markers | None) -> None:
        thinking = None if markers is None else markers.thinking
        self._follows = thinking is not None
        self._closing = [] if markers is None else [*markers.closing]
        self._left = None if markers is None else markers.budget
        self._asked = markers is not None and markers.ended
        self._kind: SegmentKind = "text" if markers is None else markers.begins
        self._patience = 0 if thinking is None else MOST_TORN + len(thinking[1].encode())
        self._waited = 0  # tokens since it was due
        self._rest: list[int] = []  # of those that close the block, still to be written
        self._written = False  # this block has been closed: once is all that can be done

    @property
    def standing(self) -> Thinking | None:
        """All that the reply does not tell, for `stand`; None without thinking."""
        if not self._follows:
            return None
        return Thinking(self._left, self._asked, self._waited, tuple(self._rest), self._written)

    def stand(self, kind: SegmentKind, standing: Thinking | None) -> None:
        """Go on where another one stood, after a reply whose next text is of this kind."""
        self._kind = kind
        if standing is not None:
            self._left, self._asked, self._waited = standing.left, standing.asked, standing.waited
            self._rest, self._written = [*standing.rest], standing.written

    def end(self) -> None:
        """Close the block that is open; no effect where there is none."""
        self._asked = self._asked or self._kind == "thinking"

    def drew(self, kind: SegmentKind) -> None:
        """A token was drawn; what follows it is of this kind."""
        if self._kind == kind == "thinking" and self._left:
            self._left -= 1
        self.wrote(kind)

    def wrote(self, kind: SegmentKind) -> None:
        """Tokens that nobody drew are in, of `due` or of a structure; what follows them is of this kind."""
        self._kind = kind
        if kind != "thinking":
            self._asked, self._written, self._waited = False, False, 0

    def due(self, whole: bool) -> list[int]:
        """The tokens to be written now in place of a draw, `MOST_WRITTEN` at once, mostly none. `whole`: the text so
        far ends neither within a character nor within what may be a marker."""
        if self._kind == "thinking" and not self._rest and not self._written and (self._asked or self._left == 0):
            self._waited += 1
            if whole or self._waited > self._patience:
                self._rest, self._written = list(self._closing), True
        now, self._rest = self._rest[:MOST_WRITTEN], self._rest[MOST_WRITTEN:]
        return now
