"""How often a model may be crashed on purpose: seldom enough that its supervisor does not give it up. Pure."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

MOST, LEAST_SECONDS = 3, 60.0
LEFT = 2  # restarts of a model's budget that are for crashes which nobody asked for, where it has that many
DUE_SECONDS = 1.0  # a restart counts from when it is due, which is less than that after a drill


class Bound(NamedTuple):
    """So many drills in so many seconds."""

    most: int
    seconds: float


def bound(intensity: int, period: float, load_seconds: float) -> Bound:
    """For a model with a budget of so many restarts in so many seconds, whose loads take so long: none for one that is
    never restarted, and one where the budget has few.

    The supervisor's clock stands still in loads, of which each drill has one.
    """
    most = min(intensity, max(1, min(MOST, intensity - LEFT)))
    return Bound(most, math.ceil(max(LEAST_SECONDS, period) + DUE_SECONDS + most * load_seconds))


def wait(at: Sequence[float], now: float, most: Bound) -> int:
    """Whole seconds until there may be another drill after those at these times; 0 where there may be one now. Not for
    a bound of none.

    They are tried one by one: what is left of the time by subtraction may round to a second too few.
    """

    def is_free(then: float) -> bool:
        return sum(then - one < most.seconds for one in at) < most.most

    if is_free(now):
        return 0
    least = max(1, math.floor(most.seconds - (now - sorted(at)[-most.most])))
    return next(after for after in itertools.count(least) if is_free(now + after))


class Drilled(NamedTuple):
    """The last drills of a model: their times, and the bound that they are counted by."""

    at: tuple[float, ...]
    bound: Bound


def with_one(drills: Mapping[str, Drilled], model: str, now: float, most: Bound) -> dict[str, Drilled]:
    """What is to be known after another drill of this model: those that still count, by model."""
    kept = {
        name: Drilled(at, one.bound)
        for name, one in drills.items()
        if (at := tuple(then for then in one.at if now - then < one.bound.seconds))
    }
    before = kept[model].at if model in kept else ()
    return {**kept, model: Drilled((*before, now), most)}
