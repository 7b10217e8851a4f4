"""Whether the decode under way takes far longer than those before it: a rule, and what measures for it.

A decode of n tokens takes at most about as long as a longer one did, and n times what a token has cost in any. Several
times that is far longer, on a slow machine too. What past decodes took fades, so that one that hung for an hour does
not hide those after it.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec

from erllama_py.engine.work import Work

# Far too long is this many times the slowest recent decode, or this many times the decode's tokens at the highest
# recent cost. A token of a batch costs no more than one that is decoded alone, so the second is already a high
# estimate.
TIMES_SLOWEST = 10.0
TIMES_TOKENS = 3.0
# Never before this: a machine that swaps, or another process that takes all CPUs, delays short decodes for seconds.
LEAST_SECONDS = 10.0
# Before any decode has ended: weights may still be read from a slow disk, for a batch that takes minutes.
FIRST_SECONDS = 60.0
FIRST_SECONDS_PER_TOKEN = 1.0
FADE = 0.99  # for each decode: half is left after 69


class Pace(msgspec.Struct, frozen=True):
    """What recent decodes took at most, in seconds, and in seconds a token; 0.0 before the first."""

    slowest: float = 0.0
    per_token: float = 0.0


def observed(pace: Pace, tokens: int, seconds: float) -> Pace:
    """The pace after one more decode."""
    return Pace(max(seconds, pace.slowest * FADE), max(seconds / tokens, pace.per_token * FADE))


def patience(pace: Pace, tokens: int) -> float:
    """After how many seconds a decode of `tokens` tokens takes far too long."""
    if not pace.slowest:
        return FIRST_SECONDS + FIRST_SECONDS_PER_TOKEN * tokens
    return max(LEAST_SECONDS, TIMES_SLOWEST * pace.slowest, TIMES_TOKENS * pace.per_token * tokens)


class Heart:
    """`begins` and `ends` belong to the engine's thread; `overdue` may be asked from any.

    Decodes are counted in `work`.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter, work: Work | None = None) -> None:
        self._clock, self._work = clock, Work() if work is None else work
        self._pace = Pace()
        self._under_way: tuple[float, int] | None = None  # since when, and of how many tokens

    def begins(self, tokens: int) -> None:
        """A decode."""
        self._under_way = (self._clock(), tokens)

    def ends(self, done: bool) -> None:
        """That decode has ended. One that was not `done` is no measurement."""
        if self._under_way is not None:
            began, tokens = self._under_way
            seconds, work = self._clock() - began, self._work
            work.seconds += seconds
            if done:
                self._pace = observed(self._pace, tokens, seconds)
                work.decodes += 1
                work.tokens += tokens
        self._under_way = None

    def overdue(self) -> float | None:
        """For how many seconds the decode under way has run, where that is far too long; else None."""
        if self._under_way is None:
            return None
        began, tokens = self._under_way
        seconds = self._clock() - began
        return seconds if seconds > patience(self._pace, tokens) else None
