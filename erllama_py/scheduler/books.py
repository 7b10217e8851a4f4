"""How many cells the sequences of a context take, shared ones counted once. Pure.

A sequence is a row of pieces, one behind the other from position 0. A piece lies in a block: the cells that one request
wrote in one go. Who shares the beginning of a sequence shares its pieces up to there; whoever then writes does so in a
block of its own. So all pieces of a block begin at the same position, and of a block there are as many cells as the
longest of its pieces has.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec


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
