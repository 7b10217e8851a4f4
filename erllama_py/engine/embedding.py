"""What an embedder's thread needs of an inference library: a context that gives vectors instead of tokens.

An `Embedder` is made by a backend that has loaded, over its weights, which it holds until it is closed. It gives a
vector for each token, of which `pooling` makes one for each input; or, with `ranks`, a score for each input, which is
then a query and a document. Everything but `abort` belongs to one thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import msgspec

from erllama_py.engine.token_array import TokenArray

Tokens = Sequence[int] | TokenArray


class NoRoom(Exception):
    """An embedder has no room for an input of some length, and goes on with what it has. Its text says why."""


class EmbedderOpts(msgspec.Struct, frozen=True, kw_only=True):
    """How an embedder is made."""

    ranks: bool  # scores of pairs, by the model's own head, instead of vectors
    threads: int  # that compute its decodes


class EmbedderFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What is known once it is made. Lengths are in tokens."""

    width: int  # numbers of a vector
    n_batch: int  # of one decode
    n_seq_max: int  # inputs of one decode
    longest: int  # of one input
    splits: bool  # whether an input may be spread over several decodes
    n_ctx: int  # cells that it begins with; 0 where attention keeps none


class Part(NamedTuple):
    """Tokens of one input for one decode, at positions `start … start + len(tokens) - 1` of sequence `seq_id`."""

    seq_id: int
    start: int
    tokens: Tokens
    last: bool  # whether the input ends with them: its sequence is empty after the decode


class Embedder(Protocol):
    """See the module."""

    def load(self) -> EmbedderFacts:
        """Make the context. Raises `ModelLoadError`; then there is nothing to close."""

    def reserve(self, tokens: int) -> None:
        """Have room for an input of so many tokens, which is to be spread over decodes: the context may be made anew,
        so no sequence may hold anything. Raises `NoRoom` where that cannot be and all is as it was; `ModelLoadError`
        where nothing can be computed any more."""

    def compute(self, parts: Sequence[Part]) -> Any:
        """Run the model once: a float32 array with a row for each token of `parts`, in their order; with `ranks` a row
        of one number for each part that is the last of its input. It is overwritten by the next call. `None` where
        `abort` has stopped it. Raises `BackendFailure`."""

    def forget(self, seq_id: int) -> None:
        """Empty a sequence whose input is not computed to its end."""

    def rest(self) -> None:
        """Release the compute threads until the next decode."""

    def abort(self, flag: bool) -> None:
        """Set or clear the flag that makes a running `compute` stop early. From any thread, at once."""

    def close(self) -> None:
        """Free everything. Allowed twice, and before `load`."""
