"""A model whose engine is in a process of its own, as its actors have it: `ModelSource`.

Headers are read here, and so is the vocabulary, from the same file and without the weights: texts become tokens, and
templates are rendered, without a question to the child. A file that is not known to be sound is tried in the child
before that.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from erllama_py.buffers import BufferPool
from erllama_py.engine.backend import FileFacts, ModelSource, Vocabulary
from erllama_py.engine.embedding import EmbedderOpts
from erllama_py.engine.making import backend_of
from erllama_py.engine.process.child import Child
from erllama_py.engine.process.embedder import RemoteEmbedder
from erllama_py.engine.process.spare import SpareSlot, over_weights
from erllama_py.engine.process.trying import try_in
from erllama_py.engine.process.words import Reading, Words
from erllama_py.errors import ModelNotLoaded
from erllama_py.options.model import ModelConfig, for_engine

if TYPE_CHECKING:
    from erllama_py.engine.llama.probe import FileTry


class RemoteBackend:
    """See the module, and `ModelSource`."""

    def __init__(self, model_id: str, config: ModelConfig, home: Path | None) -> None:
        self.model_id, self.config, self.home = model_id, config, home
        self.number = 0  # of its engine, in the child
        self._untried: FileTry | None = None
        self._local = backend_of(model_id, config, home, later=self._try_later)
        self._words = Words(model_id, config, self._local)
        self._lender: RemoteBackend | None = None
        self._child: Child | None = None
        self.spare: SpareSlot | None = None  # where there is to be one
        self._kept = False  # whether the vocabulary is another's now
        self._held: int | None = None  # the weights in a process that was one

    def __repr__(self) -> str:
        return f"<RemoteBackend {self.model_id!r} in {self._child}>"

    @property
    def vocabulary(self) -> Vocabulary:
        """See `ModelSource`."""
        return self._words.vocabulary if self._lender is None else self._lender.vocabulary

    def inspect(self) -> FileFacts:
        """See `ModelSource`."""
        facts = self._local.inspect()
        self._words.files = facts.files
        return facts

    def _try_later(self, file: FileTry) -> None:
        self._untried = file

    def settle(self, config: ModelConfig) -> None:
        """See `ModelSource`."""
        self.config = config
        self._local.settle(config)

    def use_weights_of(self, other: ModelSource) -> None:
        """See `ModelSource`. `other` is one of these, too."""
        assert isinstance(other, RemoteBackend)
        self._lender = other

    def embedder(self, opts: EmbedderOpts) -> RemoteEmbedder:
        """See `ModelSource.embedder`. On the event loop."""
        if self._child is None or self._child.death is not None:
            raise ModelNotLoaded(self.model_id)
        return RemoteEmbedder(self._child, self.number, opts)

    def abort(self, flag: bool) -> None:
        """See `ModelSource`. Decodes are the engine's own matter."""
        self._local.abort(flag)

    def close(self) -> None:
        """See `ModelSource`."""
        self._child = None
        if self._lender is not None or self._kept:
            return
        self._kept = self.spare is not None and self.spare.keep_words(self._words)
        if not self._kept:
            self._words.close()

    # --- for its engine ------------------------------------------------------------------------------------------

    @property
    def owns_child(self) -> bool:
        """Whether the process ends with its engine."""
        return self._lender is None

    @property
    def lender_number(self) -> int | None:
        """The engine whose weights its engine uses; those of a spare process count as one."""
        return self._held if self._lender is None else self._lender.number

    @property
    def engine_config(self) -> ModelConfig:
        """What its engine is told."""
        told = for_engine(self.config)
        return told if self._held is None else over_weights(told)

    def begin_child(self, buffers: BufferPool) -> Child:
        """The process for its engine: a new one, which is to be started, one that stands ready, or that of the weights.

        Raises `ModelNotLoaded`.
        """
        if self._lender is not None:
            child = self._lender._child
            if child is None or child.death is not None:
                raise ModelNotLoaded(self.model_id)
            self._child = child
            return child
        if self.spare is not None and (ready := self.spare.take(self._words.files)) is not None:
            self._child, self._held = ready.child, ready.number
            return ready.child
        self._child = Child(self.model_id, self.config, buffers)
        return self._child

    def keep_spare(self, buffers: BufferPool) -> None:
        """Its engine has loaded: have a spare process get ready, where there is to be one."""
        if self.spare is not None and self.owns_child:
            self.spare.fill(self.config, self._words.files, buffers)

    def read_words(self) -> Reading | None:
        """Begin to read the vocabulary, where it is not that of another, and was not kept: after its process has tried
        the file, where that is not known to be sound. No weights are to be read before that."""
        if self._lender is not None:
            return None
        if self.spare is not None and (kept := self.spare.take_words(self._words.files)) is not None:
            self._words.close()
            self._words = kept
            return None
        child, file = self._child, self._untried
        if child is None or file is None:
            return self._words.begin()
        return self._words.begin(lambda wanted: file.settle(wanted, partial(try_in, child)))
