"""Looking at the files of a directory that was opened, while rows are put, read and deleted there.

An `Opening` owns the names of which no row is known: those to be looked at, and those that could not be read. A device
may be away for a while, so these are looked at again: once the tier can be written again, now and then, and with each
`Sweep`, which must not remove them. A put, a deletion or a loss settles a file's name, and
discards what the scan has read of it. A directory that is opened again has another `Opening`; the one before is
abandoned.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence

from erllama_py.actors import Threads
from erllama_py.tiers import row_file
from erllama_py.tiers.base import BATCH
from erllama_py.tiers.lock import Place
from erllama_py.tiers.scan import Finding, look_at

# Batches of headers that are read at once; below the number of reading threads, so that a `Get` finds one meanwhile.
SCANNERS = 2


def compare(names: Sequence[str], keys: Iterable[bytes]) -> tuple[list[bytes], list[str]]:
    """Of rows that were known, those that have no file among `names`; and the names of which no row is known. Pure; a
    hundred thousand take a tenth of a second."""
    known = {row_file.file_name(key): key for key in keys}
    there = set(names)
    return [key for name, key in known.items() if name not in there], [name for name in names if name not in known]


class Opening:
    """See the module's text. `unseen` are looked at now, `unreadable` later."""

    def __init__(self, place: Place, names: Iterable[str], reading: Threads) -> None:
        self.place = place
        self.unseen = dict.fromkeys(names)  # in the order of the directory
        self.unreadable: set[str] = set()
        self.abandoned = False
        self.wanted = False  # to be looked at again once the scan has ended
        self._scanning = False
        self._known_unreadable: set[str] = set()
        self._reading = reading

    def names(self) -> set[str]:
        """All names that it owns."""
        return self.unreadable.union(self.unseen)

    def settle(self, names: Iterable[str]) -> None:
        """What these files are is known from elsewhere."""
        for name in names:
            self.unseen.pop(name, None)
            self.unreadable.discard(name)

    def is_news(self, name: str) -> bool:
        """Whether this file is found to be unreadable for the first time."""
        if name in self._known_unreadable:
            return False
        self._known_unreadable.add(name)
        return True

    def lost(self, name: str) -> None:
        """A file that was known could not be read, which is reported elsewhere."""
        self.unreadable.add(name)
        self._known_unreadable.add(name)

    def abandon(self) -> None:
        """The directory was opened again: nothing of this one counts any more."""
        self.abandoned = True

    def look_again(self) -> bool:
        """Whether `scan` has to be called once more, for what could not be read; where one is under way, after it."""
        self.wanted = self._scanning
        if self._scanning or not self.unreadable:
            return False
        self.unseen, self.unreadable = dict.fromkeys(self.unreadable), set()
        self._scanning = True
        return True

    async def scan(self, report: Callable[[Sequence[Finding], int, int], Awaitable[None]]) -> None:
        """Read the headers of the `unseen`, and report what they are in batches, and how many of how many are done."""
        names = list(self.unseen)
        batches = deque(names[start : start + BATCH] for start in range(0, len(names), BATCH))
        done = 0

        async def scan_batches() -> None:
            nonlocal done
            while batches:
                batch = batches.popleft()
                findings = await self._reading.run(look_at, self.place, batch)
                if self.abandoned:
                    return
                current = [finding for finding in findings if finding.name in self.unseen]
                self._note(current)
                done += len(batch)
                await report(current, done, len(names))

        self._scanning = True
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(SCANNERS):
                    group.create_task(scan_batches())
        finally:
            self.unreadable.update(self.unseen)  # where it ended too early
            self.unseen.clear()
            self._scanning = False

    def _note(self, findings: Sequence[Finding]) -> None:
        for finding in findings:
            del self.unseen[finding.name]
            if finding.error is not None:
                self.unreadable.add(finding.name)
