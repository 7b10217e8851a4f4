"""How the engines of a process that decode at the same time share its CPUs: one table for all of them.

Each engine takes a seat before it decodes and leaves it when it has nothing to do; both are rare, so all grants are
computed then, and read without a lock.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

import msgspec


class Claim(msgspec.Struct, frozen=True):
    """What an engine could use."""

    most: int  # threads; exactly so many where they are `fixed`
    fixed: bool = False  # whether a user has chosen them
    cpus: int = 1  # what there is to share, as this engine has found it


def share_out(claims: Sequence[Claim]) -> list[int]:
    """Threads for each engine, in order: fixed ones get their number, the others equal parts of the rest, 1 at
    least."""
    left = max((claim.cpus for claim in claims), default=0) - sum(claim.most for claim in claims if claim.fixed)
    granted = [claim.most for claim in claims]
    shared = sorted((n for n, claim in enumerate(claims) if not claim.fixed), key=lambda n: claims[n].most)
    for place, number in enumerate(shared):
        part = -(-max(left, 0) // (len(shared) - place))
        granted[number] = max(1, min(part, claims[number].most))
        left -= granted[number]
    return granted


class Seat:
    """One engine at work; `granted` is read by its thread before each decode."""

    def __init__(self, claim: Claim) -> None:
        self.claim = claim
        self.granted = claim.most


class CpuShare:
    """The seats of a process. From any thread."""

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
        for seat, granted in zip(self._seats, share_out([seat.claim for seat in self._seats]), strict=True):
            seat.granted = granted


# CPUs belong to the process: engines of all its runtimes share them.
PROCESS = CpuShare()
