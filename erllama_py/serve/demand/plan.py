"""Which models are loaded next and which go first, before any memory is taken. Pure.

    out ──load──► loading ──► in ──unload──► leaving ──► out

Models are loaded in the order in which requests have waited for them, each as soon as there is memory for it; what an
earlier one waits for is never given to a later one. Where there is too little, models that nobody has go, the one that
was unused longest first, and no more than are needed. Pinned ones stay.

Where these do not suffice, others are needed that requests have. They go on for a turn, in which they take new requests
too: `turn_seconds` from when the waiting one began to wait, or from when the last of them was loaded. Then they are
held: they take no more, and go when nobody has them any more. So a model that is loaded serves all who waited for it;
of two that do not fit together each gets its turn; and a request waits no longer than for the turns, open requests and
loads of those before it. A model goes for the sake of a waiting request alone: there are no more swaps than requests.
But where models take more than the budget, since that has been lowered, those that nobody has go at once.

A stream may go on for hours, and nothing ends it. What is held for `HOLD_TURNS` and still in use takes requests again,
for as long; then it is held for twice as long, and so on, at most for `LONGEST_HOLDS`. So it takes requests for half of
the time, and whoever waits for the other model has it soon after the long stream is over.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec

Where = Literal["out", "loading", "in", "leaving"]
Why = Literal["memory", "idle", "asked", "changed", "failed"]

TURN_SECONDS = 5.0  # some replies of a few hundred tokens: a swap takes a second or more
HOLD_TURNS = 6  # half a minute: most replies end within it
LONGEST_HOLDS = 8  # four minutes: a request for what is held waits for all of it, and is refused after ten


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """A model as the plan sees it. Times are of one clock, in seconds."""

    name: str
    nbytes: int
    where: Where = "out"
    pinned: bool = False
    open: int = 0
    """Requests that have it."""
    waits_since: float | None = None
    """Since when some request has waited for it; `None`: none does."""
    last_used: float = 0.0
    """When a request was last given it. Not when one ended: of those that are held that would change who goes."""
    loaded_at: float = 0.0
    idle_since: float = 0.0
    """When the last request ended that had it, or when it was loaded."""
    keep_alive: float | None = None
    """Seconds after that when it goes; `None`: not by time."""
    asked: bool = False
    """Whether that is because somebody asked, in place of what is configured."""
    ending: Why | None = None
    """Why it takes no request any more and goes as soon as nobody has it; `None`: it does not."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What to do now."""

    load: tuple[str, ...] = ()
    unload: tuple[tuple[str, Why], ...] = ()
    held: frozenset[str] = frozenset()
    """Those that are to take no new request."""
    never: tuple[str, ...] = ()
    """Those that are waited for and do not fit beside what is pinned."""
    wake_at: float | None = None
    """When to look again, though nothing happens."""


def plan(places: Sequence[Place], budget: int | None, now: float, turn_seconds: float = TURN_SECONDS) -> Plan:
    """What to do now with `budget` bytes for all models; `None`: with no bound."""
    made = _Making(places, budget, now, turn_seconds)
    wanted = (one for one in places if one.where == "out" and one.waits_since is not None)
    for one in sorted(wanted, key=_waits_since):
        made.place(one)
    ending = {one.name for one in places if one.ending is not None and one.where == "in"}
    return Plan(
        load=tuple(made.load), unload=tuple(made.unload.items()), held=made.held | ending, never=tuple(made.never),
        wake_at=min(made.times, default=None),
    )  # fmt: skip


def making_room(places: Sequence[Place], lacking: int) -> tuple[str, ...] | None:
    """Which models go where the machine lacks so many bytes for a load, although the budget has them: of those that
    nobody has, the ones that were unused longest, and no more than are needed beside those that leave already.

    None: all of them would not suffice.
    """
    coming = sum(one.nbytes for one in places if one.where == "leaving")
    idle = [one for one in places if one.where == "in" and not one.pinned and _is_idle(one)]
    chosen, missing = _fewest(_by_use(idle), lacking - coming)
    return tuple(one.name for one in chosen) if missing <= 0 else None


def _waits_since(one: Place) -> float:
    return one.waits_since or 0.0


class _Making:
    """A plan while it is made, model by model."""

    def __init__(self, places: Sequence[Place], budget: int | None, now: float, turn_seconds: float) -> None:
        self._now, self._turn, self._budget = now, turn_seconds, budget
        used = sum(one.nbytes for one in places if one.where != "out")
        self._free = 0 if budget is None else budget - used
        self._coming = sum(one.nbytes for one in places if one.where == "leaving")
        self._pinned = sum(one.nbytes for one in places if one.where != "out" and one.pinned)
        self.load: list[str] = []
        self.unload: dict[str, Why] = {}
        self.held = frozenset[str]()
        self.never: list[str] = []
        self.times: list[float] = []
        here = [one for one in places if one.where == "in"]
        for one in here:
            if (why := self._reason(one)) is not None:
                self._let_go(one, why)
        self._others = [one for one in here if not one.pinned and one.name not in self.unload]
        self._keep_to_budget()

    def _reason(self, one: Place) -> Why | None:
        """Why a model that is loaded goes, whoever waits."""
        if one.open:
            return None
        if one.ending is not None or one.waits_since is not None or one.keep_alive is None:
            return one.ending
        due = one.idle_since + one.keep_alive
        if due <= self._now:
            return "asked" if one.asked else "idle"
        self.times.append(due)
        return None

    def _let_go(self, one: Place, why: Why) -> None:
        self.unload[one.name] = why
        self._coming += one.nbytes

    def _keep_to_budget(self) -> None:
        """Let models go where all of them take more than they may."""
        if (excess := -self._free - self._coming) > 0:
            chosen, _ = _fewest(_by_use(other for other in self._others if _is_idle(other)), excess)
            self._claim(chosen)
            for other in chosen:
                self._let_go(other, "memory")

    def place(self, one: Place) -> None:
        """Have one loaded, or what it needs for that."""
        if self._budget is None or one.nbytes <= self._free:
            self.load.append(one.name)
            self._free -= 0 if self._budget is None else one.nbytes
            return
        if one.nbytes > self._budget - self._pinned:
            self.never.append(one.name)
            return
        lacking = one.nbytes - self._free
        self._free = 0  # it is this one's now, however long it takes until the rest of it comes
        self._take(one, lacking)

    def _take(self, one: Place, lacking: int) -> None:
        """Have memory freed: what is on its way, then of models that nobody has, then of those that are held."""
        from_coming = min(lacking, self._coming)
        self._coming -= from_coming
        lacking -= from_coming
        if lacking <= 0:
            return
        idle = [other for other in self._others if _is_idle(other)]
        busy = [other for other in self._others if not _is_idle(other)]
        chosen, missing = _fewest(_by_use(idle), lacking)
        if missing <= 0:
            self._claim(chosen)
            for other in chosen:
                self._let_go(other, "memory")
            self._coming -= lacking
            return
        chosen, missing = _fewest([*_by_use(idle), *_by_use(busy)], lacking)
        self._claim(chosen)
        if missing > 0:  # of what is being loaded, once it is there
            return
        turn_ends = max([_waits_since(one), *(other.loaded_at for other in chosen if other in busy)]) + self._turn
        is_held, until = held(turn_ends, self._turn * HOLD_TURNS, self._now)
        self.times.append(until)
        if not is_held:
            return
        self.held |= {other.name for other in chosen}
        for other in chosen:
            if not other.open:
                self._let_go(other, "memory")
                self._coming -= other.nbytes  # it is promised

    def _claim(self, chosen: Iterable[Place]) -> None:
        names = {other.name for other in chosen}
        self._others = [other for other in self._others if other.name not in names]


def held(turn_ends: float, first: float, now: float) -> tuple[bool, float]:
    """Whether models take no request, whose turn ends or has ended then, and when that changes.

    They are held for `first` seconds, and then take requests for as long; then both are twice as long, up to a bound.
    """
    is_held, until, length = False, turn_ends, first
    while until <= now:
        is_held = not is_held
        until += length
        length = length if is_held else min(2 * length, LONGEST_HOLDS * first)
    return is_held, until


def _is_idle(one: Place) -> bool:
    return not one.open and one.waits_since is None


def _by_use(places: Iterable[Place]) -> list[Place]:
    return sorted(places, key=lambda one: (one.last_used, one.name))


def _fewest(places: Iterable[Place], lacking: int) -> tuple[list[Place], int]:
    """Of models the first that free so many bytes, without those that need not go; and how many bytes are missing."""
    chosen = list[Place]()
    for one in places:
        if lacking <= 0:
            break
        chosen.append(one)
        lacking -= one.nbytes
    for one in list(reversed(chosen)):
        if lacking + one.nbytes <= 0:
            chosen.remove(one)
            lacking += one.nbytes
    return chosen, lacking
