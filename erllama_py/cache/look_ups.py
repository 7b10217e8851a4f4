"""Look-ups while they are open: what each was given is pinned from its answer to its `Used`, and counted then."""

from __future__ import annotations

import time
from collections.abc import Callable

from erllama_py.cache import messages
from erllama_py.cache.clock import Clock
from erllama_py.cache.index import Index
from erllama_py.cache.keeping import Keeping
from erllama_py.cache.messages import Hit
from erllama_py.cache.pace import Pace
from erllama_py.cache.steps import Steps
from erllama_py.cache.walk import Path, walk_steps
from erllama_py.tiers.messages import Touch, tier_actor_name

Ticket = tuple[str, int]
"""Of a look-up: its holder, and the id of the request."""


class LookUps:
    """Owns what is pinned. `cast` sends a message to an actor by its name; `released` is told that pins are gone."""

    def __init__(
        self, index: Index, counters: dict[str, float], keeping: Keeping, clock: Clock, pace: Pace,
        cast: Callable[[str, Touch], bool], released: Callable[[], None],
    ) -> None:  # fmt: skip
        self._index, self._counters, self._keeping = index, counters, keeping
        self._clock, self._now, self._pace = clock, clock.now, pace
        self._cast, self._released = cast, released
        self._found: dict[Ticket, Hit] = {}

    def __len__(self) -> int:
        return len(self._found)

    async def walk(self, find: messages.Find | messages.Explain) -> tuple[Hit, Path]:
        """The longest prefix of its tokens that there is, and how it is reached."""
        began = time.perf_counter()
        steps = walk_steps(self._index, find.identity, find.tokens, cuttable=find.cuttable, tier=find.tier)
        found = await self._pace.run(steps)
        if isinstance(find, messages.Find):
            self._counters["seconds.walk"] += time.perf_counter() - began
        return found

    def take(self, find: messages.Find, hit: Hit, path: Path) -> Steps[None]:
        """What was found is pinned until `Used`, which cannot come before this is over; and kept, if that is asked."""
        ticket = (find.holder, find.request_id)
        self._found[ticket] = hit
        for row in hit.chain:
            self._index.pin([row.meta.key], ticket)
            yield 1
        yield from self._keeping.found(find, path, self._now())

    def used(self, used: messages.Used) -> Steps[None]:
        """A look-up is over: what its request began with."""
        hit = yield from self._release((used.holder, used.request_id))
        chain = hit.chain if hit is not None else ()
        counters = self._counters
        if used.kind == "cancelled":
            return
        if used.kind == "cold":
            miss = hit.miss if hit is not None else None
            counters[f"misses.{miss.reason if miss else 'unanswered' if hit is None else 'unreadable'}"] += 1
        else:
            counters[f"hits.{used.kind}"] += 1
            for row in chain:
                self._keeping.used(row.meta.key, self._now())
                yield 1
        for row in used.rows:
            self.touch(row.meta.key, row.tier)
            counters["restored.bytes"] += row.nbytes
            yield 2
        if used.rows:
            counters[f"hits.tier.{used.rows[-1].tier}"] += 1
            counters["restored.rows"] += len(used.rows)
            counters["restored.tokens"] += used.rows[-1].meta.end - used.rows[0].meta.start
            counters["seconds.restore"] += used.seconds

    def touch(self, key: bytes, tier: str) -> None:
        """A row was used that was read from this tier."""
        now = self._now()
        self._index.touch([key], now)
        if (known := self._index.get(key)) is not None:
            self._cast(tier_actor_name(tier), Touch(key, known.hits, self._clock.unix(now)))

    def holder_gone(self, name: str) -> Steps[None]:
        """Nobody says any more what became of its look-ups."""
        for ticket in [ticket for ticket in self._found if ticket[0] == name]:
            yield from self._release(ticket)

    def _release(self, ticket: Ticket) -> Steps[Hit | None]:
        for _ in self._index.unpin(ticket):
            yield 1
        self._released()
        return self._found.pop(ticket, None)
