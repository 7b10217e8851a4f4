"""How large a context is, and for how many sequences, where nobody says: by what the file says of itself and by the
memory that is free. Pure.

A server has several clients, whose conversations lie in the cells of one context. Eight sequences together decode 30 %
more tokens a second than four, sixteen 22 % more than eight (`docs/benchmarks.md`), while each stream gets slower:
so it is eight. The cells are as many as the model was trained for, so that one long conversation may have them all, or
as many as fit into the model's share of the memory. What is longer than that is refused, not answered badly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

SEQUENCES = 8
LEAST_CELLS = 2048  # a conversation of a few turns; with less a server is of no use, so the load may fail for memory
MOST_CELLS = 131_072  # a larger context is for those who ask for it: its first decodes would take minutes on CPUs
MEMORY_SHARE = 4  # a quarter of what is free beside the weights: the page cache, saved rows and others need the rest
LEAST_BUDGET = 256 << 20
MOST_BATCH = 2048  # an encoder reads a text in one batch, whose attention takes memory by its square
QUOTA_SHARE, MOST_QUOTA, LEAST_QUOTA = 10, 20 << 30, 256 << 20

Costs = Callable[[int, Sequence[int]], Sequence[int]]
"""Bytes of contexts for so many sequences, by their cells."""


class Size(msgspec.Struct, frozen=True):
    """Of a context, and the bytes that it takes."""

    n_seq_max: int
    n_ctx: int
    nbytes: int


def budget(available: int, weights: int, models: int) -> int:
    """Bytes for the context of each of some models, whose weights take so many in total."""
    return max(LEAST_BUDGET, (available - weights) // MEMORY_SHARE // max(1, models))


def choose_size(
    n_ctx_train: int, costs: Costs, room: int, *, n_ctx: int | None = None, n_seq_max: int | None = None
) -> Size:
    """The largest context that costs at most `room` bytes, with what was given as it is.

    Fewer cells are tried first, down to what a conversation needs; then fewer sequences, each of which has a state of
    its own in a recurrent model. Where nothing fits, it is the smallest: the load then says what is missing.
    """
    cells = [n_ctx] if n_ctx is not None else _cells(n_ctx_train)
    sequences = [n_seq_max] if n_seq_max is not None else [SEQUENCES, 4, 2, 1]
    size = None
    for many in sequences:
        many = min(many, cells[-1])
        for some, nbytes in zip(cells, costs(many, cells), strict=True):
            size = Size(many, some, nbytes)
            if nbytes <= room:
                return size
    assert size is not None  # there is always one to try
    return size


def _cells(n_ctx_train: int) -> list[int]:
    """Halves of what the model was trained for, the largest first."""
    cells = [min(n_ctx_train or LEAST_CELLS, MOST_CELLS)]
    while cells[-1] // 2 >= LEAST_CELLS:
        cells.append(cells[-1] // 2)
    return cells


def disk_quota(free: int) -> int | None:
    """Bytes for saved rows on a disk with so many that are free; None where that is too little."""
    quota = min(free // QUOTA_SHARE, MOST_QUOTA)
    return quota if quota >= LEAST_QUOTA else None
