"""A deterministic backend without a model file: for tests, for examples, and to try supervision out.

It keeps KV cells of its own that behave like llama.cpp's, see `stub_cells`. The cell at a position holds a
checksum chained over the tokens up to there, and the next token is drawn from the last cell's value, so a
wrong cell, a missing one or one too many changes the reply, as it would with a real model. A sliding window
forgets cells, a recurrent memory refuses to be cut back, and cells run out at `n_ctx`.

Tokens 0–255 are bytes; 256 ends a generation. Slow, failing and hanging on demand: see `StubOpts`.
"""

from __future__ import annotations

import math
import os
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache, partial
from typing import Any

import numpy

from erllama_py.chat.special_texts import SpecialTexts
from erllama_py.engine.backend import (
    Backend,
    BackendFailure,
    DecodeStatus,
    FileFacts,
    Likeliest,
    LoadCancelled,
    ModelFacts,
    RestoreStatus,
    Slice,
    SpoiledLogits,
)
from erllama_py.engine.banned import Banned, banned
from erllama_py.engine.embedding import EmbedderOpts
from erllama_py.engine.guidance import Words
from erllama_py.engine.logprobs import of_row
from erllama_py.engine.structure import Matcher, Tokenizer, compile
from erllama_py.engine.stub_cells import VALUE_BYTES, StubCells
from erllama_py.engine.stub_decodes import StubDecodes
from erllama_py.engine.stub_embedder import StubEmbedder
from erllama_py.engine.stub_logits import END, LOGIT_BYTES, row_of, row_under_structure, token_of, value_of
from erllama_py.engine.token_array import TokenArray, as_array, in_pieces
from erllama_py.errors import (
    InvalidText,
    ModelLoadError,
    ModelNotLoaded,
    SamplerFailed,
    TokenOutOfRange,
)
from erllama_py.options.model import ModelConfig
from erllama_py.options.sampling import Sampling

SPECIAL = {END: b"<|end|>", 257: b"<|im_start|>", 258: b"<|im_end|>"}
LONGEST = max(map(len, SPECIAL.values()))  # bytes of a token
SPECIAL_TEXTS = SpecialTexts(control=tuple(name.decode() for name in SPECIAL.values()))
LOAD_STEPS = 10  # steps that a load reports; it can be cancelled between two of them
CHAT_TEMPLATE = (
    "{% if tools %}<|im_start|>tools\n{{ tools | tojson }}<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}"
    "{% for call in m['tool_calls'] %}<tool_call>\n{{ (call['function'] or call) | tojson }}\n</tool_call>{% endfor %}"
    "<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


class StubVocabulary:
    """Bytes as tokens."""

    def __init__(self, model_id: str, n_vocab: int) -> None:
        self.n_vocab = n_vocab
        self.closed = False
        self._model_id = model_id
        self._structure_tokenizer = Tokenizer(lru_cache(self._make_words), self._open)

    def _check(self, token: int) -> None:
        if self.closed:
            raise ModelNotLoaded(self._model_id)
        if not 0 <= token < self.n_vocab:
            raise TokenOutOfRange(f"token {token} is not in the vocabulary", token, self.n_vocab)

    @property
    def begin(self) -> list[int]:
        return []

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        self._check(0)
        try:
            rest = text.encode()
        except UnicodeEncodeError as error:
            raise InvalidText(f"the text has no UTF-8 form: {error}") from error
        if not parse_special:
            return in_pieces(numpy.frombuffer(rest, numpy.uint8))
        tokens: list[int] = []
        at = 0
        while at < len(rest):
            special = next((t for t, name in SPECIAL.items() if rest.startswith(name, at)), None)
            tokens.append(rest[at] if special is None else special)
            at += 1 if special is None else len(SPECIAL[special])
        return tokens

    def token_array(self, text: str, *, add_special: bool, parse_special: bool) -> TokenArray:
        return as_array(self.tokenize(text, add_special=add_special, parse_special=parse_special))

    def least_tokens(self, text: str) -> int:
        return -(-len(text) // LONGEST)

    def tokenize_parts(self, parts: Iterable[str]) -> TokenArray:
        return as_array([t for part in parts for t in self.tokenize(part, add_special=False, parse_special=True)])

    def tokens_after(self, text: str) -> TokenArray:
        return self.token_array(text, add_special=False, parse_special=False)

    def special_texts(self) -> SpecialTexts:
        self._check(0)
        return SPECIAL_TEXTS

    def token_bytes(self, token: int, *, special: bool) -> bytes:
        self._check(token)
        return bytes([token]) if token < END else SPECIAL.get(token, b"") if special else b""

    def detokenize(self, tokens: Sequence[int], *, special: bool) -> str:
        return b"".join(self.token_bytes(token, special=special) for token in tokens).decode(errors="replace")

    def is_end(self, token: int) -> bool:
        return token in self.ends

    def pair_frame(self) -> tuple[list[int], list[int], list[int]]:
        return [], [END], []

    def prepare(self, sampling: Sampling, n_ctx: int) -> None:
        """See `Vocabulary.prepare`. Nothing takes long here."""

    @property
    def ends(self) -> tuple[int, ...]:
        return (END, 258)

    def structure_tokenizer(self) -> Tokenizer:
        self._check(0)
        return self._structure_tokenizer

    @contextmanager
    def _open(self) -> Iterator[None]:
        self._check(0)
        yield

    def _make_words(self) -> Words:
        names = [b"\xff" + SPECIAL.get(token, b"") for token in range(END, max(SPECIAL) + 1)]  # no text has this byte
        words = [bytes([token]) for token in range(END)] + names + [b""] * (self.n_vocab - END - len(names))
        return Words(words, self.ends, list)


class StubSampler:
    """Greedy at temperature 0; otherwise the seed and the count of draws change the choice."""

    def __init__(
        self, values: list[int], n_vocab: int, sampling: Sampling, banned: Banned, matcher: Matcher | None
    ) -> None:
        self._matcher = matcher
        self._values = values  # the backend's logits: one cell value per slice of the last decode
        self._n_vocab = n_vocab
        self._seed = sampling.seed if sampling.temperature > 0 else None
        self._banned = banned
        self._biases = {int(token): bias for token, bias in sampling.logit_bias.items()}
        self._drawn = 0
        self._last: tuple[int, int, Callable[[], Any]]  # token, value of its row, and the row that it was drawn from

    def sample(self, index: int) -> int:
        return self._draw(self._values[index])

    def sample_from(self, logits: bytes) -> int:
        if len(logits) != LOGIT_BYTES * self._n_vocab:
            raise SpoiledLogits(f"{len(logits)} bytes are not the logits of {self._n_vocab} tokens")
        row = numpy.frombuffer(logits, "f4")
        if numpy.isnan(row).any():
            raise SpoiledLogits("the model's output is not a number")
        return self._draw(value_of(row))

    def likeliest(self, count: int, *, after: bool = False) -> Likeliest:
        token, value, left = self._last
        if not after:
            return of_row(row_of(value, self._n_vocab), token, numpy.arange(self._n_vocab), count)
        if self._seed is None:
            return Likeliest(0.0, [(token, 0.0)][:count])
        return of_row(left(), token, numpy.arange(self._n_vocab), count)

    def _draw(self, value: int) -> int:
        drawn = value
        if self._seed is not None:
            drawn = zlib.crc32(self._seed.to_bytes(4, "little") + self._drawn.to_bytes(4, "little"), value)
        token, banned = token_of(drawn), self._banned.after(self._drawn)
        allowed = None if self._matcher is None else self._matcher.allowed(self._n_vocab)
        left = partial(self._left, drawn, banned, allowed)
        if self._biases or banned or allowed is not None:
            row = left()
            token = int(row.argmax())
            if row[token] == -math.inf:
                raise SamplerFailed("every token is banned")
        if self._matcher is not None:
            self._matcher.accept(token)
        self._drawn += 1
        self._last = token, value, left
        return token

    def _left(self, value: int, banned: frozenset[int], allowed: Any) -> Any:
        """The row of a value after biases, bans and the structure."""
        row = row_of(value, self._n_vocab) if allowed is None else row_under_structure(value, allowed)
        for token, bias in self._biases.items():
            row[token] += bias
        row[list(banned)] = -math.inf
        return row

    def forced(self) -> list[int]:
        tokens = [] if self._matcher is None else self._matcher.forced()
        self._drawn += len(tokens)
        return tokens

    def accept(self, tokens: Sequence[int]) -> None:
        if self._matcher is not None:
            for token in tokens:
                self._matcher.accept(token)
        self._drawn += len(tokens)

    @property
    def used(self) -> tuple[int | float, ...]:
        return ()  # how many were drawn is all that counts

    def replay(self, tokens: Sequence[int], used: tuple[int | float, ...]) -> None:
        self.accept(tokens)

    @property
    def is_over(self) -> bool:
        return self._matcher is not None and self._matcher.is_over

    def close(self) -> None:
        pass


class StubBackend:
    """See the module. `hung` is set while a decode hangs on demand; `release` lets it go on."""

    def __init__(self, model_id: str, config: ModelConfig) -> None:
        self.vocabulary = StubVocabulary(model_id, config.stub.vocab_size)
        self.hung = threading.Event()
        self.release = threading.Event()
        self._decodes = StubDecodes(config.stub, self.hung, self.release)
        self.threads = (0, 0)  # as `set_threads` set them last
        self._model_id = model_id
        self.settle(config)
        self._values: list[int] = []  # of each slice of the last decode, that of its last token
        self._every: list[list[int]] = []
        self._abort = threading.Event()
        self._loaded = False

    @property
    def decodes(self) -> int:
        """How many it was asked for."""
        return self._decodes.count

    def inspect(self) -> FileFacts:
        return FileFacts(
            architecture="stub", quant_type="stub", quant_bits=16, n_ctx_train=1 << 20, n_layer=1,
            kv_bytes_per_token=4, embeds_only=self._config.stub.embeds_only,
            pooling="rank" if self._config.stub.ranks else None,
        )  # fmt: skip

    def settle(self, config: ModelConfig) -> None:
        self._config, context = config, config.context_opts
        n_ubatch = context.n_ubatch or context.n_batch
        self._cells = StubCells(config.stub, context.cells, n_ubatch, context.sequences)

    def use_weights_of(self, other: Backend) -> None:
        """See `Backend`. It has no weights."""

    def load(self, progress: Callable[[float], bool]) -> ModelFacts:
        stub, context = self._config.stub, self._config.context_opts
        for step in range(1, LOAD_STEPS + 1):
            self._abort.wait(stub.load_seconds / LOAD_STEPS)
            if not progress(step / LOAD_STEPS):
                raise LoadCancelled
        if stub.fail_load:
            raise ModelLoadError("stub", "the stub was told to fail its load")
        self._loaded = True
        usable = not self._config.model_opts.vocab_only and not stub.embeds_only
        return ModelFacts(
            description="stub", n_params=0, size_bytes=0, n_vocab=stub.vocab_size, n_layer=1,
            n_ctx_train=1 << 20, n_ctx=context.cells if usable else 0, n_batch=context.n_batch,
            n_ubatch=context.n_ubatch or context.n_batch, n_seq_max=context.sequences, memory=stub.memory,
            n_swa=stub.n_swa, state_bytes=VALUE_BYTES if stub.memory in ("recurrent", "hybrid") else 0,
            flash_attn=context.flash_attn is True, chat_template=CHAT_TEMPLATE, bos_token="", eos_token="<|end|>",
            build="stub-1", n_embd=stub.n_embd,
        )  # fmt: skip

    def embedder(self, opts: EmbedderOpts) -> StubEmbedder:
        if not self._loaded:
            raise ModelNotLoaded(self._model_id)
        return StubEmbedder(self._config, opts, self.hung, self.release)

    def set_threads(self, single: int, several: int) -> None:
        self.threads = (single, several)

    def rest(self) -> None:
        pass

    def decode(self, slices: Sequence[Slice]) -> DecodeStatus:
        if not self._loaded:
            raise BackendFailure("decode on a backend that is not loaded")
        self._decodes.begin()
        count = sum(len(part.tokens) for part in slices)
        if not self._cells.room_for(count):
            return DecodeStatus.NO_CELLS
        if self._abort.wait(self._config.stub.seconds_per_token * count):
            return DecodeStatus.ABORTED
        self._every = [self._cells.append(part) for part in slices]
        self._values[:] = [values[-1] for values in self._every]
        return DecodeStatus.DONE

    def sampler(self, sampling: Sampling, history: Sequence[int]) -> StubSampler:
        matcher = None
        if sampling.grammar is not None:
            matcher = compile(sampling.grammar, self.vocabulary.structure_tokenizer())
        return StubSampler(self._values, self.vocabulary.n_vocab, sampling, banned(sampling, self.vocabulary), matcher)

    def remove(self, seq_id: int, start: int, end: int) -> bool:
        return self._cells.remove(seq_id, start, end)

    def share(self, source: int, seq_id: int, length: int) -> bool:
        return self._cells.share(source, seq_id, length)

    def positions(self, seq_id: int) -> tuple[int, int]:
        return self._cells.positions(seq_id)

    def logits(self, index: int) -> bytes:
        if not 0 <= index < len(self._values):
            raise BackendFailure(f"slice {index} of the last decode has no logits")
        return bytes(row_of(self._values[index], self.vocabulary.n_vocab).tobytes())

    def likeliest(self, index: int, offset: int, tokens: Sequence[int], count: int) -> list[Likeliest]:
        n_vocab, values = self.vocabulary.n_vocab, self._every[index][offset : offset + len(tokens)]
        ids = numpy.arange(n_vocab)
        return [of_row(row_of(value, n_vocab), token, ids, count) for value, token in zip(values, tokens, strict=True)]

    def capture(self, seq_id: int, start: int, end: int, take: Callable[[int], memoryview | None]) -> memoryview | None:
        self._copying(end - start)
        return self._cells.capture(seq_id, start, end, take)

    def restore(self, seq_id: int, start: int, end: int, payload: memoryview) -> RestoreStatus:
        self._copying(end - start)
        return self._cells.restore(seq_id, start, end, payload)

    def _copying(self, tokens: int) -> None:
        stub = self._config.stub
        if seconds := stub.seconds_per_copy + tokens * stub.seconds_per_copied_token:
            time.sleep(seconds)  # no abort ends a copy

    def fail_assertion(self) -> None:
        os.abort()

    def abort(self, flag: bool) -> None:
        if flag:
            self._abort.set()
        else:
            self._abort.clear()

    def close(self) -> None:
        self._cells.clear()
        self._loaded = False
        self.vocabulary.closed = True
