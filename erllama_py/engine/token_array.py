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
PIECE = 1 << 16  # objects that are made at a time: about 1 ms


def as_array(tokens: Sequence[int]) -> TokenArray:
    """The array of token ids that fit."""
    array = numpy.empty(len(tokens), numpy.int32)
    for start in range(0, len(tokens), PIECE):
        array[start : start + PIECE] = tokens[start : start + PIECE]
    return array


def in_pieces(array: numpy.typing.NDArray[numpy.integer]) -> list[int]:
    """The list of token ids."""
    tokens: list[int] = []
    for start in range(0, len(array), PIECE):
        tokens += array[start : start + PIECE].tolist()
    return tokens
