"""llama.cpp's sampler chain of one request, and the random numbers that it uses.

The draw takes one for each token, or only where there is a choice: that depends on the kind of draw and on the build of
llama.cpp, so it is tried out. XTC takes one where there is a choice. They are counted, and in another life of the reply
as many are taken before it goes on. Each of the two has its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from erllama_py.engine.llama import steps
from erllama_py.engine.llama.candidates import Candidates
from erllama_py.engine.llama.levels import Levels
from erllama_py.engine.llama.native import Library
from erllama_py.options.sampling import Sampling

_PAIR = (1.0, 0.0)  # logits of two candidates: a choice


class Chain:
    """Every step of a request, `without` so many of the first ones. Those that look back have seen `history`."""

    def __init__(self, making: steps.Making, sampling: Sampling, history: Sequence[int], *, without: int = 0) -> None:
        self._library = making.library
        self._apply, self._accept = making.library.quick.sampler_apply, making.library.quick.sampler_accept
        used = [*steps.used(sampling)][without:]
        xtc = next((at for at, step in enumerate(used) if step is steps.STEPS["xtc"]), None)
        # XTC begins a part of its own, so that the candidates that come to it can be counted.
        self._before = None if not xtc else make_part(making, sampling, history, used[:xtc])
        draw = steps.draw(making, sampling)
        self._chain = make_part(making, sampling, history, used[xtc or 0 :], draw)
        self._draw, self._xtc = draw, None if xtc is None else self._library.c.llama_sampler_chain_get(self._chain, 0)
        self._is_random, self._has_xtc = sampling.temperature > 0.0, xtc is not None
        is_usual = not sampling.mirostat and sampling.adaptive_p is None
        self._least = 1 if is_usual and takes_always(making.library) else 2  # candidates of a draw that takes a number
        self._draws = self._coins = 0  # random numbers that were used, and those of XTC
        self._levels = Levels(draw, sampling)

    def apply(self, array: Any) -> None:
        """Choose among the candidates."""
        if self._before is not None:
            self._apply(self._before, array)
        if self._has_xtc:
            self._coins += array.size > 1
        self._apply(self._chain, array)
        if self._is_random:
            self._draws += array.size >= self._least

    def accept(self, token: int) -> None:
        """This token comes next."""
        if self._before is not None:
            self._accept(self._before, token)
        self._accept(self._chain, token)

    @property
    def used(self) -> tuple[int | float, ...]:
        """The random numbers that were used, and the levels that the draws have led to."""
        return self._draws, self._coins, *self._levels.values

    def go_on(self, used: tuple[int | float, ...]) -> None:
        """Draw from now on as another chain does that has used this."""
        draws, coins, *levels = used or (0, 0)
        self._spend(self._draw, int(draws))
        if self._xtc is not None:
            self._spend(self._xtc, int(coins))
        self._draws, self._coins = int(draws), int(coins)
        self._levels.set(tuple(levels))

    def _spend(self, sampler: Any, count: int) -> None:
        pair = Candidates(self._library, len(_PAIR))
        logits = self._library.numpy.array(_PAIR, "f4")
        for _ in range(count):
            self._levels.open()
            pair.fill(logits)
            self._apply(sampler, pair.array)

    def close(self) -> None:
        """Free it. Once."""
        for part in (self._before, self._chain):
            if part is not None:
                self._library.c.llama_sampler_free(part)


def make_chain(making: steps.Making, sampling: Sampling, history: Sequence[int]) -> Any:
    """All steps of a request as one `llama_sampler *`."""
    return make_part(making, sampling, history, [*steps.used(sampling)], steps.draw(making, sampling))


def make_part(
    making: steps.Making, sampling: Sampling, history: Sequence[int], part: Sequence[steps.Step], draw: Any = None
) -> Any:
    """A `llama_sampler *` of these steps, and of the draw where it is given."""
    c, accept = making.library.c, making.library.quick.sampler_accept
    chain = c.llama_sampler_chain_init(c.llama_sampler_chain_params(no_perf=True))
    for step in part:
        sampler = step.make(making, sampling)
        if step.kind == "few":
            for token in history:
                accept(sampler, token)
        c.llama_sampler_chain_add(chain, sampler)
    if draw is not None:
        c.llama_sampler_chain_add(chain, draw)
    return chain


@lru_cache(maxsize=1)
def takes_always(library: Library) -> bool:
    """Whether the usual draw takes a random number also where there is but one candidate."""
    c, many = library.c, Candidates(library, 1000)
    zeros = library.numpy.zeros(1000, "f4")

    def drawn(before: int) -> list[int]:
        sampler, found = c.llama_sampler_init_dist(1), list[int]()
        for count in (before, 1000, 1000, 1000):
            if count:
                many.fill(zeros, library.numpy.arange(count, dtype="i4"))
                library.quick.sampler_apply(sampler, many.array)
                found.append(many.selected())
        c.llama_sampler_free(sampler)
        return found[-3:]

    return drawn(0) != drawn(1)
