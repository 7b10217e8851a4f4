"""`LlamaBackend`: one GGUF model with one context, through llama.cpp.

It holds the native model, alone or with others, owns its context and the samplers made from it, and lets go of them in
the reverse order; nothing native is touched after that. States: new → loaded → closed, each only once. Which thread may
call what is said in `erllama_py.engine.backend`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from erllama_py.engine.backend import (
    Backend,
    BackendFailure,
    DecodeStatus,
    FileFacts,
    Likeliest,
    MemoryKind,
    ModelFacts,
    ModelFile,
    RestoreStatus,
    Slice,
    SpoiledLogits,
    Vocabulary,
)
from erllama_py.engine.banned import banned
from erllama_py.engine.embedding import EmbedderOpts
from erllama_py.engine.fingerprint import check_unchanged
from erllama_py.engine.llama.candidates import Candidates
from erllama_py.engine.llama.context import Context
from erllama_py.engine.llama.embedder import LlamaEmbedder
from erllama_py.engine.llama.first_look import embedder_probe, looked_at
from erllama_py.engine.llama.gguf_file import read_facts
from erllama_py.engine.llama.gguf_header import check_file
from erllama_py.engine.llama.logs import LogContext
from erllama_py.engine.llama.model_facts import memory_kind, model_facts
from erllama_py.engine.llama.native import AbortFlag, Library, library
from erllama_py.engine.llama.probe import FileTry
from erllama_py.engine.llama.sampler import LlamaSampler
from erllama_py.engine.llama.states import States
from erllama_py.engine.llama.steps import Making
from erllama_py.engine.llama.vocabulary import LlamaVocabulary
from erllama_py.engine.llama.weights import Attention, Weights, load_model, make_context
from erllama_py.engine.structure import compile
from erllama_py.errors import (
    ModelLoadError,
    ModelNotLoaded,
    TokenizerOnly,
    TokenOutOfRange,
    UnsupportedModel,
)
from erllama_py.options.model import ModelConfig
from erllama_py.options.sampling import Sampling

T = TypeVar("T")


class LlamaBackend:
    """See `Backend`. Making one costs nothing; llama.cpp is imported by `inspect` or `load`."""

    def __init__(
        self, model_id: str, config: ModelConfig, home: Path | None = None,
        later: Callable[[FileTry], object] | None = None,
    ) -> None:  # fmt: skip
        self._model_id = model_id
        self._config = config
        self._home, self._later = home, later  # no home where nothing is tried in a child first
        self._path = str(config.model_path or "")  # a configuration for this backend has one
        self._files: tuple[ModelFile, ...] = ()  # as `inspect` has read them
        self._file: FileFacts | None = None
        self._library: Library | None = None
        self._weights: Weights | None = None
        self._lender: LlamaBackend | None = None  # whose weights are used
        self._context: Context | None = None
        self._states: States | None = None
        self._candidates: Candidates | None = None
        self._vocabulary = LlamaVocabulary(model_id)
        self.vocabulary: Vocabulary = self._vocabulary
        self._abort: AbortFlag | None = None
        self._aborting = False
        self._samplers: set[LlamaSampler] = set()

    def inspect(self) -> FileFacts:
        _, facts = looked_at(self._config, self._model_id, self._home, lambda: not self._aborting, self._later)
        self._file, self._files = facts, facts.files
        return facts

    def settle(self, config: ModelConfig) -> None:
        self._config = config

    def use_weights_of(self, other: Backend) -> None:
        """See `Backend`. `other` is one of these, too."""
        assert isinstance(other, LlamaBackend)
        self._lender, self.vocabulary = other, other.vocabulary

    def load(self, progress: Callable[[float], bool]) -> ModelFacts:
        self._library = library()
        try:
            facts = self._load(self._library, progress)
            check_unchanged(self._files)
            return facts
        except BaseException:
            self.close()
            raise

    def load_weights(self, progress: Callable[[float], bool]) -> None:
        """As `load`, without a context: for others, to `use_weights_of` this one."""
        self._library = lib = library()
        try:
            self._file_facts(lib)  # so that they need not read the header
            self._weights = self._hold_weights(lib, progress)
            self._vocabulary.open(lib, self._weights.model)
        except BaseException:
            self.close()
            raise

    def _load(self, lib: Library, progress: Callable[[float], bool]) -> ModelFacts:
        c = lib.c
        self._weights = weights = self._hold_weights(lib, progress)
        model, vocabulary = weights.model, weights.vocabulary
        computes = not self._config.model_opts.vocab_only
        if computes and c.llama_model_has_encoder(model):
            # llama.cpp ends the process at their first decode, or when their context is to give embeddings.
            raise UnsupportedModel(
                self._path, "models with an encoder of their own (T5 and its kind) are not supported"
            )
        if self._lender is None:
            vocabulary.open(lib, model)
        memory = memory_kind(c, model)
        attention, state_bytes = Attention(flash=False, transposed=False), 0
        if computes and not self._file_facts(lib).embeds_only:
            attention, state_bytes = self._open_context(lib, weights, memory)
        return model_facts(
            lib, weights, self._context, attention=attention, state_bytes=state_bytes,
            on_gpu=self._is_on_gpu(lib, model),
        )  # fmt: skip

    def _open_context(self, lib: Library, weights: Weights, memory: MemoryKind) -> tuple[Attention, int]:
        """How the context attends, and the bytes of a recurrent state."""
        model, model_id, n_swa = weights.model, self._model_id, int(lib.c.llama_model_n_swa(weights.model))
        self._abort = AbortFlag(lib)
        self._abort.set(self._aborting)
        handle, attention = make_context(lib, self._path, self._config, model_id, model, self._abort)
        self._context = context = Context(lib, handle, model_id, n_swa=n_swa, cuttable=memory in ("full", "window"))
        self._states = States(lib, context, model_id, memory, n_swa, transposed=attention.transposed)
        state_bytes = 0
        if memory in ("recurrent", "hybrid"):
            state_bytes = self._measure(lib, self._states, context, self._abort)
        self._candidates = Candidates(lib, weights.vocabulary.n_vocab)
        return attention, state_bytes

    def _file_facts(self, lib: Library) -> FileFacts:
        """As `inspect` has read them, of the lender where there is one, or read now."""
        owner = self._lender or self
        if owner._file is None:
            owner._file = read_facts(lib, self._path, self._model_id)
        return owner._file

    def embedder(self, opts: EmbedderOpts) -> LlamaEmbedder:
        """See `Backend.embedder`."""
        weights, lib = self._weights, self._library
        if weights is None or lib is None:
            raise ModelNotLoaded(self._model_id)
        file = self._file_facts(lib)
        probe = embedder_probe(self._config, self._model_id, self._home, file)
        return LlamaEmbedder(lib, weights.hold(), self._config, self._model_id, file, opts, probe)

    def _hold_weights(self, lib: Library, progress: Callable[[float], bool]) -> Weights:
        if self._lender is None:
            check_file(self._path)
            model = load_model(lib, self._path, self._config, self._model_id, progress)
            return Weights(lib, model, self._model_id, self._vocabulary)
        weights = self._lender._weights  # read once: the lender's own thread may let go of them meanwhile
        if weights is None:
            raise ModelNotLoaded(self._model_id)
        return weights.hold()

    def _is_on_gpu(self, lib: Library, model: Any) -> bool:
        layers = self._config.model_opts.n_gpu_layers  # negative: all
        all_layers = not 0 <= layers <= int(lib.c.llama_model_n_layer(model))  # the output counts as one more
        return all_layers and bool(lib.c.llama_supports_gpu_offload())

    def _measure(self, lib: Library, states: States, context: Context, abort: AbortFlag) -> int:
        """`States.state_bytes`, which decodes; a flag set during a load is for the decodes after it."""
        with LogContext(self._model_id):
            lib.c.llama_set_abort_callback(context.handle, lib.c.ggml_abort_callback(), None)
            try:
                return states.state_bytes()
            except BackendFailure as error:
                raise ModelLoadError(self._path, str(error)) from error
            finally:
                lib.c.llama_set_abort_callback(context.handle, abort.callback, abort.data)

    def set_threads(self, single: int, several: int) -> None:
        self._opened(self._context).set_threads(single, several)

    def rest(self) -> None:
        if self._library is not None:
            self._library.give_back_threads()

    def decode(self, slices: Sequence[Slice]) -> DecodeStatus:
        return self._opened(self._context).decode(slices)

    def sampler(self, sampling: Sampling, history: Sequence[int]) -> LlamaSampler:
        """See `Backend.sampler`. Raises `TokenOutOfRange` where `history` is not of this vocabulary."""
        if self._context is None or self._candidates is None or self._library is None or self._weights is None:
            raise self._unavailable()
        lib, n_vocab = self._library, self.vocabulary.n_vocab
        for token in history:
            if not 0 <= token < n_vocab:
                raise TokenOutOfRange(f"token {token} in the history", token=token, n_vocab=n_vocab)
        matcher = None
        if sampling.grammar is not None:
            matcher = compile(sampling.grammar, self._weights.vocabulary.structure_tokenizer())
        making = Making(lib, n_vocab, self._context.n_ctx, self._weights.vocabulary.dry)
        sampler = LlamaSampler(
            making, self._context, self._candidates, sampling, history, banned(sampling, self.vocabulary), matcher,
            self._samplers.discard,
        )  # fmt: skip
        self._samplers.add(sampler)
        return sampler

    def remove(self, seq_id: int, start: int, end: int) -> bool:
        return self._opened(self._context).remove(seq_id, start, end)

    def share(self, source: int, seq_id: int, length: int) -> bool:
        return self._opened(self._context).share(source, seq_id, length)

    def positions(self, seq_id: int) -> tuple[int, int]:
        return self._opened(self._context).positions(seq_id)

    def logits(self, index: int) -> bytes:
        rows, places = self._opened(self._context).rows(index, self.vocabulary.n_vocab)
        return bytes(rows.logits[places[-1]].tobytes())

    def likeliest(self, index: int, offset: int, tokens: Sequence[int], count: int) -> list[Likeliest]:
        rows, places = self._opened(self._context).rows(index, self.vocabulary.n_vocab)
        places = places[offset : offset + len(tokens)]
        if not all(map(rows.is_valid, places)):
            raise SpoiledLogits("the model's output is not a number")
        return [rows.likeliest(row, token, count) for row, token in zip(places, tokens, strict=True)]

    def capture(self, seq_id: int, start: int, end: int, take: Callable[[int], memoryview | None]) -> memoryview | None:
        return self._opened(self._states).capture(seq_id, start, end, take)

    def restore(self, seq_id: int, start: int, end: int, payload: memoryview) -> RestoreStatus:
        return self._opened(self._states).restore(seq_id, start, end, payload)

    def fail_assertion(self) -> None:
        """See `Backend.fail_assertion`."""
        library().fail_assertion()

    def abort(self, flag: bool) -> None:
        """See `Backend.abort`. Before `load` it is remembered."""
        self._aborting = flag
        abort = self._abort
        if abort is not None:
            abort.set(flag)

    def close(self) -> None:
        for sampler in list(self._samplers):
            sampler.close()
        with LogContext(self._model_id):
            context, self._context, self._states, self._candidates = self._context, None, None, None
            if context is not None:
                context.close()
            weights, self._weights = self._weights, None
            if weights is not None:
                weights.release()

    def _opened(self, part: T | None) -> T:
        if part is None:
            raise self._unavailable()
        return part

    def _unavailable(self) -> ModelNotLoaded | TokenizerOnly:
        return TokenizerOnly(self._model_id) if self._weights is not None else ModelNotLoaded(self._model_id)
