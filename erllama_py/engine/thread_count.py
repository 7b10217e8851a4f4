"""How many threads compute the next decode: a pure rule over what past decodes took and what the kernel reports.

Threads wait for each other at barriers, some hundred times in a decode: one that does not get a CPU stops them all, and
fewer threads are then faster. How many is found by comparing two decodes of the same kind, one after the other. So the
rule keeps the count that has proved best, its `best`, and holds *trials*: where threads have waited for CPUs, a smaller
count takes turns with it for some decodes; where the best is not all that may be used, a larger one does, soon after
CPUs were seen idle, seldom where none are. The faster one is the new best.

    calm ──threads wait──▶ trial of fewer ──faster──▶ fewer is best ──CPUs idle, or long ago──▶ trial of more ──▶ …
                                └── slower: not again for a while, the longer the more it has cost

On a machine without other work no trial is ever held, and the count never changes. Where the kernel reports nothing,
trials are held by the clock alone. Times are in seconds of the engine's clock.
"""

from __future__ import annotations

import math
from typing import Literal

import msgspec

from erllama_py.engine.thread_trial import Shape, Trial

# Mean number of threads of the process that waited for a CPU: from here on, those that compute are held up. One busy
# process beside as many threads as CPUs makes 0.67 of two wait, and 0.94 of sixteen; the event loop of a server, less
# than 0.1.
HELD_UP = 0.3

# Mean number of idle CPUs from which on another thread may have one. Half a CPU is not worth a thread: it would wait.
IDLE = 0.7

# The pause after a trial: at least this many seconds, and this many times what the trial has lost. So trials take a
# twentieth of the time, however slow the wrong number is; a fifth where the kernel reports something new since, such as
# another process that comes and goes.
PAUSE, LOSSES = 2.0, 20.0
NEWS_PAUSE, NEWS_LOSSES = 0.5, 5.0

# The pause before more threads are tried although no CPU was seen idle, in seconds: others may give way, as processes
# of a low priority do, but seldom will. The kernel favours threads that have slept, so a few decodes by more of them
# look better than many are: with a trial every two seconds, one of five was won by chance, and half a second lost.
UNSEEN_PAUSE = 15.0

News = Literal["calm", "held up", "idle"]


class Pressure(msgspec.Struct, frozen=True):
    """What the kernel has reported of the last tenths of a second, in means over them."""

    waiting: float  # threads of this process that waited for a CPU
    idle: float  # CPUs that no process used


class Counting(msgspec.Struct, frozen=True):
    """What is known of one sort of decodes."""

    best: int
    trial: Trial | None = None
    news: News = "calm"
    ended_at: float = -math.inf  # when the last trial was over
    loss: float = 0.0  # seconds that it has cost
    lost: int = 0
    """The smaller count that was slower than the best in the last trial of one; 0: none since the best is another."""
    has_news: bool = True  # whether the kernel reports something else since it began, or the best is another since

    @property
    def is_other(self) -> bool:
        """Whether the decode under way is computed by a count that is only tried."""
        return self.trial is not None and self.trial.is_other

    def due_at(self, *, unseen: bool) -> float:
        """When the next trial may begin; `unseen`: one of more threads, although no CPU was seen idle."""
        if unseen:
            return self.ended_at + max(UNSEEN_PAUSE, LOSSES * self.loss)
        if self.has_news:
            return self.ended_at + max(NEWS_PAUSE, NEWS_LOSSES * self.loss)
        return self.ended_at + max(PAUSE, LOSSES * self.loss)


def next_count(
    counting: Counting, most: int, shape: Shape, pressure: Pressure | None, now: float
) -> tuple[Counting, int]:
    """The threads of the next decode, 1 to `most`, and the state in which it is under way.

    `pressure` is None where the kernel reports nothing.
    """
    best, trial = min(counting.best, most), counting.trial
    if trial is not None and (trial.best != best or trial.count > most or trial.is_endless):
        counting, trial = _ended(counting, now), None  # half a trial shows nothing
    news = _news(best, most, pressure)
    if news != counting.news:
        counting = msgspec.structs.replace(counting, news=news, has_news=True)
    if trial is None and now >= counting.due_at(unseen=news == "calm" and pressure is not None):
        other = _other(best, most, news, pressure, counting.lost)
        if other != best:
            trial, counting = Trial(best, other), msgspec.structs.replace(counting, has_news=False)
    if trial is None:
        return counting, best
    trial = trial.begun(shape)
    return msgspec.structs.replace(counting, trial=trial), trial.count if trial.is_other else best


def observed(counting: Counting, seconds: float, now: float) -> Counting:
    """The state after the decode that `next_count` was asked for has taken `seconds`."""
    if counting.trial is None:
        return counting
    trial = counting.trial.observed(seconds)
    counting, verdict = msgspec.structs.replace(counting, trial=trial), trial.verdict
    if verdict is None:
        return counting
    if verdict:
        # Another step may follow; but what the kernel has reported is of the old count, until it is asked again.
        won = msgspec.structs.replace(counting, best=trial.count, lost=0, has_news=True, trial=None)
        return _ended(won, now)
    fewer = trial.count if trial.count < trial.best else counting.lost
    return _ended(msgspec.structs.replace(counting, lost=fewer), now)


def _news(best: int, most: int, pressure: Pressure | None) -> News:
    if pressure is None:
        return "calm"
    if best > 1 and pressure.waiting >= HELD_UP:
        return "held up"
    return "idle" if best < most and pressure.idle >= IDLE else "calm"


def _other(best: int, most: int, news: News, pressure: Pressure | None, lost: int) -> int:
    """The count to be tried, `best` for none: one for each CPU that others leave, or one more. What others leave is a
    guess, and may be far too low: waits of threads that do not compute count too. Where it has lost, half of it is
    tried next time, down to one, and then again from the top."""
    if pressure is None:
        return best // 2 if best == most > 1 else min(most, best + 1)
    if news == "held up":
        free = min(best - 1, max(1, round(_free(best, most, pressure.waiting))))
        if lost > 1:
            return min(best - 1, lost // 2)
        return free if free > lost else best // 2
    return min(most, best + max(1, int(pressure.idle)))


def _free(best: int, most: int, waiting: float) -> float:
    """CPUs that others leave. Where the kernel is fair, `n` threads and `b` others on `N` CPUs get `N / (n + b)` each,
    and of the `n` those wait that get none: `waiting = n * (1 - N / (n + b))`, which gives `N - b`."""
    got = max(0.05, 1.0 - waiting / best)
    return most + best - most / got


def _ended(counting: Counting, now: float) -> Counting:
    loss = counting.trial.loss if counting.trial is not None else 0.0
    return msgspec.structs.replace(counting, trial=None, ended_at=now, loss=loss)
