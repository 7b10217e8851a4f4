"""Rows that were evicted or found bad, remembered for a while so that a miss can say so. Pure."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable
from typing import Literal

from erllama_py.tiers.messages import RowMeta

REMEMBERED = 10_000

Loss = Literal["evicted", "bad"]


class Losses:
    """Owns what is remembered: the last `REMEMBERED` rows."""

    def __init__(self) -> None:
        self._lost: OrderedDict[bytes, tuple[bytes, int, Loss]] = OrderedDict()  # key → parent, end, why
        self._ends: dict[bytes, Counter[int]] = {}  # parent → where they ended

    def add(self, meta: RowMeta, why: Loss) -> None:
        """A row is gone."""
        self.forget(meta.key)
        self._lost[meta.key] = (meta.parent, meta.end, why)
        self._ends.setdefault(meta.parent, Counter())[meta.end] += 1
        while len(self._lost) > REMEMBERED:
            self.forget(next(iter(self._lost)))

    def forget(self, key: bytes) -> None:
        """It is back, or too long ago."""
        if (lost := self._lost.pop(key, None)) is None:
            return
        parent, end, _ = lost
        ends = self._ends[parent]
        ends[end] -= 1
        if not ends[end]:
            del ends[end]
        if not ends:
            del self._ends[parent]

    def ends_after(self, key: bytes) -> Iterable[int]:
        """Where rows ended that went on from `key`."""
        return self._ends.get(key, ())

    def why(self, key: bytes) -> Loss | None:
        """Why a row is gone; None if it is there, or never was, or is forgotten."""
        lost = self._lost.get(key)
        return None if lost is None else lost[2]
