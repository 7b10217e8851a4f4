"""Sequences at rest, whose first cells others may take.

In a sliding window, cells that nothing looks back to from a sequence's end are lent to whoever needs some. The sequence
can still go on, but it can be cut back no further; the scheduler is told, since it chooses what to cut back.
"""

from __future__ import annotations

from collections.abc import Container

from erllama_py.engine.backend import Backend
from erllama_py.engine.jobs import Forgot


class Resting:
    """What the sequences that a request has left began with when that was last told."""

    def __init__(self, backend: Backend, *, forgets: bool) -> None:
        self._backend, self._forgets = backend, forgets
        self._firsts: dict[int, int] = {}

    def left(self, seq_id: int, first: int) -> None:
        """A request has left its sequence, which begins at position `first`; -1: it is empty."""
        if self._forgets and first >= 0:
            self._firsts[seq_id] = first

    def forgot(self, in_use: Container[int]) -> list[Forgot]:
        """Those that have lost cells since. What is `in_use` again rests no more."""
        lost = []
        for seq_id, told in list(self._firsts.items()):
            first = -1 if seq_id in in_use else self._backend.positions(seq_id)[0]
            if first < 0:
                del self._firsts[seq_id]
            elif first > told:
                self._firsts[seq_id] = first
                lost.append(Forgot(seq_id, first))
        return lost
