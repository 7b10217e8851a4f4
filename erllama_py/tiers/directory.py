"""A tier of files in a directory: kinds `disk` and `ram_file`, which differ only in where the directory lies.

Owns a `Store`, one thread that writes and changes names, and a few that read. Opening is short (the lock, the names and
the sizes); headers are read in the background (`Opening`). Before each row it looks whether the directory is still the
one that it opened. A tier that cannot be written reports that once, goes on serving what it has, and recovers with the
first row that it can publish.
"""

from __future__ import annotations

import asyncio
import errno
from collections import Counter
from collections.abc import Sequence

from erllama_py.actors import Clock, Exit, MonotonicClock, Threads
from erllama_py.buffers import BufferPool
from erllama_py.errors import RowUnavailable, TierError, TierFailed, TierFull, TierLocked
from erllama_py.options.tiers import TierSpec
from erllama_py.tiers import row_file
from erllama_py.tiers.base import TierActor
from erllama_py.tiers.lock import words
from erllama_py.tiers.messages import BadFiles, Put, RowBytes, RowMeta, StoredRow, TierHealth, TierUp, Touch
from erllama_py.tiers.opening import Opening, compare
from erllama_py.tiers.publish import Draft, Files
from erllama_py.tiers.scan import BadFile, Finding, is_passing, read_row
from erllama_py.tiers.store import Store
from erllama_py.watch.log import get_logger

# Reading is mostly copying and hashing outside the interpreter's lock: more threads than this do not make it faster.
# More than `opening.SCANNERS`.
READERS = 4
# Rows that a restore has in memory at a time; their buffers are made when the tier is opened.
WARM_BUFFERS = 4
# Seconds between two writes of hit counts: what a crash forgets of them at most.
USAGE_INTERVAL = 5.0
# Seconds after which files that could not be read are looked at again, with the next row that is put: a device that was
# away is used again, and one that is dying is not asked all the time.
LOOK_SECONDS = 600.0
# Rows that are reported as gone before the event loop turns: some 2 ms.
GONE_AT_ONCE = 512
# The device has less room than the quota allows: the cache is asked which rows may go.
NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})


class DirectoryTier(TierActor):
    """See the module's text. `files` and `clock` are for tests."""

    def __init__(
        self, name: str, spec: TierSpec, buffers: BufferPool, *, files: Files | None = None, clock: Clock | None = None,
    ) -> None:  # fmt: skip
        super().__init__(name, spec.kind, spec.quota_bytes)
        self.store = Store(name, str(spec.root), spec.quota_bytes, files or Files(), buffers)
        self._buffers = buffers
        self._clock = clock or MonotonicClock()
        self._log = get_logger(tier=name)
        self._reading = Threads(f"{name}-read", READERS)
        self._writing = Threads(f"{name}-write", 1)
        self._opening: Opening
        self._looked_at = 0.0  # when files that could not be read were last looked at
        self._usage: dict[str, tuple[int, float]] = {}  # to be written
        self._usage_due: asyncio.Task[None] | None = None
        self._problem: str | None = None
        self._hang: str | None = None  # the problem, while it is that a change hangs

    async def init(self) -> None:
        place, names = await self._writing.run(self.store.open)
        await self._reading.begin()
        self.tell(TierUp(self.tier, self.tier_kind, self.quota_bytes))
        self._begin(Opening(place, names, self._reading))

    async def terminate(self, exit: Exit) -> None:
        await super().terminate(exit)
        if self._usage and self.store.place is not None:
            await self._writing.run(self.store.write_usage, self._usage)
        await self._writing.run(self.store.close)
        self._reading.close()
        self._writing.close()

    async def put(self, message: Put) -> StoredRow:
        meta = message.row.meta
        self.check_sizes(message.row)
        draft = Draft(message.row)
        try:
            row = await self._publish(message.reservation, draft)
        except BaseException as error:
            await self._writing.finish(self.store.take_back, draft)
            if draft.named:  # the file that was replaced is gone
                self._opening.settle([draft.name])
                if meta.key in self.rows:
                    self.lost([meta.key], "gone")
            if isinstance(error, OSError | TierFailed | TierLocked | TierFull):
                raise self._not_writable(error) from error
            raise
        recovered = self._problem is not None
        self._set_problem(None)
        if recovered or self._clock.now() - self._looked_at >= LOOK_SECONDS:
            self._look_again()
        return row

    async def _publish(self, reservation: int, draft: Draft) -> StoredRow:
        if not await self._writing.run(self.store.is_current):
            await self._reopen()
        try:
            return await self._write(reservation, draft)
        except (TierFull, OSError) as error:
            if draft.named or not _lacks_room(error):
                raise
            await self._writing.finish(self.store.take_back, draft)
            if not await self.make_room(reservation, self.store.missing(draft.nbytes)):
                raise
        return await self._write(reservation, draft)

    async def _write(self, reservation: int, draft: Draft) -> StoredRow:
        await self._writing.run(self.store.prepare, draft)
        await self.recheck(reservation)
        # From here on a cancellation changes nothing: the row is there and reported, or it is not.
        row = await self._writing.finish(self.store.publish, draft)
        self._opening.settle([draft.name])
        return self.stored(reservation, row)

    async def get(self, key: bytes) -> RowBytes:
        name, opening, known = row_file.file_name(key), self._opening, self._meta(key)
        try:
            header, payload, logits = await self._reading.run(read_row, opening.place, name, self._buffers.take)
        except FileNotFoundError as error:
            if await self._writing.finish(self.store.forget, name):
                self._lose(key, "gone")
            raise RowUnavailable(self.tier, "the row is gone", key) from error
        except BadFile as bad:
            if await self._writing.finish(self._set_aside, name, bad):
                self._lose(key, bad.kind)
                self._log.warning("a bad row was found", file=name, kind=bad.kind, problem=bad.problem)
            raise RowUnavailable(self.tier, f"the row is bad: {bad.problem}", key, bad.kind) from bad
        except IsADirectoryError as error:  # the row's file is gone, and this is none of ours
            if await self._writing.finish(self.store.forget, name):
                self._lose(key, "foreign")
            raise RowUnavailable(self.tier, "the row's name is that of a directory", key, "foreign") from error
        except OSError as error:
            if is_passing(error):
                raise TierFailed(self.tier, f"cannot read a row: {words(error)}") from error
            if self._opening is opening and self._meta(key) is known:  # else it was put meanwhile
                self._lose(key, "unreadable")
                opening.lost(name)
            raise RowUnavailable(self.tier, f"the row cannot be read: {words(error)}", key, "unreadable") from error
        except MemoryError as error:  # a shortage of the process, which says nothing about the file
            raise TierFailed(self.tier, "cannot read a row: the process has no memory for it") from error
        return RowBytes(header.meta, payload, logits)

    async def delete(self, keys: Sequence[bytes]) -> int:
        names = {row_file.file_name(key): key for key in keys}
        before = {
            name: row_file.file_name(row.meta.parent) for name, key in names.items() if (row := self.rows.get(key))
        }
        removal = await self._writing.finish(self.store.delete, names, before)
        gone = {name: key for name, key in names.items() if name not in removal.left}
        self._opening.settle(gone)
        for name, key in gone.items():
            self.rows.pop(key, None)
            self._usage.pop(name, None)
        if removal.error is not None:
            self._not_writable(removal.error)
        return removal.freed

    async def sweep(self) -> int:
        freed = await self._writing.finish(self.store.sweep, set(self.rows), self._opening.names())
        self._look_again()
        return freed

    def touch(self, message: Touch) -> None:
        super().touch(message)
        if message.key in self.rows:
            self._usage[row_file.file_name(message.key)] = message.hits, message.used_at
            if self._usage_due is None:
                self._usage_due = self.tasks.start(self._write_usage())

    def introduce(self) -> None:
        self.tell(TierUp(self.tier, self.tier_kind, self.quota_bytes))
        self.tell_rows(tuple(self.rows.values()), 0, len(self.rows) + len(self._opening.unseen))
        if self._problem is not None:
            self.tell(TierHealth(self.tier, self._problem))

    # --- opening -------------------------------------------------------------------------------------------

    def _begin(self, opening: Opening) -> None:
        self._opening, self._looked_at = opening, self._clock.now()
        self.tasks.start(self._scan(opening, Counter(foreign=self.store.strangers)))

    def _look_again(self) -> None:
        """Look again at what could not be read."""
        self._looked_at = self._clock.now()
        if self._opening.look_again():
            self.tasks.start(self._scan(self._opening, Counter()))

    async def _scan(self, opening: Opening, counts: Counter[str]) -> None:
        """Find out what the files are and tell the cache; bad ones are added to `counts`."""
        largest = 0

        async def report(findings: Sequence[Finding], done: int, total: int) -> None:
            nonlocal largest
            rows = [finding.row for finding in findings if finding.row is not None]
            self.rows.update((row.meta.key, row) for row in rows)
            self.tell_rows(rows, done - len(rows), total)
            largest = max([largest, *(row.meta.payload_bytes for row in rows)])
            counts.update(await self._sort_out(opening, findings))

        if not opening.unseen:
            self.tell_rows((), 0, 0)
        try:
            await opening.scan(report)
        except Exception:
            if not opening.abandoned:
                self.tell_rows((), 0, 0)  # no look-up is to wait for the rest
            raise
        if opening.wanted and not opening.abandoned:
            self._look_again()
        # The first restore after a start should not wait for fresh memory, which takes longer than reading does.
        await self._reading.run(self._buffers.warm, WARM_BUFFERS if largest else 0, largest)
        if counts := +counts:
            self.tell(BadFiles(self.tier, dict(counts)))
            self._log.warning("bad files were found", **counts)

    async def _sort_out(self, opening: Opening, findings: Sequence[Finding]) -> Counter[str]:
        """Set bad files aside and forget the vanished ones; how many are of which kind."""
        counts: Counter[str] = Counter()
        for finding in findings:
            if finding.error is not None:
                counts["unreadable"] += opening.is_news(finding.name)
            elif finding.bad is not None:
                counts[finding.bad.kind] += await self._writing.run(self._set_aside, finding.name, finding.bad)
            elif finding.row is None:
                await self._writing.run(self.store.forget, finding.name)
        return +counts

    def _set_aside(self, name: str, bad: BadFile) -> bool:
        """Move a bad file out of the way, if that works; whether it was still the file of that name."""
        try:
            return self.store.set_aside(name, bad.file_id, bad.kind)
        except (OSError, TierError) as error:
            self._log.warning("a bad file cannot be set aside", file=name, error=str(error))
            return True

    async def _reopen(self) -> None:
        """Open the directory again: forget the rows that are not in it, and look at what is new."""
        opened = await self._writing.finish(self.store.reopen_if_lost)
        if opened is None:  # another message did so meanwhile
            return
        place, names = opened
        self._log.warning("the directory was not the same any more, and was opened again", root=self.store.root)
        self._opening.abandon()
        gone, new = await self._writing.finish(compare, names, tuple(self.rows))
        self._begin(Opening(place, new, self._reading))
        for start in range(0, len(gone), GONE_AT_ONCE):
            # A read that failed meanwhile has reported its row.
            self.lost([key for key in gone[start : start + GONE_AT_ONCE] if key in self.rows], "gone")
            await asyncio.sleep(0)

    # --- state ---------------------------------------------------------------------------------------------

    def _meta(self, key: bytes) -> RowMeta | None:
        row = self.rows.get(key)
        return None if row is None else row.meta

    def _lose(self, key: bytes, reason: str) -> None:
        self._opening.settle([row_file.file_name(key)])
        self.lost([key], reason)

    async def _write_usage(self) -> None:
        try:
            await self._clock.sleep(USAGE_INTERVAL)
        finally:
            self._usage_due = None  # whatever went wrong, the next use begins anew
        usage, self._usage = self._usage, {}
        await self._writing.finish(self.store.write_usage, usage)

    def hangs(self, problem: str | None) -> None:
        """See `TierActor.hangs`: it is a problem like any other, and none when it is over."""
        if problem is not None or self._problem == self._hang:
            self._set_problem(problem)
        self._hang = problem

    def _not_writable(self, error: OSError | TierError) -> TierError:
        problem = f"cannot be written: {words(error)}" if isinstance(error, OSError) else error.problem
        self._set_problem(problem)
        return (TierFull if _lacks_room(error) else TierFailed)(self.tier, problem)

    def _set_problem(self, problem: str | None) -> None:
        if (problem is None) != (self._problem is None):
            self.tell(TierHealth(self.tier, problem))
            if problem is None:
                self._log.info("the tier can be written again")
            else:
                self._log.warning("the tier cannot be written", problem=problem)
        self._problem = problem


def _lacks_room(error: OSError | TierError) -> bool:
    return isinstance(error, TierFull) or (isinstance(error, OSError) and error.errno in NO_ROOM)
