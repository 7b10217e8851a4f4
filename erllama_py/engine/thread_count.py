"""How many threads compute the next decode: a pure rule over what past decodes took and what the kernel tells.

Threads wait for each other at barriers, some hundred times in a decode: one that does not get a CPU stops them all, and
fewer threads are then faster. No number tells how many; two decodes of the same kind, one after the other, do. So the
rule keeps the count that has proved best, its `best`, and holds *trials*: where threads have waited for CPUs, a smaller
count takes turns with it for some decodes; where the best is not all that may be used, a larger one does, soon after
CPUs were seen idle, seldom where none are. The faster one is the new best.

    calm ──threads wait──▶ trial of fewer ──faster──▶ fewer is best ──CPUs idle, or long ago──▶ trial of more ──▶ …
                                └── slower: not again for a while, the longer the more it has cost

On a machine that nobody else uses no trial is ever held, and the count never changes. Without a word of the kernel,
trials are held by the clock alone. Times are in seconds of the engine's clock.
"""

from __future__ import annotations

import math
from typing import Literal

import msgspec

# Threads of the process that waited for a CPU, in the mean: from here on, those that compute are held up. One busy
# process beside as many threads as CPUs makes 0.67 of two wait, and 0.94 of sixteen; the event loop of a server, less
# than 0.1.
HELD_UP = 0.3

# CPUs idle in the mean, from which on another thread may have one. Half a CPU is not worth a thread: it would wait.
IDLE = 0.7

# A trial is over after so many decodes; or after so few, once they have taken as long as that: with decodes of 5 ms
# chance evens out over eight, and eight decodes of a second are too many to lose.
TRIAL_DECODES = 8
LEAST_DECODES = 4
TRIAL_SECONDS = 1.0

# A trial is lost at once when the other count has already cost as much as so many decodes of the best.
LOST = 8.0

# Fewer threads win a draw, and what is nearly one: the CPUs that they leave are of use to others. More threads must be
# faster by more than chance.
FEWER = 1.02
MORE = 0.97

# The pause after a trial, in seconds at least and as so many times what the trial has lost: trials take a twentieth of
# the time, however much slower the wrong number is; a fifth where the kernel has other news since, as of a neighbour
# that comes and goes.
PAUSE, LOSSES = 2.0, 20.0
NEWS_PAUSE, NEWS_LOSSES = 0.5, 5.0

# Prompt tokens of two decodes that may be compared differ by less than this share.
ALIKE = 0.25

News = Literal["calm", "held up", "idle"]


class Shape(msgspec.Struct, frozen=True):
    """What a decode is made of. The times of two that are alike can be compared."""

    rows: int
    tokens: int
    """Prompt tokens."""

    def is_like(self, other: Shape) -> bool:
        """Whether they cost about the same."""
        larger = max(self.tokens, other.tokens)
        return self.rows == other.rows and abs(self.tokens - other.tokens) <= ALIKE * larger


class Pressure(msgspec.Struct, frozen=True):
    """What the kernel has told of the last tenths of a second, in means over them."""

    waiting: float
    """Threads of this process that waited for a CPU."""
    idle: float
    """CPUs that nobody used."""


class Trial(msgspec.Struct, frozen=True):
    """Decodes of one shape by the best count and by another, in the order best, other, other, best."""

    count: int
    shape: Shape
    best_seconds: tuple[float, ...] = ()
    seconds: tuple[float, ...] = ()

    @property
    def is_other(self) -> bool:
        """Whose turn it is. The order makes up for times that rise or fall steadily, as they do in a longer context."""
        return (len(self.best_seconds) + len(self.seconds)) % 4 in (1, 2)


class Counting(msgspec.Struct, frozen=True):
    """What is known of one sort of decodes."""

    best: int
    trial: Trial | None = None
    news: News = "calm"
    ended_at: float = -math.inf
    """When the last trial was over."""
    loss: float = 0.0
    """Seconds that it has cost."""
    has_news: bool = True
    """Whether the kernel tells something else since it began, or the best is another since."""

    @property
    def due_at(self) -> float:
        """When the next trial may begin."""
        if self.has_news:
            return self.ended_at + max(NEWS_PAUSE, NEWS_LOSSES * self.loss)
        return self.ended_at + max(PAUSE, LOSSES * self.loss)


def next_count(
    counting: Counting, most: int, shape: Shape, pressure: Pressure | None, now: float
) -> tuple[Counting, int]:
    """The threads of the next decode, 1 to `most`, and the state in which it is under way.

    `pressure` is None where the kernel tells nothing.
    """
    best = min(counting.best, most)
    trial = counting.trial
    if trial is not None and (not trial.shape.is_like(shape) or max(counting.best, trial.count) > most):
        counting, trial = _ended(counting, now), None  # half a trial tells nothing
    news = _news(best, most, pressure)
    if news != counting.news:
        counting = msgspec.structs.replace(counting, news=news, has_news=True)
    if trial is None and now >= counting.due_at and counting.best <= most:
        other = _other(best, most, news, pressure)
        if other != best:
            trial = Trial(other, shape)
            counting = msgspec.structs.replace(counting, trial=trial, has_news=False)
    return counting, trial.count if trial is not None and trial.is_other else best


def observed(counting: Counting, seconds: float, now: float) -> Counting:
    """The state after the decode that `next_count` was asked for has taken `seconds`."""
    trial = counting.trial
    if trial is None:
        return counting
    if trial.is_other:
        trial = msgspec.structs.replace(trial, seconds=(*trial.seconds, seconds))
    else:
        trial = msgspec.structs.replace(trial, best_seconds=(*trial.best_seconds, seconds))
    best, other = _mean(trial.best_seconds), _mean(trial.seconds)
    decodes, took = len(trial.best_seconds) + len(trial.seconds), sum(trial.best_seconds) + sum(trial.seconds)
    whole = decodes >= TRIAL_DECODES or (decodes >= LEAST_DECODES and took >= TRIAL_SECONDS)
    lost = sum(trial.seconds) > LOST * best
    if not (lost or (whole and len(trial.seconds) == len(trial.best_seconds))):
        return msgspec.structs.replace(counting, trial=trial)
    if not lost and other <= best * (FEWER if trial.count < counting.best else MORE):
        # The way may lead further; but what the kernel tells is of the old count, until it is asked again.
        won = msgspec.structs.replace(counting, best=trial.count, has_news=True, trial=None)
        return _ended(won, now)
    return _ended(msgspec.structs.replace(counting, trial=trial), now)


def _news(best: int, most: int, pressure: Pressure | None) -> News:
    if pressure is None:
        return "calm"
    if best > 1 and pressure.waiting >= HELD_UP:
        return "held up"
    return "idle" if best < most and pressure.idle >= IDLE else "calm"


def _other(best: int, most: int, news: News, pressure: Pressure | None) -> int:
    """The count to be tried, `best` for none: one for each CPU that others leave, or one more."""
    if pressure is None:
        return best // 2 if best == most > 1 else min(most, best + 1)
    if news == "held up":
        return min(best - 1, max(1, round(_free(best, most, pressure.waiting))))
    return min(most, best + max(1, int(pressure.idle)))


def _free(best: int, most: int, waiting: float) -> float:
    """CPUs that others leave.

    Where the kernel is fair, `n` threads and `b` others on `N` CPUs get `N / (n + b)` each, and of the `n` those wait
    that get none: `waiting = n * (1 - N / (n + b))`, which gives `N - b`.
    """
    got = max(0.05, 1.0 - waiting / best)
    return most + best - most / got


def _ended(counting: Counting, now: float) -> Counting:
    trial, loss = counting.trial, 0.0
    if trial is not None and trial.best_seconds:
        loss = max(0.0, sum(trial.seconds) - len(trial.seconds) * _mean(trial.best_seconds))
    return msgspec.structs.replace(counting, trial=None, ended_at=now, loss=loss)


def _mean(values: tuple[float, ...]) -> float:
    return sum(values) / len(values) if values else math.inf
