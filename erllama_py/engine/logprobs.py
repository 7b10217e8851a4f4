"""How likely tokens are: log-probabilities out of logits, and the likeliest tokens with theirs.

A log-probability is `logit - log(sum(exp(logits)))`, the natural logarithm of the softmax; the sum is taken relative
to the best logit, so that nothing overflows. Tokens that cannot be drawn, with a logit of `-inf`, are not listed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy

from erllama_py.engine.backend import Likeliest, SpoiledLogits, Vocabulary
from erllama_py.results import TokenLogprob, TopLogprob

_MOST = float(numpy.finfo("f4").max)


def log_total(logits: Any) -> float:
    """`log(sum(exp(logits)))` of an array of floats, at least one of which is finite."""
    best = float(logits.max())
    shares = logits - best
    return best + math.log(float(numpy.exp(shares, out=shares).sum()))


def of_row(row: Any, token: int, ids: Any, count: int) -> Likeliest:
    """By the logits of all tokens; the `count` likeliest are among `ids`."""
    total = log_total(row)
    return Likeliest(float(row[token]) - total, _ranked(ids, row[ids], total, count))


def of_logits(logits: bytes, tokens: Sequence[int], count: int = 0) -> list[Likeliest]:
    """How likely each of `tokens` is by one row of 32-bit logits, and the `count` likeliest. Raises `SpoiledLogits`
    where they are no numbers."""
    row = numpy.frombuffer(logits, "f4")
    if not math.isfinite(float(row.max())):  # NaN is the greatest to `max`
        raise SpoiledLogits("the model's output is not a number")
    total = log_total(row)
    top = _ranked(numpy.arange(len(row)), row, total, count)
    return [Likeliest(value - total, top) for value in row[list(tokens)].tolist()]


def of_some(ids: Any, logits: Any, token: int, count: int) -> Likeliest:
    """By the logits of a few tokens, `token` among them; no other can be drawn. Options at their bounds take logits out
    of what 32 bits hold: those are the likeliest."""
    logits = numpy.nan_to_num(logits, nan=_MOST, posinf=_MOST, neginf=-numpy.inf).astype("f8")
    logits -= logits.max()
    total, [place, *_] = log_total(logits), numpy.flatnonzero(ids == token)
    return Likeliest(float(logits[place]) - total, _ranked(ids, logits, total, count))


def _ranked(ids: Any, logits: Any, total: float, count: int) -> list[tuple[int, float]]:
    """The likeliest first; of equals the lowest id."""
    if not count:
        return []
    if len(ids) > count:
        kept = numpy.flatnonzero(logits >= numpy.partition(logits, -count)[-count])
        ids, logits = ids[kept], logits[kept]
    order = numpy.lexsort((ids, -logits))[:count]
    ranked = zip(ids[order].tolist(), logits[order].tolist(), strict=True)
    return [(token, logit - total) for token, logit in ranked if logit > -math.inf]


def described(token: int, before: Likeliest, after: Likeliest | None, vocabulary: Vocabulary) -> TokenLogprob:
    """What callers get to see of a token that was drawn, or that stands in a prompt."""
    text = vocabulary.token_bytes(token, special=True)
    return TokenLogprob(
        token,
        text.decode(errors="replace"),
        text.hex(),
        before.logprob,
        top_logprobs=_shown(before.top, vocabulary),
        logprob_after=None if after is None else after.logprob,
        top_logprobs_after=() if after is None else _shown(after.top, vocabulary),
    )


def _shown(top: Sequence[tuple[int, float]], vocabulary: Vocabulary) -> tuple[TopLogprob, ...]:
    texts = [vocabulary.token_bytes(token, special=True) for token, _ in top]
    return tuple(
        TopLogprob(token, text.decode(errors="replace"), text.hex(), value)
        for (token, value), text in zip(top, texts, strict=True)
    )
