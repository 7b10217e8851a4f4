"""Which tokens of which inputs go into the next decode of an embedder. Bookkeeping alone: no clock, no thread.

Every call has its turn: a decode takes one input of each call that waits, then another of each, until it is full; those
that were served stand last in the next. So a single text waits for about one decode of others, not for their ten
thousand texts. One input at a time may be longer than a decode: it is spread over several, and leaves half of each to
others as long as any wait.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from erllama_py.engine.embedding import EmbedderFacts, Tokens

Inputs = Sequence[Tokens]
SKIPS = 64  # calls that a decode passes over because their next input does not fit, before it goes as it is


class Piece(NamedTuple):
    """A part of a decode: the tokens `[start, end)` of input `which` of a call."""

    call: int
    which: int
    seq_id: int
    start: int
    end: int
    last: bool


class _Long(NamedTuple):
    """The input that is spread over several decodes: how far it is computed."""

    call: int
    which: int
    seq_id: int
    tokens: Tokens
    done: int


class EmbedQueue:
    """The calls that wait, by ticket, in the order of their turns."""

    def __init__(self, facts: EmbedderFacts) -> None:
        self._facts = facts
        self._waiting: dict[int, tuple[Inputs, int]] = {}  # the inputs of each call, and which is next
        self._long: _Long | None = None

    def __len__(self) -> int:
        """Calls of which something is still to be computed."""
        return len(self._waiting) + (self._long is not None and self._long.call not in self._waiting)

    def add(self, call: int, inputs: Inputs) -> None:
        """A call; each of its inputs has 1 to `longest` tokens."""
        if inputs:
            self._waiting[call] = inputs, 0

    def drop(self, call: int) -> int | None:
        """A call that nobody waits for any more. The sequence in which a part of it lies, if one does."""
        self._waiting.pop(call, None)
        if self._long is None or self._long.call != call:
            return None
        seq_id, self._long = self._long.seq_id, None
        return seq_id

    def take(self) -> list[Piece]:
        """The pieces of the next decode; empty where nothing waits. They count as computed from here on."""
        room, pieces = self._facts.n_batch, list[Piece]()
        free = deque(range(self._facts.n_seq_max))
        goes_on = self._long is not None
        if self._long is not None:
            free.remove(self._long.seq_id)
            pieces.append(self._go_on(self._long, max(1, room // 2) if self._waiting else room))
            room -= pieces[0].end - pieces[0].start
        turn, skipped = list(self._waiting), 0
        while turn and room and free and skipped <= SKIPS:
            again = list[int]()
            for call in turn:
                if not room or not free or skipped > SKIPS:
                    break
                piece = self._begin(call, free[0], room, may_split=not goes_on)
                if piece is None:
                    skipped += 1
                    continue
                free.popleft()
                pieces.append(piece)
                room -= piece.end
                again += [call] * (call in self._waiting)
            turn = again
        self._turn(pieces)
        return pieces

    def _begin(self, call: int, seq_id: int, room: int, *, may_split: bool) -> Piece | None:
        """The next input of a call, if there is room for it; of one that is longer than a decode, what fits: not beside
        the end of another one, whose cells would be lost where it needs a larger context."""
        inputs, index = self._waiting[call]
        tokens = inputs[index]
        length = len(tokens)
        end = min(length, room)
        if end < length:
            if length <= self._facts.n_batch or self._long is not None or not may_split:
                return None
            self._long = _Long(call, index, seq_id, tokens, end)
        if index + 1 < len(inputs):
            self._waiting[call] = inputs, index + 1
        else:
            del self._waiting[call]
        return Piece(call, index, seq_id, 0, end, end == length)

    def _go_on(self, long: _Long, room: int) -> Piece:
        length = len(long.tokens)
        end = min(length, long.done + room)
        self._long = None if end == length else long._replace(done=end)
        return Piece(long.call, long.which, long.seq_id, long.done, end, end == length)

    def _turn(self, pieces: list[Piece]) -> None:
        """Those that were served stand last."""
        for call in dict.fromkeys(piece.call for piece in pieces if not piece.start):
            if call in self._waiting:
                self._waiting[call] = self._waiting.pop(call)
