"""The stub's rows of logits, one for each value that a token is drawn from. Pure.

The best token of a row is the one that the value stands for; the value itself can be read back from the row, as the
stub does with logits that were kept.
"""

from __future__ import annotations

from typing import Any

import numpy

END = 256
LETTERS = b"etaoin shrdlu cmfwyp "  # what replies are made of; frequent letters, so that stop strings are met
END_ODDS = 97  # one token in so many ends a generation: replies of a usable length, not endless ones
# What a reply under a structure goes on with in one of so many draws, if it may: else texts and spaces would not end.
ENDS_ODDS, ENDS = 4, [*b'":,}]', END]
LOGIT_BYTES = 4
_HALF = 1 << 16  # a half of the value is kept in the logit of token 0, the other in that of token 1
_LEAST = -50.0  # of these two


def token_of(value: int) -> int:
    """The token that a value stands for."""
    return END if value % END_ODDS == 0 else LETTERS[value % len(LETTERS)]


def row_of(value: int, n_vocab: int) -> Any:
    """A row of 32-bit floats: 0.0 for the best token, a bit less for each letter after it, far less for the others."""
    tokens = numpy.arange(n_vocab, dtype="u4")
    noise = (tokens * numpy.uint32(2654435761) ^ numpy.uint32(value)) * numpy.uint32(2246822519) >> numpy.uint32(16)
    row = -30.0 - noise.astype("f4") / _HALF
    row[0], row[1] = _LEAST - (value // _HALF) / _HALF, _LEAST - (value % _HALF) / _HALF
    first = value % len(LETTERS)
    order = [*([END] if value % END_ODDS == 0 else []), *LETTERS[first:], *LETTERS[:first]]
    for rank, token in reversed([*enumerate(order)]):  # some letters are there twice: the first counts
        row[token] = -0.5 * rank
    return row


def row_under_structure(value: int, allowed: Any) -> Any:
    """The same for draws under a structure: only tokens that are allowed."""
    row = row_of(value, len(allowed))
    if value % ENDS_ODDS == 0:
        row[ENDS] -= _LEAST
    row[~allowed] = -numpy.inf
    return row


def value_of(row: Any) -> int:
    """The value that a row was made of."""
    high, low = (round((_LEAST - float(logit)) * _HALF) for logit in row[:2])
    return high * _HALF + low
