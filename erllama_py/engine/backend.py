"""What the engine thread needs of an inference library, and nothing else.

`Backend` has no optional methods: `llama` and `stub` implement all of them and pass one conformance suite
(`tests/engine/test_conformance.py`). `ModelSource` is the part of it that a model's actors use, which the stand-in of a
child has too. Two kinds of methods:

- on the engine thread only: `load`, `set_threads`, `rest`, `decode`, `logits`, `likeliest`, `sampler`, `remove`,
  `share`, `positions`, `capture`, `restore`, `close`;
- from any thread: `inspect` and `use_weights_of` (before `load`), `abort`, `embedder` and everything of `vocabulary`
  (after `load`).

Errors that leave a backend are `ErllamaError`s, or a `BackendFailure` when the context cannot be trusted
any more; a ctypes error never does.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, NamedTuple, Protocol

import msgspec

from erllama_py.chat.special_texts import SpecialTexts
from erllama_py.engine.embedding import Embedder, EmbedderOpts
from erllama_py.engine.structure import Tokenizer
from erllama_py.engine.token_array import TokenArray
from erllama_py.errors import SamplerFailed
from erllama_py.options.model import ModelConfig
from erllama_py.options.sampling import Sampling

MemoryKind = Literal["full", "window", "recurrent", "hybrid"]
FilePooling = Literal["mean", "cls", "last", "rank"]


class BackendFailure(Exception):
    """The context is broken (a failed decode, a foreign exception): the engine must be thrown away."""


class CannotCapture(Exception):
    """The sequence does not hold what a capture needs: forgotten by a window, or not at its end."""


class SpoiledLogits(SamplerFailed):
    """Logits are no numbers, or not those of this vocabulary. Callers get the class that this is one of."""


class ModelFile(msgspec.Struct, frozen=True, kw_only=True):
    """One file of a model as it was when its header was read. Sizes are in bytes."""

    path: str
    size: int
    mtime: int  # in nanoseconds
    inode: int
    metadata_size: int  # everything before the first weights tensor
    first_tensor_size: int


class FileFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What the model file says of itself, read without loading it. Sizes are in bytes."""

    architecture: str
    quant_type: str  # lower case, as in file names: "q4_k_m"
    quant_bits: int
    n_ctx_train: int
    n_layer: int
    kv_bytes_per_token: int  # of one position in f16 over all layers; 0 where attention keeps none
    sliding_window: int = 0  # tokens; 0 where every layer attends to everything
    # Tokens of the context that the model was first trained for, where the file has rope factors for longer ones
    # ("longrope"); 0 elsewhere. A context above it rotates every key by other factors, from position 0 on.
    long_rope_above: int = 0
    embeds_only: bool = False  # an encoder: its tokens see those after them, so it cannot generate
    pooling: FilePooling | None = None  # how vectors of tokens become one of a text; "rank": by a head
    offloads: bool = False  # not of the file: whether there is a GPU that `n_gpu_layers` could mean
    files: tuple[ModelFile, ...] = ()  # in the order of their parts where the model is split; none for a stub

    @property
    def file_size(self) -> int:
        """Of all files together."""
        return sum(file.size for file in self.files)

    @property
    def metadata_size(self) -> int:
        """Of all files together."""
        return sum(file.metadata_size for file in self.files)


class ModelFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What is known once the model is loaded."""

    description: str  # "llama 135M Q4_1"
    n_params: int
    size_bytes: int  # of the weights
    n_vocab: int
    n_layer: int
    n_ctx_train: int
    n_ctx: int  # as allocated, in tokens; 0 for a tokenizer-only model
    n_batch: int
    n_ubatch: int
    n_seq_max: int
    memory: MemoryKind
    n_swa: int  # width of the sliding window in tokens, 0 without one
    state_bytes: int  # of a recurrent state, which each captured range carries whole; 0 where there is none
    flash_attn: bool  # whether it is used, also where that was left to llama.cpp
    transposed: bool = False  # whether values lie in the cells so
    chat_template: str | None
    chat_templates: dict[str, str] = {}  # others, by name: "tool_use", "rag"
    bos_token: str
    eos_token: str
    build: str  # of the inference library; part of every cache key
    n_embd: int = 0  # numbers of an embedding
    rerank_template: str | None = None  # how a pair is written for a model that ranks
    on_gpu: bool = False  # whether a GPU computes all layers


class Slice(msgspec.Struct, frozen=True):
    """Tokens of one sequence for one decode, at positions `start … start + len(tokens) - 1`."""

    seq_id: int
    start: int
    tokens: Sequence[int]
    logits: bool  # whether the last of them is to be sampled from
    every: bool = False  # whether the logits of all of them are to be read, see `Backend.likeliest`


class DecodeStatus(enum.Enum):
    """How a decode ended when it did not fail."""

    DONE = "done"
    NO_CELLS = "no_cells"  # the KV cache has no room; nothing was decoded
    ABORTED = "aborted"  # `abort` was called; whole micro-batches may be in, see `positions`


class RestoreStatus(enum.Enum):
    """How a restore ended. True where the bytes are in the cells."""

    DONE = "done"
    BAD_BYTES = "bad_bytes"  # they are not of such a range of this model: no context of it would take them
    UNABLE = "unable"  # no fault of theirs: there are no cells for them, or the context takes nothing now

    def __bool__(self) -> bool:
        return self is RestoreStatus.DONE


class Likeliest(NamedTuple):
    """Of one draw: the log-probability of a token, and the likeliest tokens with theirs, the likeliest first."""

    logprob: float
    top: list[tuple[int, float]]


class Sampler(Protocol):
    """The sampler chain of one request, with a state of its own."""

    def sample(self, index: int) -> int:
        """Draw a token from the logits of slice `index` of the last decode and accept it.

        Raises `SamplerFailed`; of it `SpoiledLogits`, and nothing is accepted then.
        """

    def sample_from(self, logits: bytes) -> int:
        """Draw a token from kept logits, as `Backend.logits` gave them, and accept it. Raises as `sample` does."""

    def forced(self) -> list[int]:
        """Tokens that come next because the structure leaves no other way, accepted already; none without one.

        Raises `SamplerFailed`.
        """

    def accept(self, tokens: Sequence[int]) -> None:
        """These tokens come next, though nobody has drawn them. Raises `SamplerFailed` where the structure does not
        allow that."""

    @property
    def used(self) -> tuple[int | float, ...]:
        """What its draws have used up, and all else of its state that the tokens do not tell, for `replay`."""

    def replay(self, tokens: Sequence[int], used: tuple[int | float, ...]) -> None:
        """Stand where another sampler of the same options and history does that has taken in these tokens: `used` is
        what it said of itself then. Before anything is drawn. Raises `SamplerFailed` where the structure does not allow
        these tokens."""

    @property
    def is_over(self) -> bool:
        """Whether the structure is complete: nothing may follow. False without one."""

    def likeliest(self, count: int, *, after: bool = False) -> Likeliest:
        """How likely the token drawn last was, and the `count` likeliest: by the model alone, or `after` all steps of
        the chain. To be asked before anything else is drawn or decoded."""

    def close(self) -> None:
        """Free it. Allowed twice."""


class Vocabulary(Protocol):
    """Text to tokens and back; safe from any thread until the backend is closed, `ModelNotLoaded` after."""

    n_vocab: int

    @property
    def begin(self) -> list[int]:
        """The tokens that the model wants before a prompt: none or one. The end token, for which some files ask too,
        belongs after what is embedded, and never before a reply."""

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """Token ids of `text`; `add_special` puts the tokens around it that the model wants, as around what is to be
        embedded; `parse_special` reads `<|im_start|>` and its like as control tokens. Raises `InvalidText`, also for
        what this tokenizer does not stand."""

    def token_array(self, text: str, *, add_special: bool, parse_special: bool) -> TokenArray:
        """As `tokenize`, for long texts and for many."""

    def token_bytes(self, token: int, *, special: bool) -> bytes:
        """UTF-8 bytes of one token, maybe a part of a character; empty for control tokens unless `special`."""

    def detokenize(self, tokens: Sequence[int], *, special: bool) -> str:
        """Text of `tokens`; bytes that are no UTF-8 become U+FFFD. Raises `TokenOutOfRange`."""

    def least_tokens(self, text: str) -> int:
        """How few tokens a text can have, without tokenizing it; 0 where that is not known. Of a large vocabulary it
        takes 0.1 s when first asked: not on the event loop, nor on the engine thread. Raises `ModelNotLoaded`."""

    def tokenize_parts(self, parts: Iterable[str]) -> TokenArray:
        """Token ids of a text that is cut into parts: control tokens are read in each, and none across a cut. A part
        that begins inside of the text gets no space that some tokenizers put first. Raises `InvalidText`."""

    def tokens_after(self, text: str) -> TokenArray:
        """Token ids of a text that goes on from another: plain text, with no begin token and no space put first.
        Raises `InvalidText`."""

    def special_texts(self) -> SpecialTexts:
        """Texts that are read as one token each, always the same object. Looked for when first asked for, which takes
        0.1 s for a large vocabulary: not on the event loop, nor on the engine thread. Raises `ModelNotLoaded`."""

    def is_end(self, token: int) -> bool:
        """Whether this token ends a generation."""

    @property
    def ends(self) -> tuple[int, ...]:
        """Ids of all tokens that end a generation, ascending. Looked for when first asked for, which takes 0.1 s for
        a large vocabulary: not on the event loop, nor on the engine thread."""

    def structure_tokenizer(self) -> Tokenizer:
        """The tokens as structures need them, always the same object. What is costly is made by the first `compile`:
        not on the event loop, nor on the engine thread. Raises `ModelNotLoaded`."""

    def pair_frame(self) -> tuple[list[int], list[int], list[int]]:
        """The tokens before, between and after a query and a document that are to be ranked."""

    def prepare(self, sampling: Sampling, n_ctx: int) -> None:
        """Make what a sampler of these options takes long to make, in a context of `n_ctx` tokens: not on the event
        loop, nor on the engine thread. Raises `InvalidOption` for what takes too long, and `ModelNotLoaded`."""


class ModelSource(Protocol):
    """One model as its actors have it, whichever process computes: what needs no engine thread."""

    @property
    def vocabulary(self) -> Vocabulary:
        """The model's tokenizer."""

    def inspect(self) -> FileFacts:
        """Read the headers of the model's files.

        Raises `ModelFileNotFound`, `NotAGGUF`, `TruncatedGGUF`, `UnsupportedModel`.
        """

    def settle(self, config: ModelConfig) -> None:
        """After `inspect`, before `load`: the configuration with the size of the context that the file led to."""

    def use_weights_of(self, other: Any) -> None:
        """Before `load`: make the context over the weights of `other`, one of the same class that has loaded the same
        files.

        They are freed with the last that uses them. Where `other` has freed its own before, `load` raises
        `ModelNotLoaded`.
        """

    def embedder(self, opts: EmbedderOpts) -> Embedder:
        """A context for embeddings over the same weights, which it holds; not made yet. From any thread, after `load`.

        Raises `ModelNotLoaded` once they are freed.
        """

    def abort(self, flag: bool) -> None:
        """Set or clear the flag that makes a running `decode` stop early, and end what `inspect` tries. From any
        thread, at once."""

    def close(self) -> None:
        """Free everything. Allowed twice, and after a failed `load`."""


class Backend(ModelSource, Protocol):
    """One model with one context, in this process."""

    def load(self, progress: Callable[[float], bool]) -> ModelFacts:
        """Load weights, then allocate the context. `progress` gets a fraction and answers whether to go on;
        when it answers false, `LoadCancelled` is raised. Raises `ModelLoadError`, also if a file has changed since
        `inspect` read it; frees all when it raises."""

    def set_threads(self, single: int, several: int) -> None:
        """How many threads compute the decodes to come: those of a single token, and those of several.

        It costs nothing, and changes the last bits of logits.
        """

    def rest(self) -> None:
        """Release the compute threads until the next decode: there is nothing to do, or one is enough."""

    def decode(self, slices: Sequence[Slice]) -> DecodeStatus:
        """Run the model once over all slices, `n_batch` tokens at most. Raises `BackendFailure`."""

    def sampler(self, sampling: Sampling, history: Sequence[int]) -> Sampler:
        """A new chain; `history` is what the repetition penalty looks back on. Raises `InvalidGrammar`."""

    def remove(self, seq_id: int, start: int, end: int) -> bool:
        """Drop the cells of positions `[start, end)`, `end` -1 for all; false where the memory cannot."""

    def share(self, source: int, seq_id: int, length: int) -> bool:
        """Let `seq_id`, which is emptied first, hold the first `length` positions of `source` too, uncopied.

        `source` must hold them, and be another sequence. Shared cells count once; each of the two may then grow, be cut
        back or be dropped without effect on the other. False, and nothing is changed, where the memory cannot: only
        full attention can. A sliding window drops cells one by one that the other sequence would still need; a
        recurrent state is one.
        """

    def positions(self, seq_id: int) -> tuple[int, int]:
        """First and last position that the sequence holds, `(-1, -1)` when empty."""

    def logits(self, index: int) -> bytes:
        """A copy of the logits of slice `index` of the last decode: `n_vocab` 32-bit floats."""

    def likeliest(self, index: int, offset: int, tokens: Sequence[int], count: int) -> list[Likeliest]:
        """How likely each of `tokens` was after the token before it, and the `count` likeliest there.

        By slice `index` of the last decode, which had the logits of `every` token; the first of `tokens` is the one
        after token `offset` of the slice. Raises `SpoiledLogits` where they are no numbers.
        """

    def capture(self, seq_id: int, start: int, end: int, take: Callable[[int], memoryview | None]) -> memoryview | None:
        """Copy out what makes a capture of everything before `start` one of everything before `end`.

        `take` is called once with the size that a buffer must have at least; if it returns None, nothing is done and
        the result is None. Otherwise the result is the buffer's filled part. The sequence must hold `[start, end)`; a
        recurrent or hybrid one must end at `end`, and of a sliding window everything from `max(start, end - n_swa + 1)`
        on must be there: `CannotCapture` is raised otherwise.
        """

    def restore(self, seq_id: int, start: int, end: int, payload: memoryview) -> RestoreStatus:
        """Put captured bytes back into a sequence that ends at `start`; it ends at `end` then.

        Where that is not done, the sequence is as it was, or empty (see `positions`). Other sequences are not affected.
        `BAD_BYTES` only where a row that is known to be good would have been taken.
        """

    def fail_assertion(self) -> None:
        """A drill: end the process as native code does that finds itself in a state that it does not expect."""


class LoadCancelled(Exception):
    """`progress` asked for the load to stop."""
