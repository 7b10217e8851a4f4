"""A machine that is simulated: its CPUs, other processes on them, and an engine's threads that decode there."""

from __future__ import annotations

import random

from erllama_py.cpus import ThreadChoice
from erllama_py.engine.compute_threads import ComputeThreads, CpuShare
from erllama_py.engine.cpu_watch import CpuTimes
from erllama_py.engine.thread_trial import Shape
from helpers.engine import stub

ROW = Shape(1, 0)


class Machine:
    """CPUs, of which `busy` other processes want one each, and an engine that decodes on it.

    With `n` threads a decode takes `work / n`, and a hundredth of the work that cannot be shared. Where there are more
    threads than CPUs each gets its part of the time, and the others wait for it: `penalty` times as long.
    """

    def __init__(
        self, cpus: int, *, work: float = 0.02, penalty: float = 3.0, noise: float = 0.0, seed: int = 0
    ) -> None:
        self.cpus, self.busy = cpus, 0
        self.work, self.penalty, self.noise = work, penalty, noise
        self.tells = True  # whether its kernel tells anything
        self.fails_every = 0  # one look at its books in so many fails; 0: none
        self.looks = 0
        self.now = 0.0
        self.counts: list[int] = []  # threads of each decode
        self.told: list[int] = []  # what the engine has said to use
        self.lost = 0.0  # seconds more than with the best fixed number
        self.share = CpuShare()
        self.backend = stub()
        self._chance = random.Random(seed)
        self._best: dict[tuple[object, ...], float] = {}  # by everything that it depends on
        self._waited = self._idle = 0.0
        choice = ThreadChoice(few=cpus, many=cpus, cpus=cpus)
        self.threads = ComputeThreads(self.backend, choice, self.share, self.read, self.told.append, lambda: self.now)

    def __repr__(self) -> str:
        sizes = f"{self.cpus} CPUs, {self.busy} busy, work {self.work}, penalty {self.penalty}, noise {self.noise}"
        return f"<Machine of {sizes}>"

    def read(self) -> CpuTimes | None:
        """What its kernel tells."""
        self.looks += 1
        fails = self.fails_every and self.looks % self.fails_every == 0
        return CpuTimes(self._waited, self._idle) if self.tells and not fails else None

    def takes(self, count: int) -> float:
        """Seconds of a decode by so many threads."""
        crowd = max(1.0, (count + self.busy) / self.cpus)
        held = crowd * self.penalty if crowd > 1.0 and count > 1 else crowd
        return (self.work / count + 0.01 * self.work) * held

    @property
    def best(self) -> float:
        """What a decode takes by the best number of threads."""
        case = (self.busy, self.work, self.penalty, self.cpus)
        if case not in self._best:
            self._best[case] = min(self.takes(count) for count in range(1, self.cpus + 1))
        return self._best[case]

    def decode(self, shape: Shape = ROW) -> int:
        """One decode; how many threads it was given."""
        self.threads.begin(shape.rows, shape.tokens)
        count = self.backend.threads[0]
        took = self.takes(count) * max(0.2, self._chance.gauss(1.0, self.noise))
        self._waited += took * count * max(0.0, 1.0 - self.cpus / (count + self.busy))
        self._idle += took * max(0, self.cpus - count - self.busy)
        self.now += took
        self.lost += took - self.best
        self.threads.took(took)
        self.counts.append(count)
        return count

    def run(self, seconds: float) -> float:
        """Decode for so long; what came of it, as a share of what the best fixed number makes."""
        began, lost = self.now, self.lost
        while self.now < began + seconds:
            self.decode()
        return 1.0 - (self.lost - lost) / (self.now - began)
