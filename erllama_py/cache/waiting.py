"""Look-ups that wait for a save under way, or for tiers that are being opened. Owns them, and their timers.

Each waits for one key; it is released when that row is stored, when its save has failed, or when its time is up.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from typing import Any

from erllama_py.actors import Reply
from erllama_py.cache.index import Index
from erllama_py.cache.keys import TOKEN_BYTES, prefix_keys
from erllama_py.cache.messages import Find, FindTurn
from erllama_py.cache.reservation import Reservations
from erllama_py.cache.steps import Steps
from erllama_py.cache.walk import walk_steps

Waiter = tuple[Find | FindTurn, Reply[Any]]

OPENING = b""  # no key of a row: wait until every tier has reported all of its rows


def awaited(find: Find, index: Index, reservations: Reservations, opening: bool) -> Steps[bytes | None]:
    """What a look-up waits for: the row that it names, if that is being saved and on the prompt's path; the last one on
    the path that is being saved, where it comes `after_saves`; `OPENING`, if a tier is `opening` and not all of the
    prompt is found; or nothing. Pure, and in steps."""
    parent = find.parent_key
    row = None if parent is None else index.get(parent)
    if not find.wait_seconds or (row is not None and row.copies):
        return None
    end = None if parent is None else reservations.end_of(parent)
    if end is not None and end * TOKEN_BYTES <= len(find.tokens):
        key, *_ = prefix_keys(find.identity, find.tokens, (end,))
        if key == parent:
            return key
    after_saves = find.after_saves and len(reservations)
    if not (after_saves or opening):
        return None
    hit, path = yield from walk_steps(index, find.identity, find.tokens, cuttable=find.cuttable, tier=find.tier)
    if after_saves and (ends := path.ends()):
        last = ends[-1][1]
        if (row := index.get(last)) is not None and not row.copies:
            return last
    if not opening:
        return None
    return None if hit.exact else OPENING


class Waiting:
    """`time_up` is called with a ticket when a look-up has waited long enough; `release` it then."""

    def __init__(self, time_up: Callable[[int], None]) -> None:
        self._time_up = time_up
        self._tickets = itertools.count(1)
        self._waiters: dict[int, tuple[bytes, Waiter, asyncio.TimerHandle]] = {}
        self._by_key: dict[bytes, dict[int, None]] = {}

    def __len__(self) -> int:
        return len(self._waiters)

    def add(self, key: bytes, find: Find | FindTurn, reply: Reply[Any]) -> None:
        """Let a look-up wait for the row `key`."""
        ticket = next(self._tickets)
        timer = asyncio.get_running_loop().call_later(find.wait_seconds, self._time_up, ticket)
        self._waiters[ticket] = (key, (find, reply), timer)
        self._by_key.setdefault(key, {})[ticket] = None

    def settled(self, key: bytes) -> list[Waiter]:
        """The look-ups that waited for this row, in the order in which they came; they do not wait any more."""
        return [self._take(ticket) for ticket in list(self._by_key.get(key, ()))]

    def release(self, ticket: int) -> list[Waiter]:
        """The one whose time is up, if it still waits."""
        return [self._take(ticket)] if ticket in self._waiters else []

    def leave(self, holder: str, request_id: int) -> None:
        """Drop this look-up without an answer: its model has ended it.

        Its task may not have run yet since it was cancelled. An answer before that would leave pins behind.
        """
        for ticket, (_, (find, reply), _) in list(self._waiters.items()):
            if isinstance(find, Find) and (find.holder, find.request_id) == (holder, request_id):
                self._take(ticket)
                reply.abandon()

    def clear(self) -> None:
        """Forget all of them; their calls fail with the actor."""
        for ticket in list(self._waiters):
            self._take(ticket)

    def _take(self, ticket: int) -> Waiter:
        key, waiter, timer = self._waiters.pop(ticket)
        timer.cancel()
        del self._by_key[key][ticket]
        if not self._by_key[key]:
            del self._by_key[key]
        return waiter
