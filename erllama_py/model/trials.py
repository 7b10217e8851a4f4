"""Who may be worked on after crashes: all, or one suspect alone. For what crashes together, by the rule in `suspects`.

A call asks before it goes to its engine, at first and after each crash. While a suspect is on trial all others wait,
new ones too: so nothing else is lost if it crashes once more. One that was cleared waits too, out of its engine, until
all others were tried.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

import anyio

from erllama_py.errors import CrashReport
from erllama_py.model.suspects import Place, Suspects, after_crash, has_passed, may_run, next_trial, without


class Tried(Protocol):
    """A call that may be tried."""

    @property
    def place(self) -> Place:
        """How far it has come."""

    def withdraw(self) -> None:
        """Take it out of its engine, until it may run again; `Trials.is_out` is called when nothing of it is there."""


def _identity(crash: object) -> object:
    """What is the same in all that is told of one crash."""
    if isinstance(crash, CrashReport) and crash.pid is not None and crash.reason != "exception":
        return crash.pid, crash.at
    return crash


class Trials:
    """See the module. Calls have ids of their own."""

    def __init__(self) -> None:
        self._suspects = Suspects()
        self._calls: dict[int, Tried] = {}
        self._leaving: set[int] = set()  # were withdrawn, and are not out yet
        self._guilty: set[int] = set()
        self._last: object | None = None  # the crash that was looked at last
        self._blamed: set[int] = set()  # those that it was counted for
        self._changed = anyio.Event()

    def __repr__(self) -> str:
        return f"<Trials of {self._suspects.suspected}, {self._suspects.trial} on trial>"

    def enter(self, call_id: int, call: Tried) -> None:
        """A call is open."""
        self._calls[call_id] = call

    def leave(self, call_id: int) -> None:
        """A call is over."""
        if self._calls.pop(call_id, None) is not None:
            self._guilty.discard(call_id)
            self._clear(call_id)

    def is_on_trial(self, call_id: int) -> bool:
        """Whether a call runs alone now."""
        return self._suspects.trial == call_id

    def is_guilty(self, call_id: int) -> bool:
        """Whether a call has crashed its engine alone."""
        return call_id in self._guilty

    def may_run(self, call_id: int) -> bool:
        """Whether a call may go to its engine now. It has to do so at once: for a suspect the trial begins."""
        if self._leaving:
            return False
        self._suspects = next_trial(self._suspects)
        return may_run(self._suspects, call_id)

    async def turn(self, call_id: int) -> None:
        """Wait until a call may run."""
        while not self.may_run(call_id):
            await self._changed.wait()

    def crashed(self, crash: object, blamed: Collection[int]) -> None:
        """A crash, told once or by each call that was in it. `blamed` were worked on by what has crashed.

        Several engines of one process tell of its end, each in its own words: to a call it counts once.
        """
        identity = _identity(crash)
        if is_new := not (identity is self._last or identity == self._last):
            self._last, self._blamed = identity, set()
        places = {
            call_id: call.place
            for call_id, call in self._calls.items()
            if call_id in blamed and call_id not in self._blamed
        }
        if not is_new and not places:
            return
        self._blamed.update(places)
        self._suspects, guilty = after_crash(self._suspects, places)
        if guilty is not None:
            self._guilty.add(guilty)
        self._wake()

    def moved(self, call_id: int) -> None:
        """A call on trial has come further, perhaps past the place where it crashed."""
        call = self._calls.get(call_id)
        if call is None or not self.is_on_trial(call_id) or not has_passed(self._suspects, call.place):
            return
        self._suspects = without(self._suspects, call_id)
        if self._suspects.suspected:
            self._leaving.add(call_id)
            call.withdraw()
        else:
            self._wake()

    def is_out(self, call_id: int) -> None:
        """Nothing of a call that was withdrawn is in its engine any more."""
        self._leaving.discard(call_id)
        self._wake()

    def _clear(self, call_id: int) -> None:
        if call_id in self._suspects.records:
            self._suspects = without(self._suspects, call_id)
            self._wake()

    def _wake(self) -> None:
        changed, self._changed = self._changed, anyio.Event()
        changed.set()
