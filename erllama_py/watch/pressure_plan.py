"""How full is too full: a reading of memory, and how many bytes to evict for it. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

from erllama_py.options.pressure import PressureOpts


class Reading(NamedTuple):
    """Bytes of one memory."""

    used: int
    total: int

    @property
    def share(self) -> float:
        """The used share, from 0 to 1."""
        return self.used / self.total


def plan(used: int, total: int, opts: PressureOpts) -> int:
    """Bytes to evict: none below the high watermark, else what reaches the low one, and `min_evict_bytes` at least."""
    if used < opts.high_watermark * total:
        return 0
    return max(used - math.floor(opts.low_watermark * total), opts.min_evict_bytes)


def fullest(readings: Iterable[Reading]) -> Reading:
    """Of several memories, the one with the least left: that one fails first."""
    return max(readings, key=lambda reading: reading.share)


def read_answer(answer: object) -> Reading | float:
    """What a caller's source answered: bytes, or a share from 0 to 1. Raises `ValueError`."""
    match answer:
        case bool():
            pass
        case int() | float() if 0 <= answer <= 1:
            return float(answer)
        case [int() | float() as used, int() | float() as total] if 0 <= used < math.inf and 1 <= total < math.inf:
            return Reading(int(used), int(total))
    raise ValueError(f"a source answers (used, total) in bytes or a share from 0 to 1, not {answer!r:.80}")
