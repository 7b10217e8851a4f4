"""What the sequences of a context hold, and how many cells they take, shared ones counted once. Pure.

A sequence is a row of pieces, one after the other from position 0. A piece lies in a block: the cells that one request
wrote in one go. A request that shares the beginning of a sequence shares its pieces up to there, and writes in a block
of its own. So all pieces of a block begin at the same position, and of a block there are as many cells as the longest
of its pieces has.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from erllama_py.cache.keys import TOKEN_BYTES, Identity
from erllama_py.scheduler.messages import SessionKey, session_key


class Piece(msgspec.Struct, frozen=True):
    """The positions from the end of the piece before it up to `end`."""

    block: int
    end: int


Pieces = tuple[Piece, ...]


def cut(pieces: Pieces, length: int) -> Pieces:
    """The first `length` positions."""
    kept: list[Piece] = []
    start = 0
    for piece in pieces:
        if start >= length:
            break
        kept.append(Piece(piece.block, min(piece.end, length)))
        start = piece.end
    return tuple(kept)


def written(pieces: Pieces, start: int, end: int, block: int) -> Pieces:
    """The first `start` positions, and those up to `end` in a new block: the writer's own, even while it is empty."""
    return (*cut(pieces, start), Piece(block, max(start, end)))


def grown(pieces: Pieces, end: int) -> Pieces:
    """The same, the last block reaching to `end`."""
    *rest, last = pieces
    return (*rest, Piece(last.block, end))


def count(sequences: Iterable[Pieces]) -> int:
    """Cells of all sequences together."""
    bases: dict[int, int] = {}
    ends: dict[int, int] = {}
    for pieces in sequences:
        start = 0
        for piece in pieces:
            bases[piece.block] = start
            ends[piece.block] = max(piece.end, ends.get(piece.block, 0))
            start = piece.end
    return sum(end - bases[block] for block, end in ends.items())


class Slot(msgspec.Struct, frozen=True):
    """One sequence: the tokens in its cells from position 0, packed as they are hashed.

    `first` is the lowest position that is still there. `identity` says whose cells they are: those of one tenant are
    not lent to another. Up to `captured_to` they were copied out to be saved. While a request is in it (`request_id`),
    `packed` is what it has of the beginning, and `pieces` are the cells that it may use.
    """

    seq_id: int
    packed: bytes = b""
    first: int = 0
    identity: Identity | None = None
    captured_to: int = 0
    pieces: Pieces = ()
    request_id: int | None = None
    session_id: str | None = None
    used_at: float = 0.0

    @property
    def length(self) -> int:
        """In tokens."""
        return len(self.packed) // TOKEN_BYTES

    @property
    def session(self) -> SessionKey | None:
        """The session that it is held for."""
        return session_key(self.identity, self.session_id)

    def beside_others(self, n_swa: int) -> Slot:
        """What is certain to be there once other sequences have had tokens computed.

        With a sliding window of `n_swa` tokens llama.cpp writes them to cells that the next token of this one does not
        look back to, whether or not others are free.
        """
        first = max(self.first, self.length - n_swa + 1)
        return self if not n_swa or first == self.first else msgspec.structs.replace(self, first=first)

    @property
    def is_free(self) -> bool:
        """Whether no request is in it and it holds nothing."""
        return self.request_id is None and not self.packed

    @property
    def is_idle(self) -> bool:
        """Whether it holds something and no request is in it."""
        return self.request_id is None and bool(self.packed)
