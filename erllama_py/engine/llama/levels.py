"""What Mirostat and adaptive-p have come to: numbers inside of llama.cpp's samplers, which its API neither tells nor
takes.

They are looked for where the build that this library is tested with has them, and touched only where the sampler, while
it is new, has the very numbers there that it was made with. Elsewhere there are none: a reply that goes on in another
life then begins with them anew.
"""

from __future__ import annotations

import ctypes
from typing import Any, NamedTuple

from erllama_py.options.sampling import Sampling

_MERSENNE = 5000  # bytes of the random numbers' state


class _Place(NamedTuple):
    """Offsets in bytes of what a new sampler has for certain, and of its levels, with their values."""

    known: dict[int, float]
    levels: dict[int, float]
    open: float | None = None  # the level at which no candidate is left out


def _place(sampling: Sampling) -> _Place | None:
    tau, eta = sampling.mirostat_tau, sampling.mirostat_eta
    match sampling.mirostat:
        case 1:
            return _Place({12: tau, 16: eta}, {24: 2 * tau}, 10.0)
        case 2:
            return _Place({8: tau, 12: eta}, {16: 2 * tau}, 1000.0)
    target, decay = sampling.adaptive_p, sampling.adaptive_p_decay
    if target is None:
        return None
    first = 16 + _MERSENNE
    weight = 1 / (1 - decay)
    return _Place({0: target, 4: decay}, {first: target * weight, first + 4: weight})


class Levels:
    """Those of a `sampler` that was made just now; `values` is empty where there are none."""

    def __init__(self, sampler: Any, sampling: Sampling) -> None:
        place = _place(sampling)
        self._numbers: list[ctypes.c_float] = []
        self._open: float | None = None
        if place is None or sampling.temperature <= 0.0:
            return
        address = ctypes.cast(sampler, ctypes.POINTER(ctypes.c_void_p))[1] or 0
        everything = place.known | place.levels
        if all(_is_about(_at(address, offset).value, value) for offset, value in everything.items()):
            self._numbers, self._open = [_at(address, offset) for offset in place.levels], place.open

    @property
    def values(self) -> tuple[float, ...]:
        return tuple(number.value for number in self._numbers)

    def set(self, values: tuple[float, ...]) -> None:
        """Go on from these; from fewer, where another build has told fewer."""
        for number, value in zip(self._numbers, values, strict=False):
            number.value = value

    def open(self) -> None:
        """Leave no candidate out in the next draw."""
        if self._open is not None:
            for number in self._numbers:
                number.value = self._open


def _at(address: int, offset: int) -> ctypes.c_float:
    return ctypes.c_float.from_address(address + offset)


def _is_about(value: float, wanted: float) -> bool:
    return abs(value - wanted) <= 1e-4 * max(1.0, abs(wanted))
