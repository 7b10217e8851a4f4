"""How many prompt tokens a decode may take while streams wait for it: measured, not configured.

A decode is modelled as costing `row_seconds + prompt tokens * token_seconds`. `observed` folds the time of each decode
into the estimates, `chunk_size` turns them into the tokens that fit into the longest wait allowed. All of it is pure;
the engine thread owns the `TickTimes` and the clock.

The longest wait allowed is `max_stall_seconds`, or twice what the rows cost by themselves if that is more. Rows can be
so slow that a prompt would find hardly any room beside them, or none: it would take for ever, and its slices would
hardly be felt by the streams. So prompts always get as much time as the rows. Both then take at most twice as long as
each by itself; with any other share one of them loses more.

What a token costs depends on the size of the slice (the numbers are in `docs/benchmarks.md`), so it is
measured for each power of two. The cost of a row is measured by decodes of rows alone. Where prompts follow each other
there are none, so now and then a decode is left to the rows: without it the two costs could not be separated.

The sum predicts the average, but streams notice the longest wait. So how far decodes exceed it is measured too, much as
RFC 6298 does for round trips of TCP: the less even the machine, the smaller the chunks.
"""

from __future__ import annotations

import msgspec

# Fewest prompt tokens beside rows. A token costs 2.5 ms in a slice of four and 6 alone (SmolLM2 on two cores; 2.2 where
# 512 are read at a time), and a prompt must advance even where four are too many.
LEAST_CHUNK = 4

# From `GRAIN_FROM` on, rows and prompt tokens together are a multiple of `GRAIN`, for where llama.cpp repacks quantised
# weights, it multiplies four tokens at a time, and what is left over one by one. Gemma 3 in Q4_K_M on two cores: a row
# and 15 tokens take 38 ms, a row and 16 take 43; 69 and 76 with 31 and 32. With fewer it costs nothing measurable.
GRAIN, GRAIN_FROM = 4, 16

# Flash attention on a CPU takes 64 tokens at a time, and what is left over costs nearly as much: after 2,700 tokens, a
# row and 63 take 245 ms with SmolLM2, a row and 67 take 292. So a tile is not begun for an eighth of it.
TILE = 64

# What prompts may always take, as a share of what the rows cost by themselves. With a share `r`, streams take up to
# `1 + r` times as long as without prompts, and prompts up to `(1 + r) / r` times as long as without streams: 2 and 2.
SHARE = 1.0

# One decode in this many is left to the rows. Their tokens are wanted anyway, so the prompts lose a sixteenth of what
# the rows cost: a percent where these are a tenth of a decode, three where they are half of it.
ROWS_ALONE_EVERY = 16

# What rows cost is the mean of this many decodes without the slowest: one outlier changes nothing, and a real change
# shows with the second. It must not be too low: what rows take beyond it is attributed to the prompt's tokens, slices
# become smaller, and in a small slice the two cannot be separated.
KEPT = 3

# The weight of a new measurement in an estimate. Costs grow while a prompt is read, since its tokens look back at
# ever more, so an estimate that follows slowly is always too low: with a quarter, 3 % at the end of 2,800 tokens.
GAIN = 0.5

# The same for the growth of costs from one decode to the next: a decode of 370 ms costs 8 % more than the last.
DRIFT = 0.25

# A decode that takes this many times as long as expected is a surprise, and may be an accident (a page fault, another
# process): it counts for nothing, but the next one is left to the rows, to learn what they cost now. Two in a row are
# believed.
SURPRISE = 2.0

# How far the estimates for other sizes follow, as an exponent of the factor by which one changes: it is half the
# machine that has changed, and half the size that is different.
OTHERS = 0.5

# How far the estimate for larger slices comes down to that of the slice just measured. They do not cost more by nature,
# so a bad measurement is forgotten, and they are tried again.
FORGET = 0.25

# Chunks leave room for a decode that exceeds its expected time by this many times the mean excess (0 counts where there
# is none). Where times scatter evenly that is two standard deviations: one decode of 40 is longer.
BEYOND = 5.0

# The weight of a new measurement in that mean: an eighth, so a slow decode is remembered for a second or so.
BEYOND_SHARE = 0.125

# The most that an excess counts for, and the most room that is left for it, both as shares of the expected time. On a
# machine that is less even nothing can be promised.
MOST_BEYOND = 0.5

CLOCK = 1e-9  # no decode is shorter
MOST_SECONDS = 1e6  # and no token costs more: estimates stay finite, however often they are scaled

SIZES = 13  # powers of two up to 4096 tokens in a decode; larger ones count as that


class TickTimes(msgspec.Struct, frozen=True):
    """What recent decodes have cost, in seconds. Zero: not measured yet."""

    rows: tuple[float, ...] = ()  # the last decodes of rows alone, `KEPT` at most
    tokens: tuple[float, ...] = (0.0,) * SIZES  # what a prompt token adds, by the `_size` of the decode
    row_then: float = 0.0  # `row_seconds` when tokens were measured last
    since: int = 0  # decodes with prompts since the last one of rows alone
    drift: float = 0.0  # by which part tokens cost more from one decode to the next
    ratio: float = 1.0  # what the last one with a prompt took, of what was expected
    beyond: float = 0.0  # mean excess of decodes with prompts over the expected time, as a share of that

    @property
    def row_seconds(self) -> float:
        """Of a decode of rows alone."""
        kept = sorted(self.rows)[: max(1, len(self.rows) - 1)]
        return sum(kept) / len(kept) if kept else 0.0

    def token_seconds(self, total: int) -> float:
        """What a prompt token adds to a decode of `total` tokens, rows included; before that was measured, what it adds
        to a smaller decode, else to a larger one."""
        size = _size(total)
        known = [*reversed(self.tokens[: size + 1]), *self.tokens[size + 1 :]]
        return next((seconds for seconds in known if seconds), 0.0) * self.dearer

    @property
    def dearer(self) -> float:
        """How many times as long a token is expected to take as when it was measured: it grows by the drift, and where
        rows have become slower, so may tokens have."""
        return (1.0 + self.drift) * (max(1.0, self.row_seconds / self.row_then) if self.row_then else 1.0)


def observed(times: TickTimes, rows: int, prompt_tokens: int, seconds: float) -> TickTimes:
    """The times after a decode of `rows` decode rows and `prompt_tokens` took `seconds`."""
    if not rows:
        return times  # no stream waited: a token of a large batch costs less than in slices that streams wait for
    seconds = max(seconds, CLOCK)
    if not prompt_tokens:
        return msgspec.structs.replace(times, rows=(*times.rows, seconds)[-KEPT:], since=0)
    row, total, each = times.row_seconds, rows + prompt_tokens, times.token_seconds(rows + prompt_tokens)
    expected = row + prompt_tokens * each
    ratio = seconds / expected if each else 1.0
    beyond = times.beyond + (min(MOST_BEYOND, max(0.0, ratio - 1.0)) - times.beyond) * BEYOND_SHARE
    kept = times.rows
    added, others, drift = max(0.0, seconds - row) / prompt_tokens, 1.0, 0.0
    if not each:
        now = added
    elif min(ratio, times.ratio) >= SURPRISE and times.rows and times.rows[-1] < seconds:
        # What rows cost now is known from the decode in between, and the rest is the tokens'. Beside few of them it may
        # as well be the rows' that time: none costs more by a larger factor than the whole has.
        kept, row = times.rows[-1:], times.rows[-1]
        now = min(each * ratio, (seconds - row) / prompt_tokens)
        others = now / each
    elif SURPRISE * seconds <= row:
        # All has become faster. What rows cost now is found out with the next decode.
        kept, row, now, others = (), row * ratio, each * ratio, ratio
    elif ratio >= SURPRISE:
        now = each
    else:
        # The smaller the part of the decode that its prompt tokens are, the less it says of them, and of their drift.
        part = prompt_tokens * each / expected
        news = (added / each - 1.0) * part
        now = min(each * (1.0 + GAIN * news), seconds / prompt_tokens)
        others, drift = (now / each) ** OTHERS, min(MOST_BEYOND, max(0.0, times.drift + DRIFT * news * part))
    return TickTimes(
        rows=kept, tokens=_tokens(times, total, now, others), row_then=row, drift=drift,
        since=ROWS_ALONE_EVERY if ratio >= SURPRISE else times.since + 1, ratio=ratio, beyond=beyond,
    )  # fmt: skip


def chunk_size(times: TickTimes, rows: int, max_stall_seconds: float, n_batch: int) -> int:
    """Prompt tokens for a decode of `rows` rows that rarely lasts longer than `max_stall_seconds` or
    twice the time of the rows.

    From `LEAST_CHUNK` to what `n_batch` has room for; 0 when the cost of rows alone is to be measured.
    """
    room = max(0, n_batch - rows)
    if not times.rows or times.since >= ROWS_ALONE_EVERY:
        return 0
    uneven = 1.0 + min(MOST_BEYOND, BEYOND * times.beyond)
    spare = max(max_stall_seconds / uneven - times.row_seconds, SHARE * times.row_seconds)
    tokens = 0  # the least, for one decode, where nothing was measured yet
    largest = max((size for size in range(SIZES) if times.tokens[size]), default=0)
    for size in reversed(range(min(SIZES, largest + 2))):  # a size is tried when the next smaller one was
        each = times.token_seconds(1 << size >> 1)
        fit = min(room, int(min(room, spare / each))) if each else 0
        if _size(rows + fit) >= size:
            tokens = min(fit, (1 << size) - 1 - rows) if size < SIZES - 1 else fit
            break
    if tokens < room and rows + tokens >= GRAIN_FROM:
        over = (rows + tokens) % TILE
        tokens -= over if 8 * over <= TILE < rows + tokens else over % GRAIN
    return min(room, max(LEAST_CHUNK, tokens))


def _size(total: int) -> int:
    return min(SIZES - 1, total.bit_length())


def _tokens(times: TickTimes, total: int, now: float, others: float) -> tuple[float, ...]:
    """`TickTimes.tokens` when a token of a decode of `total` is found to cost `now`, and the others change with it."""
    measured = _size(total)
    seconds = [min(MOST_SECONDS, one * times.dearer * others) for one in times.tokens]
    seconds[measured] = now
    for size in range(1, measured):
        # No smaller slice costs more than all of this one. Without that bound an estimate made in a slow spell would
        # stay, and a slice that is a little too small for its size would fall through to one of four tokens.
        seconds[size] = min(seconds[size], now * total / ((1 << size) - 1))
    for size in range(measured + 1, SIZES):
        seconds[size] -= max(0.0, seconds[size] - now) * FORGET
    return tuple(seconds)
