"""Whether the decode under way takes far longer than those before it: what measures for the rule of `pace`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from erllama_py.engine.pace import Pace, observed, patience
from erllama_py.engine.recorder import Operation, Recorder
from erllama_py.engine.work import Work


class Heart:
    """`begins` and `ends` belong to the thread that computes; `overdue` may be asked from any.

    Decodes are counted in `work`, and written down in `recorder`.
    """

    def __init__(
        self, clock: Callable[[], float] = time.perf_counter, work: Work | None = None, recorder: Recorder | None = None
    ) -> None:
        self._clock, self._work = clock, Work() if work is None else work
        self._recorder = Recorder() if recorder is None else recorder
        self._pace = Pace()
        self._under_way: tuple[float, int] | None = None  # since when, and of how many tokens

    def begins(self, tokens: int, requests: Iterable[int] = (), operation: Operation = "decode") -> None:
        """A decode."""
        self._recorder.begin(operation, requests, tokens)
        self._under_way = (self._clock(), tokens)

    def ends(self, done: bool, *, raised: bool = False) -> None:
        """That decode has ended. One that was not `done` is no measurement; one that has `raised` stays written
        down."""
        if self._under_way is not None:
            began, tokens = self._under_way
            seconds, work = self._clock() - began, self._work
            work.seconds += seconds
            if done:
                self._pace = observed(self._pace, tokens, seconds)
                work.decodes += 1
                work.tokens += tokens
        self._under_way = None
        self.count()
        if not raised:  # else it is what a report of the crash is to tell of
            self._recorder.begin("between")

    def count(self) -> None:
        """Write down what was counted so far."""
        self._recorder.count(self._pace, self._work)

    def overdue(self) -> float | None:
        """For how many seconds the decode under way has run, where that is far too long; else None."""
        if self._under_way is None:
            return None
        began, tokens = self._under_way
        seconds = self._clock() - began
        return seconds if seconds > patience(self._pace, tokens) else None
