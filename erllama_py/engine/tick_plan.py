"""Which tokens go into the next decode: a pure function over what each sequence still has to do.

Decode rows come first, because a stream is waiting for each of them; prefill takes what is left of
`n_batch`. A slice of a prompt ends on an absolute grid (multiples of the micro-batch `n_ubatch`) unless it
ends the prompt, so that a prefix computed from its start and one continued after a reuse are cut at the
same positions.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec


class Need(msgspec.Struct, frozen=True):
    """What one sequence could put into a decode: `tokens` of them, the first at `position`."""

    position: int
    tokens: int
    decoding: bool  # its prompt is in; `tokens` is then 1


class Portion(msgspec.Struct, frozen=True):
    """The first `tokens` tokens of the sequence at `index` of the needs."""

    index: int
    tokens: int


def plan_tick(needs: Sequence[Need], n_batch: int, n_ubatch: int) -> list[Portion]:
    """Portions for one decode, `n_batch` tokens at most, in the order in which they are to be decoded.

    At least one token is planned whenever any is needed. Decode rows that find no room wait for the next
    tick; their order is the order of `needs`, so a caller that rotates it starves nobody.
    """
    portions: list[Portion] = []
    room = n_batch
    for index, need in enumerate(needs):
        if need.decoding and room > 0:
            portions.append(Portion(index, 1))
            room -= 1
    for index, need in enumerate(needs):
        if not need.decoding and room > 0:
            tokens = slice_length(need.position, need.tokens, room, n_ubatch)
            portions.append(Portion(index, tokens))
            room -= tokens
    return portions


def slice_length(position: int, tokens: int, room: int, grid: int) -> int:
    """How many of `tokens` prompt tokens, the first at `position`, fit into `room`, ending on the grid.

    Where no grid position can be reached (`room` was narrowed by decode rows) the whole room is used:
    progress comes before alignment.
    """
    if tokens <= room:
        return tokens
    end = (position + room) // grid * grid
    return end - position if end > position else room
