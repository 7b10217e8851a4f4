"""The directory of a tier that no process has open, as an application sees it: looked at, checked, cleaned.

Decisions are those of a cache that runs: rows are put into an index of one tier, and what goes for room is chosen by
`eviction`. The directory itself is `tiers.offline`'s.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import ClassVar

from erllama_py.cache import checks
from erllama_py.cache.chosen import chosen
from erllama_py.cache.eviction import OWN_BYTES, Portions, orphans, surplus
from erllama_py.cache.index import Index
from erllama_py.cache.listing import row_infos
from erllama_py.errors import TierFailed
from erllama_py.options.check import absolute_path, plain_path
from erllama_py.options.tiers import LEAST_QUOTA
from erllama_py.results import FileProblem, RowInfo, RowsRemoved
from erllama_py.tiers.offline import HOLDER, OfflineStore, refusal

AT_ONCE = 256  # files that are looked at between two words of progress
OURS = frozenset({"torn", "flipped", "renamed"})  # bad files that were rows once
NO_BOUND = 1 << 60

Progress = Callable[[int, int], None]


class CacheDirectory:
    """The directory of a tier that no process has open: `with CacheDirectory("/var/lib/erllama/kvc") as directory`.

    No runtime can open it meanwhile. All methods block; looking changes nothing. Raises `TierLocked` where a process
    has it open, `TierFailed` where it cannot be used or is not a tier's, and `InvalidOption` for what is no path.
    `on_progress` is told how many files of how many are done.
    """

    HOLDER: ClassVar[str] = HOLDER
    """A file of this name may lie in the directory: a note of the process that has it open."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = absolute_path("root", str(plain_path(root)))
        """The directory."""
        self._store: OfflineStore | None = OfflineStore(self.root, self.root)
        self._index = Index()
        self._problems: list[FileProblem] = []
        self._looked = False

    @staticmethod
    def refusal(root: str | os.PathLike[str]) -> str | None:
        """Why no tier would take this directory, such as one that holds something else; `None` where one would. It is
        not opened for that, and may be in use."""
        return refusal(absolute_path("root", str(plain_path(root))))

    def __enter__(self) -> CacheDirectory:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._store is None else f"{len(self._index)} rows" if self._looked else "open"
        return f"<CacheDirectory {self.root!r}, {state}>"

    def close(self) -> None:
        """Free it for others. Allowed twice."""
        if self._store is not None:
            self._store.close()
            self._store = None

    @property
    def used_bytes(self) -> int:
        """Bytes of all files in it, as a quota counts them."""
        return self._opened().used()

    def rows(self, on_progress: Progress | None = None) -> list[RowInfo]:
        """The rows whose headers are sound; their `tier` is the directory."""
        self._look(on_progress)
        return row_infos(self._index.rows(), lambda tier, key: None, lambda unix: unix)

    def problems(self, on_progress: Progress | None = None) -> list[FileProblem]:
        """What lies there and is no sound row, by its name and its header. The bytes of rows are not read."""
        self._look(on_progress)
        return [*self._problems, *self._orphans(), *self._opened().others()]

    def verify(self, on_progress: Progress | None = None) -> list[FileProblem]:
        """The same, with every row read whole, so that each of its checksums is compared."""
        found, store = self.problems(), self._opened()
        names = store.names()
        bad = {problem.name for problem in found}
        for done, name in enumerate(names, 1):
            problem = store.check(name)
            if problem is not None and problem.name not in bad:
                found.append(problem)
            if on_progress is not None:
                on_progress(done, len(names))
        return found

    def remove(self, keys: Iterable[bytes | str]) -> RowsRemoved:
        """Remove the rows with these keys, and all that extend them; keys that are not there are no error."""
        self._look(None)
        wanted = [checks.key(key) for key in keys]
        return self._remove(chosen(self._index, self.root, wanted))

    def gc(self, quota_bytes: int | None = None) -> RowsRemoved:
        """Remove what is of no use: bad files that were rows, what was set aside, temp files of writers that were
        killed, rows whose parents are gone; and where there is a quota, the rows that a tier with that would give up.

        What no tier has written stays. `rows` counts rows, `nbytes` all files.
        """
        if quota_bytes is not None and checks.nbytes(quota_bytes) < LEAST_QUOTA:
            raise TierFailed(self.root, f"a quota is {LEAST_QUOTA} bytes or more, not {quota_bytes}")
        self._look(None)
        store, index = self._opened(), self._index
        freed = store.sweep()
        bad = [problem.name.rpartition("/")[2] for problem in self._problems if problem.kind in OURS]
        freed += store.remove_files(bad)
        self._problems = [problem for problem in self._problems if problem.kind not in OURS]
        done = [self._remove(orphans(index, self.root))]
        if quota_bytes is not None and not done[0].left:
            book = index.books[self.root]
            book.quota = quota_bytes - (store.used() - book.stored) + OWN_BYTES  # which `surplus` takes off again
            done.append(self._remove(surplus(index, self.root, time.time())))
            book.quota = NO_BOUND
        return RowsRemoved(
            rows=sum(one.rows for one in done), nbytes=freed + sum(one.nbytes for one in done),
            left=sum(one.left for one in done),
        )  # fmt: skip

    # --- inside --------------------------------------------------------------------------------------------------

    def _opened(self) -> OfflineStore:
        if self._store is None:
            raise TierFailed(self.root, "the directory was closed")
        return self._store

    def _look(self, on_progress: Progress | None) -> None:
        """Read all headers, once."""
        store = self._opened()
        if self._looked:
            return
        self._index.add_tier(self.root, "disk", NO_BOUND)
        names = store.names()
        for start in range(0, len(names), AT_ONCE):
            for row, problem in store.look(names[start : start + AT_ONCE]):
                if row is not None:
                    self._index.add(self.root, row)
                elif problem is not None:
                    self._problems.append(problem)
            if on_progress is not None:
                on_progress(min(start + AT_ONCE, len(names)), len(names))
        self._looked = True

    def _orphans(self) -> Iterator[FileProblem]:
        book = self._index.books[self.root]
        for key, copy in book.rows.items():
            if not book.has_parent(copy.meta):
                problem = f"the row that it extends, {copy.meta.parent.hex()}, is gone"
                yield FileProblem(name=f"rows/{key.hex()}.row", kind="orphan", problem=problem, nbytes=copy.nbytes)

    def _remove(self, portions: Portions) -> RowsRemoved:
        rows = nbytes = 0
        kept: set[bytes] = set()
        for _, keys in portions:
            gone = self._opened().remove(keys, self._parent, kept)
            rows, nbytes = rows + len(gone), nbytes + sum(gone.values())
            for key in keys:  # also those that are left: they would be chosen for ever
                self._index.drop(self.root, key)
        if kept:  # they are there all the same
            self._looked, self._index, self._problems = False, Index(), []
        return RowsRemoved(rows=rows, nbytes=nbytes, left=len(kept))

    def _parent(self, key: bytes) -> bytes | None:
        copy = self._index.books[self.root].rows.get(key)
        return None if copy is None or copy.meta.start == 0 else copy.meta.parent
