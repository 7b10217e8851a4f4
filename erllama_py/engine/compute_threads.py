"""The threads of one engine: asks the rule before each decode, and the share and the kernel for its input.

`ComputeThreads` is used by the worker, on the engine thread. It owns this engine's seat in the share, and what the rule
has learned of two sorts of decodes: those of few tokens and those of many. `CpuShare` is one table for all engines of a
process and of its children.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence

from erllama_py.cpus import ThreadChoice
from erllama_py.engine.backend import Backend
from erllama_py.engine.cpu_table import BYTES, ROWS, CpuTable, choices_of, new_page, open_row, packed
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
    least. Those that were given CPUs of their own share these, and no others."""
    groups = {choice.group for choice in choices}
    if len(groups) < 2:
        return _share_out(choices)
    granted = dict[int, int]()
    for group in groups:
        numbers = [number for number, choice in enumerate(choices) if choice.group == group]
        granted |= zip(numbers, _share_out([choices[number] for number in numbers]), strict=True)
    return [granted[number] for number in range(len(choices))]


def _share_out(choices: Sequence[ThreadChoice]) -> list[int]:
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
        self.place: int | None = None  # its cell of those that its process has; None: there was none left


class CpuShare:
    """The engines of an application that decode at the same time, in this process and in its children, and how they
    share its CPUs. From any thread.

    Each takes a seat before each decode and leaves it when it has nothing to do. The grants are computed when the table
    has changed: rarely.
    """

    def __init__(self, table: CpuTable | None = None) -> None:
        self.begin(table)

    def begin(self, table: CpuTable | None = None) -> None:
        """With nobody at work, and with another lock: that of a process that was forked may be held for good."""
        self._lock = threading.Lock()
        self._table = CpuTable() if table is None else table
        self._seats: list[Seat] = []
        self._seen = b""
        self._fd: int | None = None  # of the table's page, once others see it
        self._rows: set[int] = set()  # those of children

    def __repr__(self) -> str:
        return f"<CpuShare {[seat.granted for seat in self._seats]}>"

    def take(self, seat: Seat) -> None:
        """This engine decodes from now on. Allowed again and again: then it sees what others have changed."""
        with self._lock:
            if seat not in self._seats:
                self._seats.append(seat)
                self._enter(seat)
            self._look()

    def leave(self, seat: Seat) -> None:
        """It has nothing to decode any more. Allowed twice."""
        with self._lock:
            if seat in self._seats:
                self._seats.remove(seat)
                if seat.place is not None:
                    self._table.write(seat.place, 0)
                seat.place = None
                self._look()

    def _enter(self, seat: Seat) -> None:
        taken = {other.place for other in self._seats}
        seat.place = next((place for place in range(self._table.count) if place not in taken), None)
        if seat.place is not None:
            self._table.write(seat.place, packed(seat.choice))

    def _look(self) -> None:
        """Compute the grants, where the table is another than at the last look."""
        page = self._table.read()
        if page == self._seen:
            return
        self._seen = page
        choices = choices_of(page)
        numbers = list(choices)
        granted = dict(zip(numbers, share_out([choices[number] for number in numbers]), strict=True))
        for seat in self._seats:
            if seat.place is not None:
                seat.granted = granted.get(self._table.first + seat.place, 1)

    # --- with other processes ----------------------------------------------------------------------------------

    def lend(self) -> tuple[int, int] | None:
        """A row of cells for a child that is begun: the descriptor of the page, which stays ours, and the row's number.
        None where there is none; the child then shares with nobody."""
        with self._lock:
            row = next((row for row in range(ROWS) if row not in self._rows), None)
            if row is None:
                return None
            if self._fd is None:
                try:
                    self._fd, page = new_page()
                except OSError:
                    return None
                self._table = self._table.moved_to(page)
            self._rows.add(row)
            return self._fd, row

    def take_back(self, row: int) -> None:
        """That child has ended: nothing of it decodes."""
        with self._lock:
            self._rows.discard(row)
            self._table.empty(row)
            if not self._rows and self._fd is not None:  # the page is ours alone until the next child
                os.close(self._fd)
                self._fd, self._table = None, self._table.moved_to(bytearray(BYTES))

    def join(self, fd: int, row: int) -> None:
        """In a child, before anything decodes: it has this row. The descriptor is not needed after that. Raises
        `OSError`."""
        with self._lock:
            self._table = open_row(fd, row)


# CPUs belong to the process: engines of all its runtimes share them, and those of its children.
PROCESS = CpuShare()


def _after_fork() -> None:
    """A process that was forked off has CPUs to share with its own children alone."""
    PROCESS.begin()


os.register_at_fork(after_in_child=_after_fork)
