"""A tier of files in a directory: kinds `disk` and `ram_file`, which differ only in where the directory lies.

Owns a `Store`, one thread that writes and changes names, and a few that read. Opening is short (the lock, the names and
the sizes); headers are read in the background. A tier that cannot be written says so once, goes on serving what it has,
and is well again with the first row that it can publish.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Iterable, Sequence

from erllama_py.actors import Clock, Exit, MonotonicClock, Threads
from erllama_py.buffers import BufferPool
from erllama_py.errors import RowUnavailable, TierError, TierFailed, TierLocked
from erllama_py.tier_specs import DiskTier, RamFileTier
from erllama_py.tiers import row_file
from erllama_py.tiers.base import BATCH, TierActor
from erllama_py.tiers.lock import Place, words
from erllama_py.tiers.messages import BadFiles, Put, RowBytes, StoredRow, TierHealth, TierUp, Touch
from erllama_py.tiers.publish import Draft, Files
from erllama_py.tiers.scan import BadFile, Finding, look_at, read_row
from erllama_py.tiers.store import Store
from erllama_py.watch.log import get_logger

# Reading is mostly copying and hashing outside the interpreter's lock: more threads than this do not make it faster.
READERS = 4
# Batches of headers that are read at once while opening; below READERS, so that a `Get` finds a thread meanwhile.
SCANNERS = 2
# Rows that a restore has in memory at a time; their buffers are made when the tier is opened.
WARM_BUFFERS = 4
# Seconds between two writes of hit counts: what a crash forgets of them at most.
USAGE_INTERVAL = 5.0


class DirectoryTier(TierActor):
    """See the module's text. `files` and `clock` are for tests."""

    def __init__(
        self,
        name: str,
        spec: DiskTier | RamFileTier,
        buffers: BufferPool,
        *,
        files: Files | None = None,
        clock: Clock | None = None,
    ) -> None:
        super().__init__(name, "disk" if isinstance(spec, DiskTier) else "ram_file", spec.quota_bytes)
        self.store = Store(name, spec.root, spec.quota_bytes, files or Files(), buffers)
        self._buffers = buffers
        self._clock = clock or MonotonicClock()
        self._log = get_logger(tier=name)
        self._reading = Threads(f"{name}-read", READERS)
        self._writing = Threads(f"{name}-write", 1)
        self._drafts: set[Draft] = set()
        self._unseen: set[str] = set()  # names whose headers are still to be read
        self._scans = 0  # scans under way
        self._usage: dict[str, tuple[int, float]] = {}  # to be written
        self._usage_due: asyncio.Task[None] | None = None
        self._problem: str | None = None

    async def init(self) -> None:
        names = await self._writing.run(self.store.open)
        await self._reading.begin()
        self.tell(TierUp(self.tier, self.tier_kind, self.quota_bytes))
        self._start_scan(names)

    async def terminate(self, exit: Exit) -> None:
        await super().terminate(exit)
        if self._usage and self.store.place is not None:
            await self._writing.run(self.store.write_usage, self._usage)
        await self._writing.run(self.store.close)
        self._reading.close()
        self._writing.close()

    async def put(self, message: Put) -> StoredRow:
        meta = message.meta
        self.check_sizes(meta, message.payload, message.logits)
        draft = Draft(meta, message.payload, message.logits)
        self._drafts.add(draft)
        try:
            row = await self._publish(message.reservation, draft)
        except BaseException as error:
            await self._writing.finish(self.store.take_back, draft)
            if draft.named and meta.key in self.rows:
                self.lost([meta.key], "gone")  # the file that was replaced
            if isinstance(error, OSError | TierFailed | TierLocked):
                raise self._fell_ill(error) from error
            raise
        finally:
            self._drafts.discard(draft)
        self._set_problem(None)
        return row

    async def _publish(self, reservation: int, draft: Draft) -> StoredRow:
        if self._problem is not None:
            await self._reopen_if_lost()
        await self._writing.run(self.store.prepare, draft)
        await self.recheck(reservation)
        # From here on a cancellation changes nothing: the row is there, and told, or it is not.
        row = await self._writing.finish(self.store.publish, draft)
        self._unseen.discard(draft.name)
        return self.stored(reservation, row)

    async def _reopen_if_lost(self) -> None:
        names = await self._writing.finish(self.store.reopen_if_lost)
        if names is not None:
            self._take_over(names)

    async def get(self, key: bytes) -> RowBytes:
        name = row_file.file_name(key)
        try:
            header, payload, logits = await self._reading.run(read_row, self._place(), name, self._buffers.take)
        except FileNotFoundError as error:
            await self._writing.finish(self.store.forget, name)
            self._unseen.discard(name)
            self.lost([key], "gone")
            raise RowUnavailable(self.tier, "the row is gone", key) from error
        except BadFile as bad:
            await self._writing.finish(self._set_aside, [(name, bad)])
            self._unseen.discard(name)
            self.lost([key], bad.kind)
            self._log.warning("a bad row was set aside", file=name, kind=bad.kind, problem=bad.problem)
            raise RowUnavailable(self.tier, f"the row is bad: {bad.problem}", key) from bad
        except OSError as error:
            raise TierFailed(self.tier, f"cannot read a row: {words(error)}") from error
        return RowBytes(header.meta, payload, logits)

    async def delete(self, keys: Sequence[bytes]) -> int:
        names = [row_file.file_name(key) for key in keys]
        self._unseen.difference_update(names)
        for key, name in zip(keys, names, strict=True):
            self.rows.pop(key, None)
            self._usage.pop(name, None)
        freed, error = await self._writing.finish(self.store.delete, names)
        if error is not None:
            self._fell_ill(error)
        return freed

    async def sweep(self) -> int:
        return await self._writing.finish(self.store.sweep, None if self._scans else self._owned())

    def touch(self, message: Touch) -> None:
        super().touch(message)
        if message.key in self.rows:
            self._usage[row_file.file_name(message.key)] = message.hits, message.used_at
            if self._usage_due is None:
                self._usage_due = self.tasks.start(self._write_usage())

    def introduce(self) -> None:
        self.tell(TierUp(self.tier, self.tier_kind, self.quota_bytes))
        self.tell_rows(tuple(self.rows.values()), 0, len(self.rows) + len(self._unseen))
        if self._problem is not None:
            self.tell(TierHealth(self.tier, self._problem))

    # --- opening -------------------------------------------------------------------------------------------

    def _start_scan(self, names: Iterable[str]) -> None:
        names = list(names)
        self._scans += 1
        self._unseen.update(names)
        self.tasks.start(self._scan(names))

    async def _scan(self, names: list[str]) -> None:
        """Read the headers of files and tell the cache; `names` that are deleted or replaced meanwhile are skipped."""
        place = self._place()
        batches = deque(names[start : start + BATCH] for start in range(0, len(names), BATCH))
        counts: Counter[str] = Counter()
        done = 0
        if not names:
            self.tell_rows((), 0, 0)

        async def scan_batches() -> None:
            nonlocal done
            while batches:
                batch = batches.popleft()
                findings = await self._reading.run(look_at, place, batch)
                current = [finding for finding in findings if finding.name in self._unseen]
                self._unseen.difference_update(batch)
                rows = [finding.row for finding in current if finding.row is not None]
                self.rows.update((row.meta.key, row) for row in rows)
                self.tell_rows(rows, done + len(batch) - len(rows), len(names))
                done += len(batch)
                counts.update(await self._sort_out(current))

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(SCANNERS):
                    group.create_task(scan_batches())
        except Exception:
            self.tell_rows((), 0, 0)  # nobody is to wait for the rest
            raise
        finally:
            self._scans -= 1
        largest = max((row.meta.payload_bytes for row in self.rows.values()), default=0)
        # The first restore after a start should not wait for fresh memory, which takes longer than reading does.
        await self._reading.run(self._buffers.warm, WARM_BUFFERS if largest else 0, largest)
        if counts:
            self.tell(BadFiles(self.tier, dict(counts)))
            self._log.warning("bad files were set aside", **counts)

    async def _sort_out(self, findings: Sequence[Finding]) -> Counter[str]:
        """Set bad files aside and forget the vanished ones; how many of which kind."""
        bad = [(finding.name, finding.bad) for finding in findings if finding.bad is not None]
        if bad:
            await self._writing.run(self._set_aside, bad)
        for finding in findings:
            if finding.row is None and finding.bad is None and not finding.unreadable:
                await self._writing.run(self.store.forget, finding.name)
        counts = Counter(problem.kind for _, problem in bad)
        counts.update("unreadable" for finding in findings if finding.unreadable)
        return counts

    def _set_aside(self, bad: Sequence[tuple[str, BadFile]]) -> None:
        for name, problem in bad:
            try:
                self.store.set_aside(name, problem.identity, problem.kind)
            except (OSError, TierError) as error:
                self._log.warning("a bad file cannot be set aside", file=name, error=str(error))

    def _take_over(self, names: Sequence[str]) -> None:
        """The directory was opened again: forget the rows that are not in it, and look at what is new."""
        there = set(names)
        self.lost([key for key in self.rows if row_file.file_name(key) not in there], "gone")
        self._unseen.clear()  # of a scan of the old directory that is still under way
        known = self._owned()
        self._start_scan(name for name in names if name not in known)

    # --- state ---------------------------------------------------------------------------------------------

    def _place(self) -> Place:
        place = self.store.place
        if place is None:
            raise TierFailed(self.tier, f"the directory {self.store.root} is not open")
        return place

    def _owned(self) -> set[str]:
        names = {row_file.file_name(key) for key in self.rows}
        return names.union(*((draft.name, draft.temp) for draft in self._drafts))

    async def _write_usage(self) -> None:
        await self._clock.sleep(USAGE_INTERVAL)
        usage, self._usage = self._usage, {}
        self._usage_due = None
        await self._writing.finish(self.store.write_usage, usage)

    def _fell_ill(self, error: OSError | TierError) -> TierFailed:
        problem = f"cannot be written: {words(error)}" if isinstance(error, OSError) else error.problem
        self._set_problem(problem)
        return TierFailed(self.tier, problem)

    def _set_problem(self, problem: str | None) -> None:
        if (problem is None) != (self._problem is None):
            self.tell(TierHealth(self.tier, problem))
            if problem is None:
                self._log.info("the tier can be written again")
            else:
                self._log.warning("the tier cannot be written", problem=problem)
        self._problem = problem
