"""Whether rows are worth reading for so many tokens more: what is spared against what it costs. Pure.

    tokens × seconds a token   against   FIXED_SECONDS + bytes / BYTES_PER_SECOND

The seconds a token are the rows' own: `RowMeta.prefill_seconds` for their spans, of those rows that have any. More
tokens, or dearer ones, never make rows less worth, and more bytes never more. Live cells that are shared cost nothing,
and are not weighed here.
"""

from __future__ import annotations

from collections.abc import Iterable

from erllama_py.tiers.messages import RowMeta

# Reading and restoring 5.9 MB took 2.7 ms from the page cache and 5.9 ms from a disk on two CPUs (2.2 and 1.0 GB/s);
# rows of 33 MB come to an H200 at 4 GB/s. So a CPU reads a row for a single token, which takes it milliseconds; the
# H200 with 8 billion parameters, at 0.1 ms a token, reads one of 256 tokens for 171 of them.
BYTES_PER_SECOND = 2.0e9
# What a row costs however short it is: an open file, its header, messages between threads.
FIXED_SECONDS = 0.0003
# No model computes tokens faster: where less was measured, it was not the model that was (the stub of the tests).
LEAST_TOKEN_SECONDS = 0.00002
# So many tokens are worth rows of which nobody knows what they took: those that an application has put there.
TOKENS_IF_UNKNOWN = 16


def is_worth(tokens: int, token_seconds: float, nbytes: int) -> bool:
    """Whether `nbytes` should be read to spare `tokens`; 0 seconds a token are unknown."""
    if token_seconds <= 0:
        return tokens >= TOKENS_IF_UNKNOWN
    return tokens * max(token_seconds, LEAST_TOKEN_SECONDS) >= FIXED_SECONDS + nbytes / BYTES_PER_SECOND


def token_seconds(metas: Iterable[RowMeta]) -> float:
    """What a token of these rows took to compute, on average over those of which it is known; 0 if of none."""
    seconds, tokens = 0.0, 0
    for meta in metas:
        if meta.prefill_seconds > 0:
            seconds += meta.prefill_seconds
            tokens += meta.end - meta.start
    return seconds / tokens if tokens else 0.0
