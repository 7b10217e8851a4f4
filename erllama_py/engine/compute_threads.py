"""The threads of one engine: asks the rule before each decode, and the share and the kernel for its input.

`ComputeThreads` is used by the worker, on the engine thread. It owns this engine's seat in the share, and what the rule
has learned of two sorts of decodes: those of few tokens and those of many. `CpuShare` is one table for all engines of a
process.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from erllama_py.cpus import ThreadChoice
from erllama_py.engine.backend import Backend
from erllama_py.engine.cpu_watch import CpuTimes, Pressures, Sort
from erllama_py.engine.thread_count import Counting, next_count, observed
from erllama_py.engine.thread_trial import Shape

# From this many tokens on, matrix products keep the arithmetic units busy: more threads help, even if memory is slow.
MANY = 32


class ComputeThreads:
    """See the module. `on_count(count)` is called when the number of compute threads has changed for good; `read` is
    `CpuWatch.read`."""

    def __init__(
        self, backend: Backend, choice: ThreadChoice, share: CpuShare, read: Callable[[], CpuTimes | None],
        on_count: Callable[[int], object], clock: Callable[[], float] = time.perf_counter,
    ) -> None:  # fmt: skip
        self._backend, self._choice, self._share = backend, choice, share
        self._on_count, self._clock = on_count, clock
        self._pressures = Pressures(read)
        self._seat = Seat(choice)
        self._states: dict[Sort, Counting] = {"few": Counting(choice.few), "many": Counting(choice.many)}
        self._sort: Sort = "few"
        self._has_pool = False  # whether there may be threads that have computed for this one
        self._said = choice.few

    def __repr__(self) -> str:
        return f"<ComputeThreads {self._said} of {self._choice.most}, granted {self._seat.granted}>"

    def begin(self, rows: int, tokens: int) -> None:
        """A decode of `rows` decode rows and `tokens` prompt tokens follows."""
        self._share.take(self._seat)
        choice, before = self._choice, self._sort
        self._sort = "many" if rows + tokens >= MANY else "few"
        self._look(before)
        count = self._count(Shape(rows, tokens))
        # llama.cpp takes one number for a single token and another for several; what counts as few here is another
        # matter.
        single = choice.few if choice.fixed_few else count
        several = choice.many if choice.fixed_many else count
        self._backend.set_threads(single, several)
        used = single if rows + tokens == 1 else several
        self._has_pool = self._has_pool or used > 1
        if not self._in_trial(self._sort):
            if used == 1 and self._has_pool:
                self._give_back()
            if self._sort == "few" and used != self._said:
                self._said = used
                self._on_count(used)

    def _count(self, shape: Shape) -> int:
        sort, choice = self._sort, self._choice
        most, fixed = (choice.few, choice.fixed_few) if sort == "few" else (choice.many, choice.fixed_many)
        if fixed or choice.on_gpu:
            return most
        most = min(most, self._seat.granted)
        self._states[sort], count = next_count(self._states[sort], most, shape, self._pressures.of(sort), self._clock())
        return count

    @property
    def is_trying(self) -> bool:
        """Whether the decode under way uses a number of threads on trial: its time says little about later decodes."""
        return self._states[self._sort].is_other

    def took(self, seconds: float) -> None:
        """The decode has taken `seconds`."""
        self._states[self._sort] = observed(self._states[self._sort], seconds, self._clock())

    def pause(self) -> None:
        """There is nothing to decode just now: what the kernel reports of this time is not of decodes."""
        if self._in_trial(self._sort):
            self._pressures.drop()
        self._pressures.end(self._clock())

    def rest(self) -> None:
        """There is nothing to decode: others may have the CPUs."""
        self.pause()
        self._share.leave(self._seat)
        if self._has_pool:
            self._give_back()

    def _give_back(self) -> None:
        self._backend.rest()
        self._has_pool = False

    def _look(self, before: Sort) -> None:
        """What happens during a trial says nothing about the best."""
        if self._choice.most == 1 or self._choice.is_fixed:
            return
        if self._in_trial(before):
            self._pressures.drop()
        if self._in_trial(self._sort):
            self._pressures.end(self._clock())
        else:
            self._pressures.begin(self._sort, self._clock())

    def _in_trial(self, sort: Sort) -> bool:
        return self._states[sort].trial is not None


# --- the share -----------------------------------------------------------------------------------------------------


def share_out(choices: Sequence[ThreadChoice]) -> list[int]:
    """Threads for each engine, in order: fixed ones get their number, the others equal parts of the rest, 1 at
    least."""
    fixed = sum(choice.most for choice in choices if choice.is_fixed)
    left = max((choice.cpus for choice in choices), default=0) - fixed
    granted = [choice.most for choice in choices]
    shared = sorted((n for n, choice in enumerate(choices) if not choice.is_fixed), key=lambda n: choices[n].most)
    for place, number in enumerate(shared):
        part = -(-max(left, 0) // (len(shared) - place))
        granted[number] = max(1, min(part, choices[number].most))
        left -= granted[number]
    return granted


class Seat:
    """One engine at work; `granted` is read by its thread before each decode."""

    def __init__(self, choice: ThreadChoice) -> None:
        self.choice = choice
        self.granted = choice.most


class CpuShare:
    """The engines of a process that decode at the same time, and how they share its CPUs. From any thread.

    Each takes a seat before it decodes and leaves it when it has nothing to do; both are rare, so all grants are
    computed then, and read without a lock.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seats: list[Seat] = []

    def __repr__(self) -> str:
        return f"<CpuShare {[seat.granted for seat in self._seats]}>"

    def take(self, seat: Seat) -> None:
        """This engine decodes from now on. Allowed twice."""
        with self._lock:
            if seat not in self._seats:
                self._seats.append(seat)
                self._share()

    def leave(self, seat: Seat) -> None:
        """It has nothing to decode any more. Allowed twice."""
        with self._lock:
            if seat in self._seats:
                self._seats.remove(seat)
                self._share()

    def _share(self) -> None:
        for seat, granted in zip(self._seats, share_out([seat.choice for seat in self._seats]), strict=True):
            seat.granted = granted


# CPUs belong to the process: engines of all its runtimes share them.
PROCESS = CpuShare()
