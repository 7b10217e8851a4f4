"""DRY samplers. They take long to make, for llama.cpp looks for each breaker in every token of the vocabulary: tens of
milliseconds, and a second for breakers that tokens of all kinds end with the beginning of. So they are made on the
threads of callers, and copied on the engine's.

A copy takes 0.1 µs for each place that a breaker has in the vocabulary; where there are too many, it is refused.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from erllama_py.engine.llama.native import Library
from erllama_py.errors import InvalidOption
from erllama_py.options.sampling import Sampling

MOST_KEPT = 32
MOST_PLACES = 32_768
_USUAL = frozenset(text.encode() for text in Sampling().dry_sequence_breakers)


class Dry(NamedTuple):
    """The options of a DRY sampler, as llama.cpp takes them."""

    multiplier: float
    base: float
    allowed_length: int
    window: int
    breakers: tuple[bytes, ...]


class DrySamplers:
    """The samplers of one model that were made, by their options. Safe from any thread; the vocabulary is open while
    one is made or copied, and freed after `close`."""

    def __init__(self, library: Library, vocabulary: Any, words: Callable[[], Sequence[bytes]]) -> None:
        self._c, self._vocabulary, self._words = library.c, vocabulary, words
        self._lock = threading.Lock()
        self._kept: dict[Dry, Any] = {}
        self._text: bytes | None = None

    def prepare(self, dry: Dry) -> None:
        """Make it, if it is not there: not on the event loop, nor on the engine thread. Raises `InvalidOption`."""
        with self._lock:
            if dry in self._kept:
                return
        self._check(dry.breakers)
        made = self._make(dry)
        with self._lock:
            self._keep(dry, made)

    def copy(self, dry: Dry) -> Any:
        """A new `llama_sampler *`. It is made here if it was dropped for others meanwhile."""
        with self._lock:
            kept = self._kept.pop(dry, None)
            self._keep(dry, self._make(dry) if kept is None else kept)
            return self._c.llama_sampler_clone(self._kept[dry])

    def close(self) -> None:
        """Free them all. Allowed twice."""
        with self._lock:
            while self._kept:
                self._c.llama_sampler_free(self._kept.popitem()[1])

    def _keep(self, dry: Dry, made: Any) -> None:
        """As the newest of those that are kept."""
        if (other := self._kept.pop(dry, None)) is not None:  # made twice at the same time
            self._c.llama_sampler_free(other)
        self._kept[dry] = made
        if len(self._kept) > MOST_KEPT:
            self._c.llama_sampler_free(self._kept.pop(next(iter(self._kept))))

    def _make(self, dry: Dry) -> Any:
        texts = (ctypes.c_char_p * len(dry.breakers))(*dry.breakers)
        return self._c.llama_sampler_init_dry(self._vocabulary, *dry[:-1], texts, len(dry.breakers))

    def _check(self, breakers: Sequence[bytes]) -> None:
        unusual = [text for text in breakers if text not in _USUAL]
        if not unusual:
            return
        if self._text is None:
            self._text = b"\0".join([*self._words(), b""])
        places = sum(_places(text, self._text) for text in unusual)
        if places > MOST_PLACES:
            problem = f"they are in too many of the model's tokens, {places} times, and at most {MOST_PLACES}"
            raise InvalidOption("dry_sequence_breakers", f"{problem} are allowed: take fewer, or rarer ones")


def _places(breaker: bytes, words: bytes) -> int:
    """How often it is in a word, or its beginning at the end of one; a NUL byte follows each of the words."""
    return words.count(breaker) + sum(words.count(breaker[:end] + b"\0") for end in range(1, len(breaker)))
