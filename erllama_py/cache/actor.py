"""The cache's actor: the sole owner of the index of all rows, and of every decision about them. It touches no file.

    look-up:  Find → (wait for a pending row or an opening tier) → walk, pin → Hit … Used → unpin, count
    save:     Save → reserve (victims chosen, bytes counted) → Delete, Put to the tier → Recheck → RowStored | PutFailed
    tiers:    TierUp, TierRows, RowLost … as they come; a tier whose name is given up is forgotten until it is back

What takes longer the more rows there are is done in steps, between which the loop turns (`pace`); no other message is
taken meanwhile. Look-ups that waited are answered after the message by which they are settled.

Whatever it knows it can learn again: when it starts, it asks every tier that runs to introduce itself. Saves that were
under way then find their reservation gone and stop.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict, deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any, ClassVar

from msgspec.structs import replace

from erllama_py.actors import Actor, ActorError, Answer, Background, Exit, NameChange, Reply
from erllama_py.cache import messages
from erllama_py.cache.book import Book
from erllama_py.cache.clock import Clock
from erllama_py.cache.eviction import PORTION
from erllama_py.cache.index import Index
from erllama_py.cache.keeping import Keeping
from erllama_py.cache.listing import list_rows, tier_infos
from erllama_py.cache.look_ups import LookUps
from erllama_py.cache.messages import CacheMessage, SaveLost
from erllama_py.cache.pace import Pace
from erllama_py.cache.removals import Removals
from erllama_py.cache.reservation import Refused, Reservations, row_bytes
from erllama_py.cache.sane import sane
from erllama_py.cache.steps import Steps
from erllama_py.cache.turns import find_turn, turn_rows
from erllama_py.cache.waiting import OPENING, Waiter, Waiting, awaited
from erllama_py.errors import TierStuck
from erllama_py.tiers.messages import (
    CACHE,
    BadFiles,
    Flush,
    Introduce,
    MakeRoom,
    Put,
    PutFailed,
    Recheck,
    Removed,
    RowLost,
    RowStored,
    StoredRow,
    TierHealth,
    TierRows,
    TierUp,
    Touch,
    tier_actor_name,
    tier_of_actor,
)


class CacheActor(Actor[CacheMessage]):
    """See the module. Times in the index are those of `clock`; those in messages are unix times."""

    kind: ClassVar[str] = "cache"

    def __init__(self, clock: Clock | None = None) -> None:
        self.index = Index()
        self.clock = Clock() if clock is None else clock
        self.reservations = Reservations(self.index)
        self.counters = defaultdict[str, float](float)  # by dotted name
        self._keeping = Keeping(self.index, self.counters)
        self._now = self.clock.now
        self._pace = Pace()
        self._look_ups = LookUps(
            self.index, self.counters, self._keeping, self.clock, self._pace, self._cast,
            lambda: self._removals.released(),
        )  # fmt: skip
        self._settled = deque[Waiter]()  # look-ups that waited and are to be answered
        self._holders: dict[tuple[str, bytes], tuple[str, SaveLost]] = {}  # who is told if a pending row is given up
        self._background = Background("cache")

    async def init(self) -> None:
        self._removals = Removals(self.index, self.reservations, self.counters, self.names, self._now, self._pace)
        self._waiting = Waiting(lambda ticket: self.ref.cast(messages.WaitOver(ticket), bounded=False))
        self._unsubscribe = self.names.subscribe(self._name_changed)
        for name in self.names:
            if tier_of_actor(name) is not None:
                self.names.cast(name, Introduce(), bounded=False)

    async def terminate(self, exit: Exit) -> None:
        self._unsubscribe()
        self._waiting.clear()
        for asked in self._holders.values():  # the next one does not know these saves, and lets none be published
            self._cast(*asked)
        await self._background.stop()

    def __repr__(self) -> str:
        return f"<CacheActor {self.index!r}, {len(self._look_ups)} look-ups open, {len(self.reservations)} saves>"

    async def handle(self, message: CacheMessage, reply: Reply[Any] | None) -> Answer | None:
        answer = await self._handle(message, reply)
        while self._settled:
            find, waiting = self._settled.popleft()
            if isinstance(find, messages.FindTurn):
                self._answer_turn(find, waiting)
            else:
                await self._answer(find, waiting)
        return answer

    async def _handle(self, message: CacheMessage, reply: Reply[Any] | None) -> Answer | None:
        match message:
            case messages.Find() if reply is not None:
                await self._find(message, reply)
            case messages.FindTurn() if reply is not None:
                self._find_turn(message, reply)
            case messages.KeepTurn():
                self._keep_turn(message)
            case messages.Used():
                await self._pace.run(self._used(message))
            case messages.Save():
                self._save(message)
            case Recheck(reservation):
                return Answer(self.reservations.stands(reservation))
            case MakeRoom(reservation, nbytes):
                return Answer(self.reservations.make_room(reservation, nbytes, self._now()))
            case PutFailed(tier, reservation, problem):
                self._put_failed(tier, reservation, problem)
            case Flush() if reply is not None:
                self._background.answer(reply, self._flush(self._ask_all(message)))
            case messages.EvictBytes() if reply is not None:
                self._background.answer(reply, self._removals.evict(message))
            case messages.Remove(tier, keys) if reply is not None:
                self._background.answer(reply, self._removals.remove(tier, keys))
            case messages.Gc() if reply is not None:
                self._background.answer(reply, self._removals.gc())
            case messages.HolderGone(name):
                await self._pace.run(self._holder_gone(name))
            case messages.WaitOver(ticket):
                self._settled += self._waiting.release(ticket)
            case Removed():
                self._removals.done(replace(message, left=tuple(map(self._sane, message.left))))
            case messages.Skipped(reason):
                self.counters[f"saves.dropped.{reason}"] += 1
            case messages.ListRows() if reply is not None:
                self._background.answer(reply, list_rows(self.index, self.clock.unix))
            case messages.Explain():
                return Answer((await self._look_ups.walk(message))[0])
            case messages.HasLostTurn() | messages.ReadCounters() | messages.ListTiers():
                return Answer(self._probe(message))
            case TierUp() | TierRows() | RowStored() | RowLost() | BadFiles() | TierHealth():
                self._tier_reports(message)
                if isinstance(message, TierRows):
                    await asyncio.sleep(0)  # many of these may wait: the loop turns between two of them
        return None

    # --- look-ups ------------------------------------------------------------------------------------------------

    async def _find(self, find: messages.Find, reply: Reply[Any]) -> None:
        waits_for = awaited(find, self.index, self.reservations, self.index.is_opening)
        if (key := await self._pace.run(waits_for)) is not None:
            self._waiting.add(key, find, reply)
        else:
            await self._answer(find, reply)

    async def _answer(self, find: messages.Find, reply: Reply[Any]) -> None:
        if reply.abandoned:  # the ticket may be that of another look-up by now: its pins are not to be touched
            return
        hit, path = await self._look_ups.walk(find)
        await self._pace.run(self._look_ups.take(find, hit, path))
        reply.send(hit)

    def _used(self, used: messages.Used) -> Steps[None]:
        self._waiting.leave(used.holder, used.request_id)
        yield from self._look_ups.used(used)

    def _holder_gone(self, name: str) -> Steps[None]:
        tier = tier_of_actor(name)
        if tier is not None:
            self._tier_gone(tier)
            self._answer_opened()
        yield from self._look_ups.holder_gone(name)

    # --- turns ---------------------------------------------------------------------------------------------------

    def _find_turn(self, find: messages.FindTurn, reply: Reply[Any]) -> None:
        may_wait = find.wait_seconds and self.index.is_opening
        if may_wait and find_turn(self.index, find.found_by[:1]) is None:
            self._waiting.add(OPENING, find, reply)
        else:
            self._answer_turn(find, reply)

    def _answer_turn(self, find: messages.FindTurn, reply: Reply[Any]) -> None:
        found = find_turn(self.index, find.found_by)
        if not find.peek:
            self.counters["turns.found" if found is not None else "turns.unknown"] += 1
            if found is not None:
                self._look_ups.touch(found.key, found.tier)
        reply.send(found)

    def _keep_turn(self, keep: messages.KeepTurn) -> None:
        for meta in turn_rows(keep.turn, self.index.books.get(keep.tier), time.time()):
            self._save(messages.Save(row=messages.RowBytes(meta, memoryview(b"")), tier=keep.tier))

    # --- saves ---------------------------------------------------------------------------------------------------

    def _save(self, save: messages.Save) -> None:
        self.counters["seconds.pack"] += save.pack_seconds
        meta = save.row.meta
        decision = self.reservations.reserve(meta, save.tier, row_bytes(meta), self._now())
        lost = SaveLost(save.request_id, meta.key, meta.start, meta.end)
        self._removals.drop(save.tier, decision.victims)  # before the row: the tier works in order
        if isinstance(decision, Refused):
            duplicate = decision.reason == "duplicate"
            self.counters["saves.duplicate" if duplicate else f"saves.dropped.{decision.reason}"] += 1
            if not duplicate:
                self._cast(save.holder, lost)
            elif save.keep_seconds:
                self._keeping.row(meta.key, save.keep_seconds, self._now())
            return
        self._holders[save.tier, meta.key] = save.holder, lost
        if save.replaces:
            self.index.books[save.tier].replacing.add(meta.key)
        if save.keep_seconds:
            self._keeping.row(meta.key, save.keep_seconds, self._now())
        if not self._cast(tier_actor_name(save.tier), Put(decision.id, save.row)):
            self._put_failed(save.tier, decision.id, "no_tier")

    def _put_failed(self, tier: str, reservation: int, problem: str) -> None:
        given_up = self.reservations.release(reservation)
        if not given_up:  # reported already, or a save of a cache that has crashed since
            return
        self._given_up(tier, given_up[:1], problem)
        self._given_up(tier, given_up[1:], "no_parent")

    def _given_up(self, tier: str, keys: Sequence[bytes], problem: str) -> None:
        """These rows will not come: look-ups stop waiting for them, and the models that saved them get a `SaveLost`."""
        for key in keys:
            self.counters[f"saves.dropped.{problem}"] += 1
            self._keeping.given_up(tier, key)
            self._removals.given_up(tier, key)
            self._settled += self._waiting.settled(key)
            if (asked := self._holders.pop((tier, key), None)) is not None:
                self._cast(*asked)

    def _ask_all(self, flush: Flush) -> list[tuple[str, Book, Reply[None]]]:
        """Send a `Flush` to each tier: in its queue it comes after all that was sent before."""
        actors = [(name, book, self.names.whereis(tier_actor_name(name))) for name, book in self.index.books.items()]
        return [
            (name, book, actor.begin_call(flush))
            for name, book, actor in actors
            if actor is not None and actor.exit is None
        ]

    async def _flush(self, asked: Iterable[tuple[str, Book, Reply[None]]]) -> None:
        stuck = None
        for tier, book, reply in asked:
            try:
                await reply.wait()
            except TierStuck as error:
                stuck = error
            except ActorError:  # it ended, and its rows are given up: also where its name is not known to be free yet
                async with self._pace.alone:
                    if self.index.books.get(tier) is book:
                        self._tier_gone(tier)
                self._cast(CACHE, messages.WaitOver(0))  # look-ups that waited are answered after it
        if stuck is not None:
            raise stuck

    # --- tiers ---------------------------------------------------------------------------------------------------

    def _tier_reports(self, report: TierUp | TierRows | RowStored | RowLost | BadFiles | TierHealth) -> None:
        match report:
            case TierUp(tier, kind, quota):
                self._tier_gone(tier)  # with what was pending in its predecessor
                self.index.add_tier(tier, kind, quota)
            case TierRows(tier, rows, done, total) if tier in self.index.books:  # else it is about to introduce itself
                for row in rows:
                    self.index.add(tier, self._sane(row))
                self.index.books[tier].opened = done / total if total else 1.0
                if done == total:
                    self._background.start(self._removals.shrink(tier))
                    self._answer_opened()
            case RowStored(tier, reservation, row):
                self.reservations.settle(reservation)
                self._holders.pop((tier, row.meta.key), None)
                self.index.add(tier, self._sane(row))
                self._keeping.stored(tier, row.meta.key, self._now())
                if (book := self.index.books.get(tier)) is not None:
                    book.has_taken()
                self.counters[f"saves.{row.meta.reason}"] += 1
                self.counters[f"saves.bytes.{tier}"] += row.nbytes
                self._settled += self._waiting.settled(row.meta.key)
                self._removals.stored(tier, row.meta)
            case RowLost(tier, key, reason):
                self.counters[f"bad.{reason}"] += 1
                if reason == "refused":
                    self._removals.refuse(tier, key)
                else:
                    self.index.drop(tier, key, "bad")
            case BadFiles(tier, counts):
                for reason, count in counts.items():
                    self.counters[f"bad.{reason}"] += count
            case TierHealth(tier, problem) if tier in self.index.books:
                self.index.books[tier].problem = problem

    def _sane(self, row: StoredRow) -> StoredRow:
        row, healed = sane(row, self._now(), self.clock.drift())
        for what in healed:
            self.counters[f"healed.{what}"] += 1
        return row

    def _answer_opened(self) -> None:
        """Answer the look-ups that waited for rows to be known, once all are."""
        if not self.index.is_opening:
            self._settled += self._waiting.settled(OPENING)

    def _tier_gone(self, tier: str) -> None:
        given_up = self.reservations.release_tier(tier)
        if (book := self.index.remove_tier(tier)) is not None:
            self._background.start(_shed(book))
        self._given_up(tier, given_up, "no_tier")  # after that: no look-up that waited is sent there

    # --- the rest ------------------------------------------------------------------------------------------------

    def _probe(self, question: messages.HasLostTurn | messages.ReadCounters | messages.ListTiers) -> object:
        match question:
            case messages.HasLostTurn(keys):
                return any(map(self.index.losses.has_turn, keys))
            case messages.ReadCounters():
                return dict(sorted(self.counters.items()))
        return tier_infos(self.index)

    def _name_changed(self, change: NameChange) -> None:
        if change.ref is None and self.ref.exit is None:
            self.ref.cast(messages.HolderGone(change.name), bounded=False)

    def _cast(self, name: str, message: Put | Touch | SaveLost | messages.WaitOver) -> bool:
        with suppress(ActorError):
            self.names.cast(name, message, bounded=False)
            return True
        return False


async def _shed(book: Book) -> None:
    """Free the memory of a book that is no longer used, in portions."""
    for _ in book.shed(PORTION):
        await asyncio.sleep(0)
