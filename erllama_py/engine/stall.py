"""How many prompt tokens a decode may take while streams wait for it: measured, not configured.

A decode is taken to cost `row_seconds + prompt tokens * token_seconds`. `observed` folds the time of each decode into
these two, `chunk_size` turns them into the tokens that fit into the longest wait allowed. All of it is pure; the
engine thread owns the `TickTimes` and the clock.

The model of the cost is crude: more rows, longer contexts and other work on the machine change both numbers. It need
not be better, because what the rows are wrongly said to cost is found again in the tokens' cost: the sum is right for
chunks of the size just measured, and each decode corrects the size of the next.

What the sum says is the middle, and streams notice the longest wait. So it is also measured how far decodes go beyond
it, much as RFC 6298 does for the round trips of TCP: the less even the machine is, the smaller are the chunks.
"""

from __future__ import annotations

import msgspec

# With fewer tokens, reading the weights is the larger part of a decode: the prompt would take many times as long, and
# streams would hardly notice the difference. So this much goes in even where the wait allowed is too short for it. With
# SmolLM2 on two cores, four tokens at position 2,900 cost 60 ms, and a row 7 to 11.
LEAST_CHUNK = 4

# How far an estimate goes towards a new measurement. A decode can be slow by accident (a page fault, another process)
# but not fast, so lower times are believed sooner: what the slow first decodes left behind halves with each.
FALL = 0.5
RISE = 0.25

# A measurement counts as at most this many times the estimate. One outlier, whatever its size, then raises the
# estimate by half (0.75 + 0.25 * 3) at most and is gone in a few decodes, while costs that have really grown tenfold
# are known to four fifths after seven.
MOST_AT_ONCE = 3.0

# A wait is filled up to what a decode takes that goes so many times as far beyond the expected as the mean does, those
# that do not counted as 0. Where times scatter evenly that is 1.6 standard deviations: one decode of 18 is longer.
BEYOND = 4.0

# How far that mean goes towards a new measurement: an eighth, so a slow decode is remembered for a second or so.
BEYOND_SHARE = 0.125

# A decode counts as at most this much beyond, and as much is left free at most, both as shares of what was expected. On
# a machine that is less even nobody can promise anything.
MOST_BEYOND = 0.5


class TickTimes(msgspec.Struct, frozen=True):
    """What decodes have cost of late, in seconds. Zero: not measured yet."""

    row_seconds: float = 0.0  # of a decode of rows alone
    token_seconds: float = 0.0  # what a prompt token adds to it
    beyond: float = 0.0  # how far decodes with prompts go beyond what was expected, in the mean, as a share of that


def observed(times: TickTimes, rows: int, prompt_tokens: int, seconds: float) -> TickTimes:
    """The times after a decode of `rows` decode rows and `prompt_tokens` took `seconds`."""
    row_seconds, token_seconds = times.row_seconds, times.token_seconds
    if not rows:
        return times  # nobody waited: a token of a large batch costs less than one of those that are waited for
    if not prompt_tokens:
        return TickTimes(_towards(row_seconds, seconds), token_seconds, times.beyond)
    beyond, added = _beyond(times, prompt_tokens, seconds), seconds - row_seconds
    if added > 0.0:
        # A decode of few prompt tokens says little about one: the unevenness of the rows' time is divided by few.
        weight = prompt_tokens / (prompt_tokens + LEAST_CHUNK)
        return TickTimes(row_seconds, _towards(token_seconds, added / prompt_tokens, weight), beyond)
    # Rows alone cannot cost more than these did together with a prompt. Without this, a time that is too long would
    # stay while prompts follow each other and no decode is of rows alone.
    return TickTimes(_towards(row_seconds, max(0.0, seconds - prompt_tokens * token_seconds)), token_seconds, beyond)


def chunk_size(times: TickTimes, max_stall_seconds: float, n_batch: int) -> int:
    """Prompt tokens for a decode that rarely lasts longer than `max_stall_seconds`.

    From `LEAST_CHUNK` (or `n_batch`, if that is less) to `n_batch`.
    """
    spare = max_stall_seconds / (1.0 + min(MOST_BEYOND, BEYOND * times.beyond)) - times.row_seconds
    tokens = 0  # the least, for one decode, where nothing was measured yet
    if spare > 0.0 and times.token_seconds > 0.0:
        tokens = int(min(n_batch, spare / times.token_seconds))
    return min(n_batch, max(LEAST_CHUNK, tokens))


def _beyond(times: TickTimes, prompt_tokens: int, seconds: float) -> float:
    """`TickTimes.beyond` after a decode of rows and a prompt."""
    expected = times.row_seconds + prompt_tokens * times.token_seconds
    if not times.token_seconds or not expected:
        return times.beyond
    share = min(MOST_BEYOND, max(0.0, seconds - expected) / expected)
    return times.beyond + (share - times.beyond) * BEYOND_SHARE


def _towards(estimate: float, measured: float, weight: float = 1.0) -> float:
    if estimate == 0.0:
        return measured
    measured = min(measured, MOST_AT_ONCE * estimate)
    return estimate + (measured - estimate) * weight * (FALL if measured < estimate else RISE)
