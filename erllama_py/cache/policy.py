"""What is saved of a prompt, and which rows are worth reading: pure functions over gates and measured times.

**Where rows end** (`prompt_ends`): on an absolute grid, so that prompts with a common beginning share rows whatever
follows; at anchors, where conversations diverge; and where prompts end (`turn_ends`), because a reply that does not
come back as it was generated leaves no row that the next turn could extend. The laws: ends ascend, each is on the grid
or fixed (an anchor, or the prompt's), and no two of one plan are closer than `LEAST_ROW_TOKENS` unless both are fixed
or the grid itself is finer.

**Where the next row begins** (`row_start`): where the last one ends. But each row of a recurrent state carries all of
it, so that a chat would keep a state for each of its turns. There a row takes in those before it that its prompt alone
would not have left, as far back as a grid's stride: they are removed once it is stored (`cache.replaced`). So a chat
leaves what its last prompt would have left, had it been computed at once.

**Whether rows are worth reading** (`is_worth`): what reading saves against what it costs.

    tokens × seconds a token   against   FIXED_SECONDS + bytes / BYTES_PER_SECOND

The seconds a token are the rows' own: `RowMeta.prefill_seconds` for their spans, of those rows that have any. More
tokens, or costlier ones, never lower the worth of rows, and more bytes never raise it. Live cells that are shared cost
nothing, and are not weighed here.

**How long to wait for them** (`read_seconds`): no longer than computing them took.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate

import msgspec

from erllama_py.options.policy import PolicyOpts
from erllama_py.tiers.messages import RowMeta

# Ends closer than this share one row. Not to save time: 32 tokens of a 135M model take 0.2 s on two cores, a synced
# file 5 to 20 ms. But a row has a file, however short it is: two syncs, a page or two beside its cells, and a header to
# be read whenever its directory is opened (10,000 of them: half a second), for a hit that is at most this much longer.
# A grid end this close to an anchor is left out.
LEAST_ROW_TOKENS = 32

# A recurrent state has a fixed size, however few tokens a row spans. Ends on the grid are spread out until the state
# costs no more than this for each token, which is what attention of a model of 7 billion parameters takes.
STATE_BYTES_PER_TOKEN = 64 << 10

# Reading and restoring 5.9 MB took 2.7 ms from the page cache and 5.9 ms from a disk on two CPUs (2.2 and 1.0 GB/s);
# rows of 33 MB come to an H200 at 4 GB/s. So a CPU reads a row for a single token, which takes it milliseconds; the
# H200 with 8 billion parameters, at 0.1 ms a token, reads one of 256 tokens for 171 of them.
BYTES_PER_SECOND = 2.0e9
# What a row costs however short it is: an open file, its header, messages between threads.
FIXED_SECONDS = 0.0003
# No real model computes tokens faster: a smaller number is not a model's (the stub of the tests gives such).
LEAST_TOKEN_SECONDS = 0.00002
# How long a row may take to come. At least so long, for computing a few tokens takes a fraction of it and a disk may be
# busy; and no longer than a caller waits for a tier at all.
LEAST_READ_SECONDS = 2.0
MOST_READ_SECONDS = 60.0
# Rows whose compute time is unknown, because an application put them there, are read for this many tokens.
TOKENS_IF_UNKNOWN = 16


def grid_stride(policy: PolicyOpts, state_bytes: int) -> int:
    """Tokens between two ends on the grid: a multiple of `boundary_align_tokens`."""
    align = policy.boundary_align_tokens
    return align * max(1, -(-state_bytes // (STATE_BYTES_PER_TOKEN * align)))


def turn_ends(n_tokens: int, endings: Sequence[int], *, least: int) -> tuple[int, ...]:
    """Where the rows of a prompt end because the next turn diverges from it, or extends it; never empty.

    `endings` are the places that its chat template tells, ascending; without one it is the prompt's end. Of those among
    its last tokens each has a row where the row before it is longer than `least`: what opens a reply is a few tokens.
    """
    late = n_tokens - LEAST_ROW_TOKENS
    ends = [end for end in endings if end <= late]
    near = [end for end in endings if late < end <= n_tokens] or [n_tokens]
    ends.append(near[0])
    for end in near[1:]:
        if end > ends[-1] + least:
            ends.append(end)
    return tuple(ends)


def least_opening(state_bytes: int, *, cuttable: bool) -> int:
    """`least` for `turn_ends`. Where a sequence is `cuttable`, what opens a reply is used in part, as tokens of the
    reply's row. Else it would be computed again, and has a row of its own, unless a state costs too much for that."""
    return LEAST_ROW_TOKENS if cuttable else state_bytes // STATE_BYTES_PER_TOKEN


def prompt_ends(
    n_tokens: int, policy: PolicyOpts, anchors: Sequence[int], *, stride: int, last: Sequence[int]
) -> tuple[int, ...]:
    """Where the rows of a prompt of `n_tokens` tokens end, from its start.

    The grid goes up to `boundary_trim_tokens` before the prompt's end. `last` are the `turn_ends`: with the prompt
    itself where they would be too early, so that the row of its reply begins there; none of a prompt of which only the
    grid is saved.
    """
    if policy.min_tokens is None or n_tokens < (policy.cold_min_tokens or policy.min_tokens):
        return ()
    if policy.cold_max_tokens is not None and n_tokens > policy.cold_max_tokens:
        return ()
    fixed = {end for end in (*anchors, *last) if policy.min_tokens <= end <= n_tokens}
    if last and not any(end in fixed for end in last):
        fixed.add(n_tokens)
    ends = set(fixed)
    for end in range(stride, n_tokens - policy.boundary_trim_tokens + 1, stride):
        if end >= policy.min_tokens and all(abs(end - other) >= LEAST_ROW_TOKENS for other in fixed):
            ends.add(end)
    return tuple(sorted(ends))


def row_start(saved: Mapping[int, int], ends: Sequence[int], *, apart: int) -> int:
    """Where the next row of a prompt begins, which has rows in `saved`, where each begins by where it ends, and which
    itself would have rows up to `ends`.

    The last place that stays: one of `ends`, or the end of a row of `apart` tokens that begins at such a place. No more
    than twice as many are taken in but for the last row. Without `ends` it is the last place of all.
    """
    own, stays, last = set(ends), 0, 0
    for last in sorted(saved):
        tokens = last - stays
        if last in own or tokens >= 2 * apart or (tokens >= apart and saved[last] == stays):
            stays = last
    return stays if own else last


class KeepFor(msgspec.Struct, frozen=True):
    """Keep what is saved of a prompt up to a token, for so many seconds from each use on."""

    position: int
    seconds: float


def keep_seconds(start: int, keeps: Iterable[KeepFor]) -> float:
    """For how long to keep a row that begins at `start`: as the longest asks of those that need it; 0.0: not at all."""
    return max((keep.seconds for keep in keeps if keep.position > start), default=0.0)


def is_worth(tokens: int, token_seconds: float, nbytes: int) -> bool:
    """Whether `nbytes` should be read to save computing `tokens`; 0 seconds a token means unknown."""
    if token_seconds <= 0:
        return tokens >= TOKENS_IF_UNKNOWN
    return tokens * max(token_seconds, LEAST_TOKEN_SECONDS) >= FIXED_SECONDS + nbytes / BYTES_PER_SECOND


def token_seconds(metas: Iterable[RowMeta]) -> float:
    """What a token of these rows took to compute, on average over the rows that have a time; 0 if none has."""
    seconds, tokens = 0.0, 0
    for meta in metas:
        if meta.prefill_seconds > 0:
            seconds += meta.prefill_seconds
            tokens += meta.end - meta.start
    return seconds / tokens if tokens else 0.0


def read_seconds(metas: Sequence[RowMeta]) -> list[float]:
    """How long to wait for each row of a chain: no longer than computing it and those after it took, within bounds.

    A request that waits longer would have been faster without them.
    """
    computing = [max(0.0, meta.prefill_seconds) for meta in reversed(metas)]
    limits = [min(MOST_READ_SECONDS, max(LEAST_READ_SECONDS, seconds)) for seconds in accumulate(computing)]
    return limits[::-1]
