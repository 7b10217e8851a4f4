"""How often a model may be crashed on purpose: seldom enough that its supervisor does not give it up. Pure."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

# A model's supervisor restarts it five times within a minute: these leave two for crashes that nobody asked for.
MOST, SECONDS = 3, 60.0


def recent(at: Sequence[float], now: float) -> tuple[float, ...]:
    """Those of the times that still count."""
    return tuple(one for one in at if now - one < SECONDS)


def wait(at: Sequence[float], now: float) -> int:
    """Whole seconds until there may be another drill after those at these times; 0 where there may be one now.

    They are tried against `recent`: what is left of the minute by subtraction may round to a second too few.
    """
    counted = sorted(recent(at, now))
    if len(counted) < MOST:
        return 0
    least = max(1, math.floor(SECONDS - (now - counted[-MOST])))
    return next(after for after in itertools.count(least) if len(recent(at, now + after)) < MOST)


def with_one(drills: Mapping[str, tuple[float, ...]], model: str, now: float) -> dict[str, tuple[float, ...]]:
    """The times of the drills that still count, by model, after another one of this model."""
    kept = {name: left for name, at in drills.items() if (left := recent(at, now))}
    return {**kept, model: (*kept.get(model, ()), now)}
