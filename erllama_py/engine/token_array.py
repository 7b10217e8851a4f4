"""Token ids as arrays, for inputs of which there are many or which are long.

Lists of a hundred thousand short texts' tokens make the garbage collector stop all threads for some 50 ms each time it
looks at them; arrays it does not see. Whatever is made of one object for each token is made in pieces, between which
other threads run: at a time a step in C keeps them all waiting.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy
import numpy.typing

TokenArray = numpy.typing.NDArray[numpy.int32]
_SHORT = 256  # tokens: an array of more is kept as it is
PIECE = 1 << 16  # objects that are made at a time: about 1 ms


def as_array(tokens: Sequence[int]) -> TokenArray:
    """The array of token ids that fit."""
    array = numpy.empty(len(tokens), numpy.int32)
    for start in range(0, len(tokens), PIECE):
        array[start : start + PIECE] = tokens[start : start + PIECE]
    return array


class Gathered:
    """Token arrays that are put together: of millions of short ones, few are there at a time."""

    def __init__(self) -> None:
        self.count = 0
        self._arrays, self._some = list[TokenArray](), list[int]()

    def add(self, tokens: TokenArray) -> None:
        """These come next."""
        self.count += len(tokens)
        if len(tokens) > _SHORT:
            self._flush()
            self._arrays.append(tokens)
            return
        self._some += tokens.tolist()
        if len(self._some) >= PIECE:
            self._flush()

    def array(self) -> TokenArray:
        """All of them."""
        self._flush()
        return numpy.concatenate(self._arrays) if self._arrays else as_array(())

    def _flush(self) -> None:
        if self._some:
            self._arrays.append(as_array(self._some))
            self._some = []


def in_pieces(array: numpy.typing.NDArray[numpy.integer]) -> list[int]:
    """The list of token ids."""
    tokens: list[int] = []
    for start in range(0, len(array), PIECE):
        tokens += array[start : start + PIECE].tolist()
    return tokens
