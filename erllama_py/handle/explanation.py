"""A look-up in words: what would hit, from where, and why not more. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from erllama_py.cache.keys import TOKEN_BYTES, Identity, common_prefix
from erllama_py.cache.messages import Hit
from erllama_py.engine.rates import Rates
from erllama_py.results import CachedPrefix, Explanation
from erllama_py.scheduler.messages import SessionKey
from erllama_py.scheduler.reuse import UNKNOWN, describe_miss, reusable
from erllama_py.scheduler.stages import is_prefilled, sought
from erllama_py.scheduler.state import State


def explain(hit: Hit | None, tokens: Sequence[int], min_tokens: int | None, rates: Rates = UNKNOWN) -> Explanation:
    """What `hit` means for a prompt, where what is shorter than `min_tokens` is not saved, nor what would take too long
    at these `rates`.

    The text of the token at `position` is left to the caller, which has the vocabulary.
    """
    rows = hit.chain if hit is not None else ()
    return Explanation(
        prompt_tokens=len(tokens), hit_tokens=hit.length if hit is not None else 0,
        tiers=tuple(dict.fromkeys(row.tier for row in rows)), rows=len(rows), nbytes=sum(row.nbytes for row in rows),
        miss_reason=describe_miss(hit, len(tokens), min_tokens, rates),
        position=hit.miss.position if hit is not None and hit.miss is not None else None,
    )  # fmt: skip


def cached_prefixes(hit: Hit | None) -> list[CachedPrefix]:
    """Each row's end is a prefix; a last row that matches only in part counts for what matches."""
    if hit is None:
        return []
    nbytes = {0: 0}  # of the rows up to there
    prefixes = []
    for row in hit.reached:
        nbytes[row.meta.end] = nbytes[row.meta.start] + row.nbytes
        prefixes.append(CachedPrefix(row.meta.end, row.tier, nbytes[row.meta.end]))
    if hit.chain and (last := hit.chain[-1]).meta.end > hit.length:
        prefixes.append(CachedPrefix(hit.length, last.tier, nbytes[last.meta.start] + last.nbytes))
    return prefixes


def longest_live(state: State, identity: Identity, prompt: bytes) -> int:
    """How many tokens of a prompt lie in cells that a request could begin with now."""
    limits = state.limits
    idle = (slot for slot in state.idle if slot.identity == identity)
    lengths = [reusable(slot, prompt, limits.memory, limits.n_swa, with_logits=True).keep for slot in idle]
    if limits.memory == "full":
        computed = (sought(one) for one in state.placed.values() if is_prefilled(one))
        lengths += [common_prefix(one.packed, prompt) for one in computed if one.identity == identity]
    return max(lengths, default=0)


def session_parting(state: State, session: SessionKey | None, prompt: bytes) -> tuple[int, int] | None:
    """Where a prompt diverges from what its session holds, and the token that is held there; None where it extends it.

    What a turn at work will hold counts as held.
    """
    for slot in state.slots:
        if session is not None and slot.session == session:
            packed = slot.packed if slot.request_id is None else sought(state.placed[slot.request_id]).packed
            place = TOKEN_BYTES * common_prefix(packed, prompt)
            if place < len(packed):
                return place // TOKEN_BYTES, int.from_bytes(packed[place : place + TOKEN_BYTES], "little")
    return None
