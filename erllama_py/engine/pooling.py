"""From the vectors of tokens to that of their text. Pure, on numpy arrays of 32-bit floats.

An input may be computed in several pieces, so a `Pool` takes rows as they come. Sums are kept in 64 bits, so that it
makes no difference where a long input was cut.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy

Pooling = Literal["mean", "cls", "last", "none"]


class NotFinite(Exception):
    """The model's output is not a number."""


class Pool:
    """The vectors of one input: their mean, the first, the last, or all of them."""

    def __init__(self, pooling: Pooling) -> None:
        self._pooling = pooling
        self._count = 0
        self._kept: Any = None  # a sum, or one row
        self._rows: list[Any] = []  # all of them, for "none"

    def add(self, rows: Any) -> None:
        """The next rows of the input; they are not kept as they are."""
        match self._pooling:
            case "mean":
                total = rows.sum(axis=0, dtype=numpy.float64)
                self._kept = total if self._kept is None else self._kept + total
            case "cls":
                self._kept = rows[0].copy() if self._kept is None else self._kept
            case "last":
                self._kept = rows[-1].copy()
            case "none":
                self._rows.append(rows.copy())
        self._count += len(rows)

    def result(self, *, normalize: bool, dimensions: int | None) -> Any:
        """The vector, or an array of a vector for each token: the first `dimensions` numbers, of length 1 if
        `normalize`. Raises `NotFinite`."""
        if self._pooling == "none":
            vectors = numpy.concatenate(self._rows)
        else:
            vectors = self._kept / self._count if self._pooling == "mean" else self._kept
        vectors = vectors[..., :dimensions]
        if not numpy.isfinite(vectors).all():
            raise NotFinite
        return (unit(vectors) if normalize else vectors).astype(numpy.float32)


def unit(vectors: Any) -> Any:
    """Each vector scaled to length 1; one of zeros stays as it is."""
    exact = numpy.asarray(vectors, numpy.float64)
    lengths = numpy.linalg.norm(exact, axis=-1, keepdims=True)
    return exact / numpy.where(lengths > 0, lengths, 1.0)
