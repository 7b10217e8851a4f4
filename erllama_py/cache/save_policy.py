"""Where a prompt's rows end, and what is saved at all: pure functions over the gates of `PolicyOpts`.

Rows end on an absolute grid, so that prompts with a common beginning share rows whatever follows, and at anchors,
where conversations part company. The laws: ends ascend, each is on the grid or fixed (an anchor, or the end of a
prompt that cannot be cut back), and no two of one plan are closer than `LEAST_ROW_TOKENS` unless both are fixed or the
grid itself is finer.
"""

from __future__ import annotations

from collections.abc import Sequence

from erllama_py.options.model import PolicyOpts

# Closer ends are one row. Not for the time: 32 tokens of a 135M model take 0.2 s on two cores, a synced file 5 to 20
# ms. But a row has a file, however short it is: two syncs, a page or two beside its cells, and a header to be read
# whenever its directory is opened (10,000 of them: half a second), for a hit that is at most this much longer. A grid
# end this close to an anchor is left out.
LEAST_ROW_TOKENS = 32

# A recurrent state has a fixed size, however few tokens a row spans. Ends on the grid are spread out until the state
# costs no more than this for each token, which is what attention of a model of 7 billion parameters takes.
STATE_BYTES_PER_TOKEN = 64 << 10


def grid_stride(policy: PolicyOpts, state_bytes: int) -> int:
    """Tokens between two ends on the grid: a multiple of `boundary_align_tokens`."""
    align = policy.boundary_align_tokens
    return align * max(1, -(-state_bytes // (STATE_BYTES_PER_TOKEN * align)))


def prompt_ends(
    n_tokens: int, policy: PolicyOpts, anchors: Sequence[int], *, stride: int, cuttable: bool
) -> tuple[int, ...]:
    """Where the rows of a prompt of `n_tokens` tokens end, from its start.

    The grid goes up to `boundary_trim_tokens` before the prompt's end. Where the sequence cannot be cut back
    (`cuttable` is false) a row ends with the prompt too: an exact repeat has nowhere else to start from.
    """
    if policy.min_tokens is None or n_tokens < (policy.cold_min_tokens or policy.min_tokens):
        return ()
    if policy.cold_max_tokens is not None and n_tokens > policy.cold_max_tokens:
        return ()
    fixed = {anchor for anchor in anchors if policy.min_tokens <= anchor < n_tokens}
    if not cuttable:
        fixed.add(n_tokens)
    ends = set(fixed)
    for end in range(stride, n_tokens - policy.boundary_trim_tokens + 1, stride):
        if end >= policy.min_tokens and all(abs(end - other) >= LEAST_ROW_TOKENS for other in fixed):
            ends.add(end)
    return tuple(sorted(ends))
