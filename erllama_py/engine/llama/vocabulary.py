"""Text to tokens and back, through the vocabulary of a loaded model. Safe from any thread.

llama.cpp's vocabulary may be read by any number of threads, but goes away with the model. So a `LlamaVocabulary` is new
→ open → closed; only while it is open are calls let in, and `close` waits for those that are inside.
"""

from __future__ import annotations

import codecs
import ctypes
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy

from erllama_py.chat.finder import BLOCK
from erllama_py.chat.special_texts import SpecialTexts
from erllama_py.engine.guidance import Words
from erllama_py.engine.llama.cuts import LONG, Cuts
from erllama_py.engine.llama.dry import DrySamplers
from erllama_py.engine.llama.framing import frame, pair_frame, stretches_of
from erllama_py.engine.llama.lengths import Lengths, lengths_of
from erllama_py.engine.llama.logs import LogContext
from erllama_py.engine.llama.native import Library
from erllama_py.engine.llama.steps import dry_of, is_dry_used
from erllama_py.engine.llama.stretches import FEW, STACK_PER_CHARACTER, Stretches
from erllama_py.engine.llama.structure_words import SPECIAL, words_of
from erllama_py.engine.structure import Tokenizer
from erllama_py.engine.token_array import PIECE, Gathered, TokenArray, as_array, in_pieces
from erllama_py.errors import InvalidText, ModelNotLoaded, OutOfResources, TokenOutOfRange
from erllama_py.options.sampling import Sampling
from erllama_py.stacks import LEAST_BYTES, NoStack, call_on_stack

_PIECE_BYTES = 64  # longer pieces are rare and take a second call
_NO_TOKEN = -1
_DECODER = codecs.getincrementaldecoder("utf-8")
_INT32S = ctypes.POINTER(ctypes.c_int32)
_FIRST = "\x02"  # what no token has together with what follows it
_MOST_BYTES = 1 << 30  # llama.cpp counts bytes and tokens in 32 bits; half of that leaves room for a longer result


class LlamaVocabulary:
    """See `Vocabulary`."""

    def __init__(self, model_id: str) -> None:
        self.n_vocab = 0
        self._model_id = model_id
        self._handle: Any = None  # a `llama_vocab *` while open
        self._c: Any = None
        self._quick: Any = None
        self._inside = 0
        self._changed = threading.Condition()
        # By token id, filled as tokens are asked for: a look-up costs a tenth of the call.
        self._plain: dict[int, bytes] = {}
        self._special: dict[int, bytes] = {}
        self._ends: dict[int, bool] = {}
        self._all_ends: tuple[int, ...] | None = None
        self._adds_space = False
        self._library: Library | None = None
        self._structure_tokenizer: Tokenizer | None = None  # made with the model: it imports what it needs
        self._words: Words | None = None
        self._special_texts: SpecialTexts | None = None
        self._first: list[int] = []  # the tokens of `_FIRST`
        self._stretches: Stretches | None = None
        self._frame: tuple[list[int], list[int]] = ([], [])
        self._cuts: dict[bool, Cuts] = {}  # by whether control tokens are read
        self._lengths: Lengths | None = None
        self._making = threading.Lock()
        self.dry: DrySamplers  # while open

    def open(self, library: Library, model: Any) -> None:
        """Let calls in; `model` is valid until `close` returns."""
        self._library, self._c, self._quick = library, library.c, library.quick
        handle = library.c.llama_model_get_vocab(model)
        self.n_vocab = int(library.c.llama_vocab_n_tokens(handle))
        self.dry = DrySamplers(library, handle, lambda: words_of(library, handle, self.n_vocab))
        self._structure_tokenizer = Tokenizer(self._make_words, self._use)
        self._stretches = stretches_of(library, model)
        self._frame = frame(library.c, handle)
        self._handle = handle
        self._adds_space = self._puts_space_first()
        self._first = self.tokenize(_FIRST, add_special=False, parse_special=False)

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        return in_pieces(self.token_array(text, add_special=add_special, parse_special=parse_special))

    def token_array(self, text: str, *, add_special: bool, parse_special: bool) -> TokenArray:
        """See `Vocabulary.token_array`."""
        data = _utf8(text)
        deepest = self._deepest(text)

        def tokenize() -> TokenArray:
            found = None if len(text) <= LONG else self._in_pieces(text, parse_special)
            return self._tokens(data, parse_special) if found is None else found

        if deepest <= FEW:
            tokens = tokenize()
        else:
            try:
                tokens = call_on_stack(deepest * STACK_PER_CHARACTER + LEAST_BYTES, tokenize)
            except NoStack as error:
                raise OutOfResources(f"{deepest:,} characters without a break: {error}") from error
        if add_special:
            before, after = self._frame
            tokens = numpy.concatenate([as_array(before), tokens, as_array(after)])
        return tokens

    def _tokens(self, data: bytes, parse_special: bool) -> TokenArray:
        room = len(data) + 16  # no token is shorter than a byte, but some tokenizers add or unfold characters
        with self._use() as handle, LogContext(self._model_id):
            while True:
                buffer = numpy.empty(room, numpy.int32)  # not zeroed: of most of it no page is ever touched
                address = buffer.ctypes.data_as(_INT32S)
                count = self._c.llama_tokenize(handle, data, len(data), address, room, False, parse_special)
                if count >= 0:
                    return self._known(buffer[:count].copy())
                room = -count

    def _known(self, tokens: TokenArray) -> TokenArray:
        """Some vocabularies have no token for what they do not know, and name one that does not exist."""
        if len(tokens) and not 0 <= tokens.min() <= tokens.max() < self.n_vocab:
            raise InvalidText("the text has characters that this model's vocabulary has no token for")
        return tokens

    def _in_pieces(self, text: str, parse_special: bool) -> TokenArray | None:
        """The tokens of a long text, piece by piece; `None` where it has no places to be cut at."""
        cuts = self._cuts_of(parse_special)
        if parse_special and not cuts.has_controls(text):  # llama.cpp looks for each of them: thousands, with some
            parse_special = False
        found, pieces = list[TokenArray](), cuts.pieces(text)
        for piece, is_first in pieces:
            first = [] if is_first or not self._adds_space else self._first
            tokens = self._tokens(_utf8(_FIRST * bool(first) + piece), parse_special)
            if tokens[: len(first)].tolist() != first:
                return None
            found.append(tokens[len(first) :])
        return numpy.concatenate(found)

    def _cuts_of(self, parse_special: bool) -> Cuts:
        with self._making:
            if parse_special not in self._cuts:
                special = self.special_texts()
                controls = special.control if parse_special else ()
                self._cuts[parse_special] = Cuts(special.user_defined, controls, self._characters())
            return self._cuts[parse_special]

    def _characters(self) -> set[str] | None:
        """All that are in a token of SentencePiece's, also as the sign that stands for a space."""
        with self._use() as handle:
            if self._c.llama_vocab_type(handle) != self._c.LLAMA_VOCAB_TYPE_SPM:
                return None
        known = {" ", "\u2581", _FIRST}
        for token in range(self.n_vocab):
            known.update(self.token_bytes(token, special=True).decode(errors="ignore"))
        return known

    def _deepest(self, text: str) -> int:
        """Characters that one match can be long. Raises `InvalidText` where they are too many."""
        if self._stretches is None or len(text) <= FEW:
            return 0
        bound = self._stretches.bound(text)
        if problem := self._stretches.problem(text, bound):
            raise InvalidText(problem)
        return bound

    @property
    def begin(self) -> list[int]:
        """See `Vocabulary.begin`."""
        return self._frame[0]

    def tokenize_parts(self, parts: Iterable[str]) -> TokenArray:
        """See `Vocabulary.tokenize_parts`."""
        gathered = Gathered()
        for part in filter(None, parts):
            gathered.add(self._amid(part, is_first=not gathered.count, parse_special=True)[0])
        return gathered.array()

    def tokens_after(self, text: str) -> TokenArray:
        """See `Vocabulary.tokens_after`."""
        tokens, is_sure = self._amid(text)
        return tokens if is_sure else self._amid(text, is_first=True)[0]

    def least_tokens(self, text: str) -> int:
        """See `Vocabulary.least_tokens`. 0.5 µs a token when first asked."""
        with self._making:
            if self._lengths is None:
                with self._use() as handle:
                    assert self._library is not None
                    self._lengths = lengths_of(self._library, handle, self.n_vocab)
        return self._lengths.least_tokens(text)

    def _amid(self, text: str, *, is_first: bool = False, parse_special: bool = False) -> tuple[TokenArray, bool]:
        """The tokens of a text that stands after another, unless it `is_first`, and whether they are surely its own:
        after a character that no token has together with another, it gets no space put before it."""
        first = [] if is_first or not self._adds_space else self._first
        tokens = self.token_array(_FIRST * bool(first) + text, add_special=False, parse_special=parse_special)
        return tokens[len(first) :], tokens[: len(first)].tolist() == first

    def special_texts(self) -> SpecialTexts:
        """See `Vocabulary.special_texts`. 0.3 µs a token."""
        if self._special_texts is None:
            c, control, user_defined = self._c, list[str](), list[str]()
            with self._use() as handle:
                attributes = self._quick.vocab_get_attr
                hidden = int(c.LLAMA_TOKEN_ATTR_CONTROL | c.LLAMA_TOKEN_ATTR_UNKNOWN)
                shown = int(c.LLAMA_TOKEN_ATTR_USER_DEFINED)
                for token in range(self.n_vocab):
                    attribute = int(attributes(handle, token))
                    if attribute & (hidden | shown):
                        (control if attribute & hidden else user_defined).append(self.text_of(token))
            self._special_texts = SpecialTexts(tuple(control), tuple(user_defined))
        return self._special_texts

    def token_bytes(self, token: int, *, special: bool) -> bytes:
        """See `Vocabulary.token_bytes`. Raises `TokenOutOfRange`."""
        piece = (self._special if special else self._plain).get(token)
        if piece is None or self._handle is None:
            piece = self._read_piece(token, special)
        return piece

    def _read_piece(self, token: int, special: bool) -> bytes:
        with self._changed:
            self._check(token)
            buffer = ctypes.create_string_buffer(_PIECE_BYTES)
            count = self._quick.token_to_piece(self._handle, token, buffer, _PIECE_BYTES, 0, special)
            if count < 0:
                buffer = ctypes.create_string_buffer(-count)
                count = self._quick.token_to_piece(self._handle, token, buffer, -count, 0, special)
        piece = buffer.raw[:count]
        (self._special if special else self._plain)[token] = piece
        return piece

    def detokenize(self, tokens: Sequence[int], *, special: bool) -> str:
        """See `Vocabulary.detokenize`.

        Where the tokenizer puts a space before a text, the one of the first token is taken off again.
        """
        decoder, texts, is_first = _DECODER("replace"), list[str](), self._adds_space
        for start in range(0, len(tokens), PIECE):  # other threads run between two of them
            data = b"".join([self.token_bytes(token, special=special) for token in tokens[start : start + PIECE]])
            texts.append(decoder.decode(data.removeprefix(b" ") if is_first else data))
            is_first = is_first and not data
        return "".join([*texts, decoder.decode(b"", final=True)])

    def is_end(self, token: int) -> bool:
        """See `Vocabulary.is_end`. Raises `TokenOutOfRange`."""
        end = self._ends.get(token)
        if end is None or self._handle is None:
            with self._changed:
                self._check(token)
                end = self._ends[token] = bool(self._quick.vocab_is_eog(self._handle, token))
        return end

    @property
    def ends(self) -> tuple[int, ...]:
        """See `Vocabulary.ends`. 0.3 µs a token."""
        if self._all_ends is None:
            with self._use() as handle:
                is_end = self._quick.vocab_is_eog
                self._all_ends = tuple(token for token in range(self.n_vocab) if is_end(handle, token))
        return self._all_ends

    def structure_tokenizer(self) -> Tokenizer:
        """See `Vocabulary.structure_tokenizer`."""
        with self._changed:
            self._check_open()
            assert self._structure_tokenizer is not None
            return self._structure_tokenizer

    def _make_words(self) -> Words:
        """One that is asked for while it is made comes when it is."""
        with self._making, self._use() as handle:
            if self._words is None:
                assert self._library is not None
                words, ends = words_of(self._library, handle, self.n_vocab), list(self.ends)
                if not ends:  # llguidance needs a token that ends; this one is never drawn
                    words, ends = [*words, SPECIAL + b"<end>"], [len(words)]
                self._words = Words(words, ends, self._cut)
            return self._words

    def _cut(self, text: bytes) -> list[int]:
        """The tokens of a text in the middle of a reply: without the space that some tokenizers put first."""
        tokens, is_sure = self._amid(text.decode(errors="replace"))
        return tokens.tolist() if is_sure else []

    def pair_frame(self) -> tuple[list[int], list[int], list[int]]:
        """See `Vocabulary.pair_frame`."""
        with self._use() as handle:
            return pair_frame(self._c, handle)

    def prepare(self, sampling: Sampling, n_ctx: int) -> None:
        """See `Vocabulary.prepare`."""
        if is_dry_used(sampling):
            with self._use():
                self.dry.prepare(dry_of(sampling, n_ctx))

    def text_of(self, token: int) -> str:
        """How a control token is written; empty for the one that a model without it has."""
        return "" if token == _NO_TOKEN else self.token_bytes(token, special=True).decode("utf-8", "replace")

    def close(self) -> None:
        """Let no call in any more and wait for those that are inside. Allowed twice."""
        with self._changed:
            self._handle = None
            while self._inside:
                self._changed.wait()
            if self.n_vocab:
                self.dry.close()
            self._structure_tokenizer = self._words = None

    def _puts_space_first(self) -> bool:
        first = self.tokenize("a", add_special=False, parse_special=False)
        return bool(first) and self.token_bytes(first[0], special=False).startswith(b" ")

    def _check(self, token: int) -> None:
        self._check_open()
        if not 0 <= token < self.n_vocab:
            problem = f"token {token} is not in the vocabulary of {self.n_vocab} tokens"
            raise TokenOutOfRange(problem, token=token, n_vocab=self.n_vocab)

    def _check_open(self) -> None:
        if self._handle is None:
            raise ModelNotLoaded(self._model_id)

    @contextmanager
    def _use(self) -> Iterator[Any]:
        """A long call: others go on beside it, `close` waits for it. Short calls just hold the lock."""
        with self._changed:
            self._check_open()
            handle = self._handle
            self._inside += 1
        try:
            yield handle
        finally:
            with self._changed:
                self._inside -= 1
                self._changed.notify_all()


def _utf8(text: str) -> bytes:
    """In blocks: one call for tens of megabytes would keep other threads waiting."""
    if len(text) <= BLOCK or text.isascii():
        data = _block(text, 0)
    else:
        data = b"".join([_block(text[start : start + BLOCK], start) for start in range(0, len(text), BLOCK)])
    if len(data) > _MOST_BYTES:
        raise InvalidText(f"a text of {len(data)} bytes is too long to tokenize")
    return data


def _block(text: str, at: int) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        problem = f"the text has no UTF-8 form: {error.reason} at character {at + error.start}"
        raise InvalidText(problem) from error
