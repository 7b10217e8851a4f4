"""What callers ask to be kept, from a look-up or a save to the row that is stored. Owns what is asked of pending rows.

A caller says up to which token of its prompt, and for how many seconds. Rows that are there already are kept when the
prompt is looked up, those that are saved for it once they are stored, and those that are used are kept anew. A row is
kept in every tier that has it, as far as the tier's share goes (`keeps`).
"""

from __future__ import annotations

from erllama_py.cache.index import Index
from erllama_py.cache.messages import Find
from erllama_py.cache.policy import keep_seconds
from erllama_py.cache.steps import Steps
from erllama_py.cache.walk import Path


class Keeping:
    """See the module. Times are in unix seconds."""

    def __init__(self, index: Index, counters: dict[str, float]) -> None:
        self._index, self._counters = index, counters
        self._asked: dict[tuple[str, bytes], float] = {}  # of pending rows, by tier and key: for how many seconds

    def __repr__(self) -> str:
        return f"<Keeping, asked of {len(self._asked)} pending rows>"

    def found(self, find: Find, path: Path, now: float) -> Steps[None]:
        """A prompt was looked up: what is saved of it, or about to be, is kept up to where that is asked for."""
        start = 0
        for end, key in path.ends():
            if not (seconds := keep_seconds(start, find.keeps)):
                return
            self.row(key, seconds, now)
            start = end
            yield 1

    def row(self, key: bytes, seconds: float, now: float) -> None:
        """Keep a row wherever it is stored, and where it is pending once it is."""
        for tier, book in self._index.books.items():
            if key in book.rows:
                self._keep(tier, key, seconds, now)
            elif key in book.pending:
                self._asked[tier, key] = max(seconds, self._asked.get((tier, key), 0.0))

    def stored(self, tier: str, key: bytes, now: float) -> None:
        """A row that was pending is there."""
        if (seconds := self._asked.pop((tier, key), None)) is not None:
            self._keep(tier, key, seconds, now)

    def given_up(self, tier: str, key: bytes) -> None:
        """A row that was pending will not come."""
        self._asked.pop((tier, key), None)

    def used(self, key: bytes, now: float) -> None:
        """A row was used."""
        if any([book.keeps.renew(key, now) for book in self._index.books.values()]):
            self._counters["keeps.renewed"] += 1

    def _keep(self, tier: str, key: bytes, seconds: float, now: float) -> None:
        book = self._index.books.get(tier)
        if book is None:
            return
        known = key in book.keeps
        if not book.keep(key, seconds, now):
            self._counters["keeps.refused"] += 1
        elif not known:
            self._counters["keeps.rows"] += 1
