"""What a prompt starts from: live cells, rows of the cache, or nothing. Pure.

The laws: what is kept is a prefix of the prompt; its last token is computed unless its logits are known; no memory
is cut where it cannot be; a row is restored whole, after the one before it, and only the last one may be cut back;
rows are taken where they give enough more than the live cells do that reading them, and putting them into cells, takes
less time than it saves. Where the engine has measured that it does not, rows may be tried, to measure that again.

On a `grid` what is kept ends at a multiple of it, before the prompt's last token, and kept logits are of no use: all
from there on is computed as it would be for a prompt that was never seen.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from erllama_py.cache.keys import TOKEN_BYTES, common_prefix
from erllama_py.cache.messages import Hit, Located
from erllama_py.cache.policy import is_worth, token_seconds
from erllama_py.engine.backend import MemoryKind
from erllama_py.engine.rates import Rates, may_try, puts_back, why_not_saved
from erllama_py.results import CacheHitKind
from erllama_py.scheduler.cells import Slot

UNKNOWN = Rates()
NOT_WORTH = "what is saved takes longer to read than to compute"
NOT_CUTTABLE = "the last row that is saved cannot be cut back to before the prompt's last token"


class Reuse(msgspec.Struct, frozen=True):
    """How many tokens of the prompt to keep, and why not more (`None` when all but the last are kept)."""

    keep: int
    miss_reason: str | None


def reusable(
    slot: Slot, prompt: bytes, memory: MemoryKind, n_swa: int, *, with_logits: bool = False, grid: int | None = None,
    limit: int | None = None,
) -> Reuse:  # fmt: skip
    """How much of `slot` a `prompt` may keep: all of it only `with_logits`, those at its end, and without a `grid`; no
    more than `limit` tokens.

    Full attention can be cut back anywhere. A sliding window can be cut back only to where the window
    before the cut is still whole. A recurrent state cannot be cut back at all: it is kept when the prompt
    goes on where it stands, else dropped.
    """
    if not slot.packed:
        return Reuse(0, "nothing is live")
    length = len(prompt) // TOKEN_BYTES
    common = common_prefix(slot.packed, prompt)
    most = capped(length if with_logits and grid is None else length - 1, limit)
    keep = on_grid(min(common, most), grid)
    parted = None
    if keep < most:
        ends = common == slot.length
        parted = f"{'what is live ends' if ends else 'the prompt diverges from the live sequence'} at token {common}"
    if keep == 0:
        return Reuse(0, parted)
    if keep < slot.length:
        if memory in ("recurrent", "hybrid"):
            return Reuse(0, "a recurrent state cannot be cut back, and the prompt does not go on where it stands")
        if memory == "window" and slot.first > max(0, keep - n_swa):
            return Reuse(0, "the sliding window before the common prefix's end is gone")
    return Reuse(keep, parted)


def on_grid(length: int, grid: int | None) -> int:
    """The last multiple of `grid` that is no more than `length`; `length` where there is none."""
    return length if grid is None else length // grid * grid


def capped(length: int, limit: int | None) -> int:
    """`length`, or `limit` where that is less."""
    return length if limit is None else min(length, limit)


class Start(msgspec.Struct, frozen=True, kw_only=True):
    """How a request begins: keep `live` tokens of the sequence, restore `rows` after them, continue from `keep`."""

    kind: CacheHitKind
    live: int
    rows: tuple[Located, ...]
    keep: int
    by_logits: bool  # `keep` is the whole prompt: the first token is drawn from logits that were kept
    miss_reason: str | None
    trying: bool = False  # the rows are not worth it by what was measured, and show whether that still holds


def is_cuttable(memory: MemoryKind) -> bool:
    """Whether a restored sequence can be cut back within its last row (a window: see `usable_rows`)."""
    return memory in ("full", "window")


def can_shorten(start: int, end: int, memory: MemoryKind, n_swa: int) -> bool:
    """Whether a row of `[start, end)` can be cut back once it is restored. A row as long as the sliding window may lack
    cells that a cut would need; a recurrent state is never cut."""
    return memory == "full" or (memory == "window" and end - start < n_swa)


def usable_rows(
    hit: Hit | None, n_tokens: int, memory: MemoryKind, n_swa: int, live_logits: bool | None, grid: int | None = None,
    limit: int | None = None,
) -> tuple[tuple[Located, ...], int, bool]:  # fmt: skip
    """The rows of a hit that help, how many tokens they give, and whether that is the whole prompt with logits.

    If the prompt's last token must be computed again, the sequence is cut back by one, within its last row. If that is
    impossible, the row that ends there is left out, and what whole rows reach without it is used.

    The same where no more than `limit` tokens may be kept.

    Of a row that is longer than the sliding window the cells before that window are not there, and the others lie
    elsewhere than they did: on a `grid` it ends the chain.
    """
    if hit is None or not hit.chain:
        return (), 0, False
    ends = {row.meta.end: row for row in (*hit.chain[:-1], *hit.reached)}
    gapped = _gapped(ends, n_swa) if grid is not None and memory == "window" else None
    shorter_ones = sorted((end for end in ends if end < hit.length), reverse=True)
    for length in (hit.length, *shorter_ones):
        last = (hit.chain[-1] if length == hit.length else ends[length]).meta
        whole = length == n_tokens
        known = live_logits or (last.end == length and last.logits_bytes > 0)
        by_logits = whole and live_logits is not None and known and grid is None and capped(length, limit) == length
        wanted = on_grid(capped(length - 1 if whole and not by_logits else length, limit), grid)
        shorter = can_shorten(last.start, last.end, memory, n_swa)
        gaps = gapped is not None and (last.end - last.start > n_swa or gapped[last.start])
        if wanted > last.start and (wanted == last.end or shorter) and not gaps:
            return hit.chain if length == hit.length else _chain_to(ends, length), wanted, by_logits
    return (), 0, False


def _gapped(ends: dict[int, Located], n_swa: int) -> dict[int, bool]:
    """Whether any row up to an end is longer than the sliding window."""
    gapped = {0: False}
    for end in sorted(ends):
        start = ends[end].meta.start
        gapped[end] = end - start > n_swa or gapped[start]
    return gapped


def _chain_to(ends: dict[int, Located], length: int) -> tuple[Located, ...]:
    chain: list[Located] = []
    while length:
        chain.append(ends[length])
        length = chain[-1].meta.start
    return tuple(chain[::-1])


def choose_start(
    slot: Slot, prompt: bytes, memory: MemoryKind, n_swa: int, hit: Hit | None, live_logits: bool | None, *,
    min_tokens: int | None = 0, grid: int | None = None, limit: int | None = None, rates: Rates = UNKNOWN,
) -> Start:  # fmt: skip
    """The best start for a prompt. `hit` is what the cache has, `live_logits` whether the prompt's are at hand.

    None if kept logits could not be used: the last token is computed again anyway. `min_tokens`
    is the gate of what is saved, for the reason of a miss; `limit` is the most that may be kept; `rates` are what the
    engine has measured.
    """
    n_tokens = len(prompt) // TOKEN_BYTES
    missed = describe_miss(hit, n_tokens, min_tokens, rates)
    live = reusable(slot, prompt, memory, n_swa, with_logits=bool(live_logits), grid=grid, limit=limit)
    rows, length, by_logits = usable_rows(hit, n_tokens, memory, n_swa, live_logits, grid, limit)
    if missed is None and length < capped(n_tokens - 1, limit):
        missed = NOT_CUTTABLE
    at_end = bool(live_logits) and live.keep == n_tokens
    base = live.keep if memory == "full" else 0
    to_read = tuple(row for row in rows if row.meta.end > base)
    nbytes = sum(row.nbytes for row in to_read)
    gains = length > live.keep and is_worth(length - live.keep, token_seconds(row.meta for row in to_read), nbytes)
    # Rows that end with the prompt and have its logits save even the one decode.
    wanted = bool(rows) and (gains or (by_logits and not at_end))
    trying = wanted and not pays(rates, to_read, length - live.keep)
    wanted = wanted and (not trying or may_try(rates, to_read[0].meta.end - to_read[0].meta.start))
    if not wanted:
        slow = not rows and _slow(hit, n_tokens, rates) is not None  # of more use to know than where live cells end
        miss = live.miss_reason if live.keep and not slow else NOT_WORTH if rows else missed
        kind: CacheHitKind = "live" if live.keep else "cold"
        return Start(kind=kind, live=live.keep, rows=(), keep=live.keep, by_logits=at_end, miss_reason=miss)
    exact = hit is not None and hit.exact and length >= n_tokens - 1
    return Start(
        kind="exact" if exact else "partial", live=to_read[0].meta.start, rows=to_read, keep=length,
        by_logits=by_logits, miss_reason=None if exact else missed, trying=trying,
    )  # fmt: skip


def pays(rates: Rates, rows: Sequence[Located], tokens: int) -> bool:
    """Whether putting rows into cells takes less time than computing the `tokens` that they give."""
    lengths = [row.meta.end - row.meta.start for row in rows]
    return puts_back(rates, lengths, tokens, token_seconds(row.meta for row in rows))


def describe_miss(hit: Hit | None, n_tokens: int = 0, min_tokens: int | None = 0, rates: Rates = UNKNOWN) -> str | None:
    """Why the cache had no more, in words; None when it had all. `min_tokens` is the gate of what is saved, `rates` are
    what the engine has measured."""
    if hit is None:
        return "the cache is not running"
    if hit.miss is None:
        return None
    if not hit.length and min_tokens is None:
        return "nothing is saved, because min_tokens is None"
    if not hit.length and min_tokens is not None and n_tokens < min_tokens:
        return f"prompts below min_tokens ({min_tokens}) are not saved"
    position = hit.miss.position
    slow = _slow(hit, n_tokens, rates)
    if slow is not None and hit.miss.reason == "empty":
        return f"nothing is saved: {slow}"
    missed = {
        "empty": "nothing is saved for this model",
        "other_parameters": "what is saved for this model was made with other settings, or by another build",
        "diverges": f"the prompt diverges from what is saved at token {position}",
        "ends": f"what is saved ends at token {position}",
        "saving": f"what follows token {position} is still being saved",
        "evicted": f"what followed token {position} was evicted",
        "bad": f"what followed token {position} was found to be damaged",
    }[hit.miss.reason]
    return missed if slow is None else f"{missed}, and no more is saved: {slow}"


def _slow(hit: Hit | None, n_tokens: int, rates: Rates) -> str | None:
    """Why the cache has no more, where that is because copying takes too long."""
    if hit is None or hit.miss is None or hit.miss.reason not in ("empty", "ends", "diverges"):
        return None
    return why_not_saved(rates, n_tokens)
