"""Whether copying cells is worth its time: rules over what an engine has measured of computing and copying. Pure.

A copy keeps the engine from computing. It is a gain where it takes little of the time in which its cells were computed,
and where putting them back takes less than computing them again. Without flash attention, on a GPU, each range is tens
of thousands of small copies: then neither is so, or only for long ranges, whose fixed part is shared by more tokens.

**What a copy costs** (`estimate`) is taken from past ones, by their size; of each size the fastest of the last few
counts, for other work only ever makes one slower. Costs are taken to be a fixed part and a part for each token, so that
between two sizes they lie on a line, a larger range is never cheaper, and a smaller one costs at least its share. What
was not measured is taken to be as cheap as that allows. Before the first copy nothing is known, and all is saved.

**The rule** (`is_worth`): a range is copied out where that takes a quarter of its computing time at most, and copying
it out and back takes no longer than computing it. A prompt that never comes again then loses a fifth of its speed at
most, and one hit makes up for it.

**Another try** (`copies_out`): no verdict is for ever, since a busy machine or a cold one may have been measured. So a
small share of all computing time is credited to copies that are not known to be worth it, and those that turn out not
to be are charged to it. The credit also pays for longer ranges to be tried, each some times as long as any before. So
however slow copies are, they take no more of the time than that share, and an engine finds out when they have become
fast; one that computes nothing tries nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import accumulate

import msgspec

# The most that copying a range out may take of its computing time. On an H200 a model of 8 billion parameters takes 27
# ms for 256 tokens, 5 to copy them out and 7 to put them back; without flash attention 343 and 290.
SHARE = 0.25

# Copies this short are always made: they are not felt, and what is measured of them is mostly chance.
SHORT = 0.001

# No real model computes tokens faster; a stub may.
LEAST_TOKEN_SECONDS = 0.00002

# A decode of fewer tokens does not show what a prompt costs: single rows take several times as long for each.
TYPICAL_TOKENS = 16

KEPT, RECENT = 4, 16  # copies of each size that count, of those that are kept: what has become slow is noticed
COMPUTED = 8  # decodes of prompts that count
TYPICAL_ROW = 256  # tokens of a row, where none is asked about

# Seconds of copies that a new engine may lose before it has computed anything; credit is refilled up to twice that. It
# holds some copies of ordinary models, however slow their first are, and about one where a copy takes a third of a
# second.
GRACE = 0.5
# The part of all computing time that may go into copies which are not worth it. It refills `GRACE` in 16 seconds.
CREDIT = 1 / 32

# A longer range is tried from this many times the length of the longest before on; at worst it takes as many times as
# long. It may have grown beyond that before there was credit for it, up to this many times again.
LEAP = 4

CHEAP = 8  # a copy that the credit holds so many times is tried whatever its length

Sample = tuple[int, float]  # tokens, seconds
Copies = tuple[Sample, ...]  # the last ones; the newest is the last


class Rates(msgspec.Struct, frozen=True):
    """What one engine has measured, and the seconds that it may spend on copies that are not known to be worth it."""

    computed: tuple[Sample, ...] = ()  # decodes of prompts
    out: Copies = ()
    into: Copies = ()
    credit: float = GRACE
    longest: int = 1 << 17  # the longest range that there can be: a context's, or what a buffer holds

    @property
    def token_seconds(self) -> float | None:
        """What a token of a prompt takes to compute; None where nothing is known.

        The median of decodes, by their tokens: a first one that is slow counts no more than another, and a short last
        slice for little.
        """
        if not self.computed:
            return None
        half = sum(tokens for tokens, _ in self.computed) / 2
        decodes = sorted(self.computed, key=lambda one: one[1] / one[0])
        sums = accumulate(tokens for tokens, _ in decodes)
        tokens, seconds = next(one for one, total in zip(decodes, sums, strict=True) if total >= half)
        return max(LEAST_TOKEN_SECONDS, seconds / tokens)

    def compute_seconds(self, tokens: int) -> float | None:
        """What `tokens` of a prompt take to compute; None where nothing is known."""
        each = self.token_seconds
        return None if each is None else tokens * each


# --- what was measured -------------------------------------------------------------------------------------------


def computed(rates: Rates, prompt_tokens: int, tokens: int, seconds: float) -> Rates:
    """The rates after a decode of `tokens` tokens, `prompt_tokens` of them of prompts."""
    seconds = max(0.0, seconds)
    credit = max(rates.credit, min(2 * GRACE, rates.credit + seconds * CREDIT))
    decodes = rates.computed
    if prompt_tokens >= TYPICAL_TOKENS:
        decodes = (*decodes, (tokens, seconds))[-COMPUTED:]
    return msgspec.structs.replace(rates, computed=decodes, credit=credit)


def copied_out(rates: Rates, tokens: int, seconds: float) -> Rates:
    """The rates after `tokens` tokens were copied out."""
    after = msgspec.structs.replace(rates, out=_with(rates.out, tokens, seconds))
    # The first copies are made before it is known how long the decode took: until then each is charged.
    if rates.token_seconds is not None and (_is_sure(rates, tokens) or is_worth(after, tokens)):
        return after
    return msgspec.structs.replace(after, credit=rates.credit - seconds)


def copied_into(rates: Rates, tokens: int, seconds: float) -> Rates:
    """The rates after `tokens` tokens were put back."""
    after = msgspec.structs.replace(rates, into=_with(rates.into, tokens, seconds))
    known = bool(rates.into) and puts_back(rates, (tokens,), tokens, 0.0)
    # A new engine restores before it computes: until it has, each copy is charged, for it may be a loss.
    if rates.token_seconds is not None and (known or puts_back(after, (tokens,), tokens, 0.0)):
        return after
    return msgspec.structs.replace(after, credit=rates.credit - seconds)


def _with(copies: Copies, tokens: int, seconds: float) -> Copies:
    return (*copies, (tokens, max(0.0, seconds)))[-RECENT:]


# --- what copies cost --------------------------------------------------------------------------------------------


def _points(copies: Copies) -> list[Sample]:
    """The fastest of the last copies of each power of two, shortest first, none slower than a longer one."""
    sizes: dict[int, list[Sample]] = {}
    for copy in reversed(copies):
        kept = sizes.setdefault(copy[0].bit_length(), [])
        if len(kept) < KEPT:
            kept.append(copy)
    points: list[Sample] = []
    for _, kept in sorted(sizes.items(), reverse=True):
        tokens, seconds = min(kept, key=lambda one: one[1])
        points.append((tokens, min(seconds, points[-1][1]) if points else seconds))
    return points[::-1]


def estimate(copies: Copies, tokens: int) -> float | None:
    """What a copy of `tokens` tokens takes at least, in seconds; None where nothing is known."""
    points = _points(copies)
    if not points:
        return None
    (last, slowest), (first, fastest) = points[-1], points[0]
    if tokens <= first:
        return fastest * tokens / first
    if tokens >= last:
        # Beyond the longest: on a line through it and one of half its length or less, if there is one.
        before, less = next((one for one in reversed(points) if one[0] <= last / 2), (0, slowest))
        each = min((slowest - less) / (last - before), slowest / last)
        return slowest + each * (tokens - last)
    right = next(index for index, (length, _) in enumerate(points) if length > tokens)
    (start, low), (end, high) = points[right - 1], points[right]
    return low + (high - low) * (tokens - start) / (end - start)


def _at_most(copies: Copies, tokens: int) -> float:
    """What a copy of `tokens` tokens takes at most, as far as that is known."""
    points = _points(copies)
    above = [seconds for length, seconds in points if length >= tokens]
    below = [seconds * tokens / length for length, seconds in points if length < tokens]
    return min(above + below, default=0.0)


# --- what is worth it --------------------------------------------------------------------------------------------


def is_worth(rates: Rates, tokens: int) -> bool:
    """Whether a range of `tokens` tokens is worth saving, as far as is known: see the module."""
    out, compute = estimate(rates.out, tokens), rates.compute_seconds(tokens)
    if out is None or compute is None or out <= SHORT:
        return True
    into = estimate(rates.into, tokens)
    return out <= SHARE * compute and out + (out if into is None else into) <= compute


def _is_sure(rates: Rates, tokens: int) -> bool:
    """Whether it is worth it by measurements of about this length, or would be at the worst."""
    compute, points = rates.compute_seconds(tokens), _points(rates.out)
    if compute is None or not points or not is_worth(rates, tokens):
        return False
    near = points[0][0] <= LEAP * tokens and tokens <= LEAP * points[-1][0]
    return near or _at_most(rates.out, tokens) <= max(SHORT, SHARE * compute)


def _lengths(rates: Rates) -> list[int]:
    """Lengths to be looked at, for the first that is worth it."""
    return [*(1 << power for power in range(8, (rates.longest - 1).bit_length())), rates.longest]


def saves(rates: Rates, tokens: int) -> bool:
    """Whether a range of `tokens` tokens is worth saving by what was measured, or nothing was."""
    return not rates.out or rates.token_seconds is None or _is_sure(rates, tokens)


def piece(rates: Rates, tokens: int, usual: int) -> int | None:
    """In pieces of how many tokens to copy `tokens` out, `usual` ones where these are worth it; None: not at all."""
    length = usual
    while not saves(rates, min(length, tokens)):
        if length >= tokens:
            return None
        length *= 2
    return length


def copies_out(rates: Rates, tokens: int) -> bool:
    """Whether a range of `tokens` tokens that is complete is copied out now. If not, it grows until the next end."""
    if saves(rates, tokens):
        return True
    cost = _at_most(rates.out, tokens)
    if rates.credit < min(GRACE, cost):
        return False
    # Cheap enough to be measured again at once, since a single time may be chance; or nothing hoped for has come.
    if rates.credit >= min(2 * GRACE, CHEAP * cost):
        return True
    longest = max(length for length, _ in _points(rates.out))
    return _next_try(rates, longest) <= tokens <= LEAP * LEAP * longest


def _next_try(rates: Rates, longest: int) -> int:
    """From which length on a range is tried again: a longer one than any so far, as long as it can be hoped to be worth
    it."""
    hoped = next((length for length in _lengths(rates) if is_worth(rates, length)), 0)
    return min(hoped, LEAP * longest)


def puts_back(rates: Rates, rows: Iterable[int], tokens: int, each: float) -> bool:
    """Whether putting rows of so many tokens back takes less time than computing the `tokens` that they save, of `each`
    seconds where nothing was measured here. Where this is not known yet, what copying out takes counts."""
    each = rates.token_seconds or each
    if each <= 0:
        return True
    lengths = list(rows)
    seconds = [estimate(rates.into, length) or estimate(rates.out, length) or 0.0 for length in lengths]
    # A row with the logits of a prompt's end saves a decode, if no token: that takes as long as some tokens do.
    return sum(seconds) <= max(SHORT * len(lengths), max(tokens, TYPICAL_TOKENS) * max(each, LEAST_TOKEN_SECONDS))


def may_try(rates: Rates, tokens: int) -> bool:
    """Whether a row of `tokens` tokens may be put back although that is not worth it, to measure it again."""
    known = _at_most(rates.into, tokens) or _at_most(rates.out, tokens)
    return rates.credit >= min(GRACE, known)


# --- in words ----------------------------------------------------------------------------------------------------


def why_not_saved(rates: Rates, tokens: int) -> str | None:
    """Why nothing is saved of `tokens` tokens; None where that is not known to be so."""
    out, compute = estimate(rates.out, tokens), rates.compute_seconds(tokens)
    if out is None or compute is None or saves(rates, tokens):
        return None
    if is_worth(rates, tokens):
        most = _shown(_at_most(rates.out, tokens))
        return f"copying {tokens} tokens out may take {most}, so long a row was not tried; computing {_shown(compute)}"
    into = estimate(rates.into, tokens)
    back = "" if into is None or out > SHARE * compute else f", putting them back {_shown(into)}"
    why = "" if back else f", of which a copy may take {SHARE:.0%}"
    return f"copying {tokens} tokens out takes {_shown(out)} or more{back}, and computing them {_shown(compute)}{why}"


def limits(rates: Rates) -> str | None:
    """What is not saved at all, and why; None where every row is, or is as far as is known."""
    why = why_not_saved(rates, TYPICAL_ROW)
    if why is None or is_worth(rates, TYPICAL_ROW):
        return None
    least = next((length for length in _lengths(rates) if _is_sure(rates, length)), None)
    what = "nothing is saved" if least is None else f"only rows of about {least} tokens or more are saved"
    return f"{what}: {why}"


def _shown(seconds: float) -> str:
    return f"{seconds * 1000:.3g} ms" if seconds < 1.0 else f"{seconds:.3g} s"
