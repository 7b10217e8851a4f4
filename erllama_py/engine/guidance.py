"""The border to llguidance: the functions of its C interface, which its wheel exports, as two small classes.

Its Python classes hold the GIL while a tokenizer is made, 0.1 s at 49,152 tokens and 0.8 s at 262,144: every event loop
and stream of the process would stand still. Through C the long calls let it go (`_long`), the short ones keep it
(`_short`), as in `erllama_py.engine.llama.native`.

The structs are those of `llguidance.h` of release 1.9. Errors are values: a bad grammar never raises or ends anything.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy

from erllama_py.errors import ErllamaError

# What a grammar may cost before its request fails. Measured (two cores, 49,152 tokens, grammars made to explode): to
# compile, 20 ms; a mask, 3 ms for as long as it runs, and 20 to 60 ms once, when it fails. With llguidance's own limits
# such a mask took 840 ms. Common schemas take a hundredth. A state of the lexer takes 1 to 2 KB.
COMPILE_FUEL, STEP_FUEL, STEP_ITEMS, LEXER_STATES, SYMBOLS = 200_000, 50_000, 2_500, 20_000, 50_000
_MOST_AHEAD = 8_192  # forced tokens that are asked for in one call; a run is cut into tokens as a whole each time

_POINTER, _SIZE, _INT, _BOOL = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int32, ctypes.c_bool
_CUT = ctypes.CFUNCTYPE(_SIZE, _POINTER, _POINTER, _SIZE, _POINTER, _SIZE)


class _Limits(ctypes.Structure):
    """`LlgParserLimits`."""

    _fields_ = (
        ("max_items_in_row", _SIZE), ("initial_lexer_fuel", ctypes.c_uint64), ("step_lexer_fuel", ctypes.c_uint64),
        ("step_max_items", _SIZE), ("max_lexer_states", _SIZE), ("max_grammar_size", _SIZE),
        ("precompute_large_lexemes", _BOOL), ("verbose_errors", _BOOL),
    )  # fmt: skip


class _MatcherInit(ctypes.Structure):
    """`LlgConstraintInit`."""

    _fields_ = (
        ("tokenizer", _POINTER), ("log_buffer_level", ctypes.c_uint32), ("log_stderr_level", ctypes.c_uint32),
        ("ff_tokens_ok", _BOOL), ("backtrack_ok", _BOOL), ("limits", _Limits),
        ("later", _SIZE * 16),  # room for what a later release fills in
    )  # fmt: skip


class _TokenizerInit(ctypes.Structure):
    """`LlgTokenizerInitV2`."""

    _fields_ = (
        ("struct_size", _SIZE), ("vocab_size", ctypes.c_uint32), ("tok_eos", ctypes.c_uint32), ("token_lens", _POINTER),
        ("token_bytes", ctypes.c_char_p), ("tokenizer_json", ctypes.c_char_p), ("tokenize_assumes_string", _BOOL),
        ("tokenize_fn", _CUT), ("use_approximate_greedy_tokenize_fn", _BOOL), ("tokenize_user_data", _POINTER),
        ("slices", _POINTER), ("tok_eos_extra", _POINTER), ("tok_eos_extra_count", ctypes.c_uint32),
    )  # fmt: skip


_LONG: dict[str, tuple[Any, list[Any]]] = {
    "new_tokenizer_v2": (_POINTER, [_POINTER, ctypes.c_char_p, _SIZE]),
    "new_matcher": (_POINTER, [_POINTER, ctypes.c_char_p, ctypes.c_char_p]),
    "matcher_compute_mask_into": (_INT, [_POINTER, _POINTER, _SIZE]),
    "matcher_compute_ff_tokens": (_INT, [_POINTER, _POINTER, _SIZE]),
    "free_tokenizer": (None, [_POINTER]),
}
_SHORT: dict[str, tuple[Any, list[Any]]] = {
    "constraint_init_set_defaults": (None, [_POINTER, _POINTER]),
    "clone_matcher": (_POINTER, [_POINTER]),
    "free_matcher": (None, [_POINTER]),
    "matcher_get_error": (ctypes.c_char_p, [_POINTER]),
    "matcher_is_error": (_BOOL, [_POINTER]),
    "matcher_is_stopped": (_BOOL, [_POINTER]),
    "matcher_consume_tokens": (_INT, [_POINTER, _POINTER, _SIZE]),
}


@lru_cache(maxsize=1)
def functions() -> tuple[dict[str, Any], dict[str, Any]]:
    """The long and the short functions, by the C name without `llg_`. The first call imports llguidance, some 30 ms."""
    import llguidance._lib as library

    found: list[dict[str, Any]] = []
    for handle, signatures in ((ctypes.CDLL(library.__file__), _LONG), (ctypes.PyDLL(library.__file__), _SHORT)):
        functions = {name: getattr(handle, f"llg_{name}") for name in signatures}
        for name, (restype, argtypes) in signatures.items():
            functions[name].restype, functions[name].argtypes = restype, argtypes
        found.append(functions)
    return found[0], found[1]


class Words:
    """The tokens of one model. `words` has the bytes of each; control tokens begin with 0xFF. `cut` gives the tokens of
    a text in the middle of a reply, and may raise an `ErllamaError`: then there are none. Takes some 0.1 s."""

    def __init__(self, words: Sequence[bytes], ends: Sequence[int], cut: Callable[[bytes], Sequence[int]]) -> None:
        self.n_vocab, self.ends = len(words), frozenset(ends)
        self.controls = tuple(token for token, word in enumerate(words) if word[:1] == b"\xff" and len(word) > 1)
        self._long, self._short = functions()
        self._free = self._long["free_tokenizer"]
        self._cut = _CUT(_cutting(cut))  # C code holds its address
        lengths = numpy.fromiter(map(len, words), numpy.uint32, len(words))
        others = numpy.array(ends[1:], numpy.uint32)
        init = _TokenizerInit(
            struct_size=ctypes.sizeof(_TokenizerInit), vocab_size=len(words), tok_eos=ends[0],
            token_lens=lengths.ctypes.data, token_bytes=b"".join(words), tokenize_assumes_string=True,
            tokenize_fn=self._cut, tok_eos_extra=others.ctypes.data, tok_eos_extra_count=len(others),
        )  # fmt: skip
        error = ctypes.create_string_buffer(400)
        self.handle = self._long["new_tokenizer_v2"](ctypes.byref(init), error, len(error))
        if not self.handle:
            raise ValueError(error.value.decode(errors="replace"))

    def guide(self, grammar: bytes) -> Guide:
        """One at the beginning of a grammar in llguidance's own form; see its `error`."""
        init = _MatcherInit()
        self._short["constraint_init_set_defaults"](ctypes.byref(init), self.handle)
        init.log_stderr_level, limits = 0, init.limits
        limits.initial_lexer_fuel, limits.step_lexer_fuel, limits.step_max_items = COMPILE_FUEL, STEP_FUEL, STEP_ITEMS
        limits.max_lexer_states, limits.max_grammar_size, limits.verbose_errors = LEXER_STATES, SYMBOLS, False
        return Guide(self, self._long["new_matcher"](ctypes.byref(init), b"llguidance", grammar))

    def __del__(self) -> None:
        if getattr(self, "handle", None):
            self._free(self.handle)


def _cutting(cut: Callable[[bytes], Sequence[int]]) -> Callable[..., int]:
    """`cut` as C calls it: writes as many tokens as there is room for, and says how many there are."""

    def called(_: None, text: int, length: int, room_at: int, room: int) -> int:
        try:
            tokens = cut(ctypes.string_at(text, length))
        except ErllamaError:
            return 0
        if room:
            found = (ctypes.c_uint32 * min(len(tokens), room))(*tokens[:room])
            ctypes.memmove(room_at, found, ctypes.sizeof(found))
        return len(tokens)

    return called


class Guide:
    """An `LlgMatcher *`, which is this object's. One thread at a time."""

    def __init__(self, words: Words, handle: int) -> None:
        self.words = words  # it must outlive this one
        self._handle = handle
        self._long, self._short = functions()
        self._free = self._short["free_matcher"]

    def copy(self) -> Guide:
        """Another one at the same place."""
        return Guide(self.words, self._short["clone_matcher"](self._handle))

    @property
    def error(self) -> str | None:
        """Why it is of no use, or not any more."""
        text: bytes | None = self._short["matcher_get_error"](self._handle)
        return None if text is None else text.decode(errors="replace")

    @property
    def is_stopped(self) -> bool:
        """Whether only an end may follow, or nothing because of an error."""
        return bool(self._short["matcher_is_stopped"](self._handle))

    def fill(self, row: Any) -> None:
        """The mask of what may follow, into an array of 32-bit words; see `error`."""
        self._long["matcher_compute_mask_into"](self._handle, row.ctypes.data, row.nbytes)

    def consume(self, tokens: Sequence[int]) -> None:
        """They follow; see `error`."""
        taken = (ctypes.c_uint32 * len(tokens))(*tokens)
        self._short["matcher_consume_tokens"](self._handle, taken, len(tokens))

    def ahead(self) -> list[int]:
        """Tokens that must follow; see `error`."""
        room = (ctypes.c_uint32 * _MOST_AHEAD)()
        count = self._long["matcher_compute_ff_tokens"](self._handle, room, _MOST_AHEAD)
        return list(room[: max(0, count)])

    def __del__(self) -> None:
        if getattr(self, "_handle", None):
            self._free(self._handle)
