"""The stub's embeddings: deterministic, and alike for texts that are alike.

The vector of a token is drawn from a generator that is seeded with it and the token before it, so the mean of a text's
vectors is near that of a text with the same words. Failing, hanging and slow on demand, as the stub is; decodes are
counted for each embedder by itself.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy

from erllama_py.engine.backend import BackendFailure
from erllama_py.engine.embedding import EmbedderFacts, EmbedderOpts, Part
from erllama_py.engine.stub_decodes import StubDecodes
from erllama_py.options.model import ModelConfig

MOST_INPUTS = 64
_BETWEEN = 256  # the token between a query and a document


@lru_cache(1 << 14)
def vector(width: int, before: int, token: int) -> Any:
    """The vector of one token after another; -1 is none."""
    return numpy.random.default_rng((width, before + 1, token)).standard_normal(width, "f4")


class StubEmbedder:
    """See `Embedder`. `hung` and `release` are those of its backend."""

    def __init__(
        self, config: ModelConfig, opts: EmbedderOpts, hung: threading.Event, release: threading.Event
    ) -> None:
        self._config, self._opts = config, opts
        self._seen: dict[int, list[int]] = {}  # the tokens of each sequence
        self._abort = threading.Event()
        self._decodes = StubDecodes(config.stub, hung, release)
        self._facts: EmbedderFacts | None = None

    def load(self) -> EmbedderFacts:
        stub, context = self._config.stub, self._config.context_opts
        longest = context.n_batch if stub.embeds_only else context.cells
        self._facts = EmbedderFacts(
            width=1 if self._opts.ranks else stub.n_embd, n_batch=context.n_batch,
            n_seq_max=min(MOST_INPUTS, context.n_batch), longest=longest, splits=not stub.embeds_only,
            n_ctx=0 if stub.embeds_only else context.cells,
        )  # fmt: skip
        return self._facts

    def reserve(self, tokens: int) -> None:
        pass

    def compute(self, parts: Sequence[Part]) -> Any:
        facts = self._facts
        if facts is None:
            raise BackendFailure("an embedder that is not loaded")
        self._decodes.begin()
        count = sum(len(part.tokens) for part in parts)
        if count > facts.n_batch or not all(0 <= part.seq_id < facts.n_seq_max and len(part.tokens) for part in parts):
            raise BackendFailure(f"{count} tokens of {len(parts)} inputs do not fit")
        if self._abort.wait(self._config.stub.seconds_per_token * count):
            for part in parts:
                self.forget(part.seq_id)
            return None
        rows = [row for part in parts for row in self._rows(part)]
        return numpy.array(rows, "f4").reshape(len(rows), facts.width)

    def _rows(self, part: Part) -> list[Any]:
        seen = self._seen.setdefault(part.seq_id, [])
        if part.start != len(seen):
            raise BackendFailure(f"sequence {part.seq_id} holds {len(seen)} tokens, not {part.start}")
        seen += map(int, part.tokens)
        width = self._config.stub.n_embd
        rows = [vector(width, seen[i - 1] if i else -1, seen[i]) for i in range(part.start, len(seen))]
        if part.last:
            del self._seen[part.seq_id]
        if not self._opts.ranks:
            return rows
        return [[shared(seen)]] if part.last else []

    def forget(self, seq_id: int) -> None:
        self._seen.pop(seq_id, None)

    def rest(self) -> None:
        pass

    def abort(self, flag: bool) -> None:
        if flag:
            self._abort.set()
        else:
            self._abort.clear()

    def close(self) -> None:
        self._facts = None


def shared(tokens: list[int]) -> float:
    """Which part of the query's pairs of tokens the document has; the two are on either side of a control token."""
    at = tokens.index(_BETWEEN) if _BETWEEN in tokens else 0
    query, document = tokens[:at], tokens[at + 1 :]
    wanted = set(pairwise(query)) or {(one, one) for one in query}
    found = set(pairwise(document)) | {(one, one) for one in document}
    return len(wanted & found) / len(wanted) if wanted else 0.0
