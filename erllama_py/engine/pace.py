"""How long decodes take at most, and when one takes far longer: a rule. Pure.

A decode of n tokens takes at most about as long as a longer one did, and n times what a token has cost in any. Several
times that is far longer, on a slow machine too. What past decodes took fades, so that one that hung for an hour does
not hide those after it.
"""

from __future__ import annotations

import msgspec

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
