"""Whether a child that failed is restarted, after how long, and which siblings with it. Pure.

The laws: in any window of `period` seconds there are at most `intensity` restarts; the delay grows with the number of
restarts in the last `period`, up to the cap, and is back at its first value after a quiet period.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

Strategy = Literal["one_for_one", "one_for_all", "rest_for_one"]
NotNegative = Annotated[float, Meta(ge=0.0)]


class RestartLimits(msgspec.Struct, frozen=True):
    """How often, and after which delays, something is restarted before it is given up. Times are in seconds.

    Three restarts a minute outlast a passing fault and stop soon on a lasting one. The first delay is short because
    most faults do not repeat.
    """

    intensity: Annotated[int, Meta(ge=0)] = 3
    """Most restarts within a `period`; one more, and it is given up."""
    period: Annotated[float, Meta(gt=0.0)] = 60.0
    """Seconds in which restarts are counted; those of the starts are not."""
    backoff_first: NotNegative = 0.05
    """Delay of the first restart."""
    backoff_factor: Annotated[float, Meta(ge=1.0)] = 2.0
    """What the delay is multiplied by for each further one, so that a failed dependency has time to recover."""
    backoff_max: NotNegative = 5.0
    """The longest delay."""
    jitter: Annotated[float, Meta(ge=0.0, le=1.0)] = 0.25
    """Largest random change of the delay, as a fraction: what failed together does not restart together."""

    def __post_init__(self) -> None:
        if self.intensity < 0 or self.period <= 0:
            raise ValueError(f"intensity must be at least 0 and period above 0: {self}")
        if self.backoff_first < 0 or self.backoff_max < 0 or self.backoff_factor < 1 or not 0 <= self.jitter <= 1:
            raise ValueError(f"delays must not be negative, the factor at least 1, jitter from 0 to 1: {self}")


@dataclass(frozen=True)
class RestartAfter:
    """Restart once `delay` seconds have passed; `history` is for the next decision."""

    delay: float
    history: tuple[float, ...]


@dataclass(frozen=True)
class GiveUp:
    """The budget is spent: `history` holds the restarts that spent it."""

    history: tuple[float, ...]


def decide(limits: RestartLimits, history: tuple[float, ...], now: float, random: float) -> RestartAfter | GiveUp:
    """What to do about a failure at `now`, by a clock that stands still during starts.

    `history` holds the times at which restarts were due, as given by earlier decisions; `random` is in `[0, 1)`.
    """
    recent = tuple(due for due in history if now - due < limits.period)
    if len(recent) >= limits.intensity:
        return GiveUp(recent)
    delay = backoff(limits, len(recent)) * (1 + limits.jitter * (2 * random - 1))
    return RestartAfter(delay, (*recent, now + delay))


def backoff(limits: RestartLimits, restarts: int) -> float:
    """The delay before jitter, after `restarts` restarts in the last period."""
    try:
        return min(limits.backoff_max, limits.backoff_first * limits.backoff_factor**restarts)
    except OverflowError:
        return limits.backoff_max


def affected_children(strategy: Strategy, order: Sequence[str], failed: str) -> tuple[str, ...]:
    """The children, in start order, that are stopped and restarted when `failed` fails; itself included.

    `order` is the start order: later children may depend on earlier ones, never the other way round.
    """
    if strategy == "one_for_one":
        return (failed,)
    if strategy == "one_for_all":
        return tuple(order)
    return tuple(order[order.index(failed) :])
