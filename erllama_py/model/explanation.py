"""A look-up in words: what would hit, from where, and why not more. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from erllama_py.cache.messages import Hit
from erllama_py.model.reuse import describe_miss
from erllama_py.results import CachedPrefix, Explanation


def explain(hit: Hit | None, tokens: Sequence[int], min_tokens: int | None) -> Explanation:
    """What `hit` means for a prompt, where what is shorter than `min_tokens` is not saved.

    The text of the token at `position` is left to whoever has the vocabulary.
    """
    rows = hit.chain if hit is not None else ()
    return Explanation(
        prompt_tokens=len(tokens),
        hit_tokens=hit.length if hit is not None else 0,
        tiers=tuple(dict.fromkeys(row.tier for row in rows)),
        rows=len(rows),
        nbytes=sum(row.nbytes for row in rows),
        miss_reason=describe_miss(hit, len(tokens), min_tokens),
        position=hit.miss.position if hit is not None and hit.miss is not None else None,
    )


def cached_prefixes(hit: Hit | None) -> list[CachedPrefix]:
    """Each row's end is a prefix; a last row that matches only in part counts for what matches."""
    prefixes, nbytes = [], 0
    for row in hit.chain if hit is not None else ():
        nbytes += row.nbytes
        end = min(row.meta.end, hit.length) if hit is not None else 0
        prefixes.append(CachedPrefix(end, row.tier, nbytes))
    return prefixes
