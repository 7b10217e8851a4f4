"""Looking at a model file without loading it: what it says of itself, and what a context over it would take."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from erllama_py.engine.backend import FileFacts, ModelFacts, Vocabulary
from erllama_py.options.model import ContextOpts


class ContextBytes(msgspec.Struct, frozen=True):
    """Memory of a context, in bytes."""

    cells: int  # of the KV cells, and the states of recurrent layers
    compute: int  # what decodes need beside them


class Inspection(msgspec.Struct, frozen=True, kw_only=True):
    """A file that is being looked at. The vocabulary and `context_bytes` are there while it is.

    `context_bytes` raises `ModelLoadError` where such a context cannot be made.
    """

    file: FileFacts
    model: ModelFacts  # of no context
    metadata: dict[str, str]
    vocabulary: Vocabulary
    context_bytes: Callable[[ContextOpts], ContextBytes]
