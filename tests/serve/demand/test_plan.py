"""Who is loaded and who goes: cases as a table, and laws over random days of a server."""

from __future__ import annotations

import heapq
import itertools
import random
from typing import Any

import msgspec
import pytest
from helpers.examples import examples
from hypothesis import event, given, settings
from hypothesis import strategies as st

from erllama_py.serve.demand.plan import HOLD_TURNS, LONGEST_HOLDS, Place, Plan, held, making_room, plan

NOW, TURN = 100.0, 5.0


def place(name: str, nbytes: int, **given: Any) -> Place:
    """A model of some bytes."""
    return Place(name=name, nbytes=nbytes, **given)


def loaded(name: str, nbytes: int, used: float = 90.0, **given: Any) -> Place:
    """One that is there since 50 s."""
    return Place(name=name, nbytes=nbytes, where="in", last_used=used, idle_since=used, loaded_at=50.0, **given)


def wanted(name: str, nbytes: int, since: float = 99.0, **given: Any) -> Place:
    """One that a request waits for."""
    return Place(name=name, nbytes=nbytes, waits_since=since, **given)


@pytest.mark.parametrize(
    ("places", "budget", "expected"),
    [
        ([wanted("a", 6), place("b", 6)], None, Plan(load=("a",))),
        ([wanted("a", 6, 2.0), wanted("b", 6, 1.0)], None, Plan(load=("b", "a"))),
        ([wanted("a", 6, 2.0), wanted("b", 6, 1.0)], 12, Plan(load=("b", "a"))),
        ([wanted("a", 6, 2.0), wanted("b", 6, 1.0)], 11, Plan(load=("b",))),
        ([wanted("a", 6), loaded("b", 4)], 10, Plan(load=("a",))),
        ([wanted("a", 6), loaded("b", 5)], 10, Plan(unload=(("b", "memory"),))),
        ([wanted("a", 6), loaded("b", 5, 9.0), loaded("c", 5, 8.0)], 11, Plan(unload=(("c", "memory"),))),
        ([wanted("a", 6), loaded("b", 1, 1.0), loaded("c", 6, 2.0)], 7, Plan(unload=(("c", "memory"),))),
        ([wanted("a", 6), loaded("b", 5, pinned=True), loaded("c", 5)], 11, Plan(unload=(("c", "memory"),))),
        ([wanted("a", 7), loaded("b", 5, pinned=True)], 11, Plan(never=("a",))),
        ([wanted("a", 12)], 11, Plan(never=("a",))),
        ([wanted("a", 6), place("b", 9, where="leaving")], 10, Plan()),
        ([wanted("a", 6), place("b", 4, where="leaving"), loaded("c", 4), loaded("d", 2, 91.0)], 10,
         Plan(unload=(("c", "memory"),))),
        ([wanted("a", 6), loaded("b", 6, open=1)], 10, Plan(wake_at=104.0)),
        ([wanted("a", 6, 95.0), loaded("b", 6, open=1)], 10, Plan(held=frozenset("b"), wake_at=130.0)),
        ([wanted("a", 6, 66.0), loaded("b", 6, open=1)], 10, Plan(held=frozenset("b"), wake_at=101.0)),
        ([wanted("a", 6, 65.0), loaded("b", 6, open=1)], 10, Plan(wake_at=130.0)),
        ([wanted("a", 6, 1.0), Place(name="b", nbytes=6, where="in", open=1, loaded_at=98.0)], 10,
         Plan(wake_at=103.0)),
        ([wanted("a", 9, 95.0), loaded("b", 6, open=1), loaded("c", 4)], 10,
         Plan(held=frozenset("bc"), unload=(("c", "memory"),), wake_at=130.0)),
        ([wanted("a", 9, 90.0), loaded("b", 9, open=1), wanted("c", 1, 91.0)], 10,
         Plan(held=frozenset("b"), wake_at=125.0)),
        ([loaded("a", 1, keep_alive=20.0)], 10, Plan(wake_at=110.0)),
        ([loaded("a", 1, keep_alive=10.0)], 10, Plan(unload=(("a", "idle"),))),
        ([loaded("a", 1, keep_alive=0.0, asked=True)], None, Plan(unload=(("a", "asked"),))),
        ([loaded("a", 1, keep_alive=10.0, open=1)], 10, Plan()),
        ([loaded("a", 1, ending="changed")], 10, Plan(unload=(("a", "changed"),), held=frozenset("a"))),
        ([loaded("a", 1, ending="changed", open=2)], 10, Plan(held=frozenset("a"))),
        ([loaded("a", 1, ending="changed", waits_since=9.0)], 10,
         Plan(unload=(("a", "changed"),), held=frozenset("a"))),
        ([loaded("a", 1, ending="failed", waits_since=9.0)], 10, Plan(unload=(("a", "failed"),), held=frozenset("a"))),
        ([loaded("a", 1, ending="failed", open=2)], 10, Plan(held=frozenset("a"))),
        ([loaded("a", 1, ending="asked", open=2, waits_since=9.0)], 10, Plan(held=frozenset("a"))),
        ([loaded("a", 1, ending="asked", waits_since=9.0)], 10, Plan(unload=(("a", "asked"),), held=frozenset("a"))),
        ([loaded("a", 6, 8.0), loaded("b", 6, 9.0)], 11, Plan(unload=(("a", "memory"),))),
        ([loaded("a", 6, 8.0, open=1), loaded("b", 6, 9.0, pinned=True)], 3, Plan()),
        ([loaded("a", 6), place("b", 2, where="leaving")], 6, Plan()),
        ([loaded("a", 6, 8.0), loaded("b", 6, 9.0), wanted("c", 5)], 11, Plan(unload=(("a", "memory"),))),
    ],
)  # fmt: skip
def test_what_is_done(places: list[Place], budget: int | None, expected: Plan) -> None:
    """Each rule by itself."""
    assert plan(places, budget, NOW, TURN) == expected


class Day:
    """A server's day: requests come, models are loaded and unloaded in their own time, as the plan says."""

    def __init__(self, sizes: list[int], pinned: set[int], budget: int, keep_alive: float | None) -> None:
        self.places = {
            str(number): Place(name=str(number), nbytes=size, pinned=number in pinned, keep_alive=keep_alive)
            for number, size in enumerate(sizes)
        }
        self.budget, self.now = budget, 0.0
        self.waiting: dict[str, list[tuple[float, float]]] = {name: [] for name in self.places}
        self.events: list[tuple[float, int, str, str]] = []
        self.order = itertools.count()
        self.waited: dict[str, list[float]] = {name: [] for name in self.places}
        self.loads = self.swaps = self.refused = 0
        self.held = frozenset[str]()

    @property
    def waits(self) -> list[float]:
        """How long each request waited."""
        return [seconds for waited in self.waited.values() for seconds in waited]

    def change(self, name: str, **given: Any) -> None:
        self.places[name] = msgspec.structs.replace(self.places[name], **given)

    def later(self, seconds: float, what: str, name: str) -> None:
        heapq.heappush(self.events, (self.now + seconds, next(self.order), what, name))

    def serve(self, name: str) -> None:
        """Give a model to all who wait for it."""
        for since, takes in self.waiting[name]:
            self.waited[name].append(self.now - since)
            self.change(name, open=self.places[name].open + 1, last_used=self.now)
            self.later(takes, "end", name)
        self.waiting[name] = []
        self.change(name, waits_since=None)

    def step(self) -> None:
        """Plan and act until nothing is left to do now."""
        while True:
            for name, waiting in self.waiting.items():
                self.change(name, waits_since=waiting[0][0] if waiting else None)
            made = plan(list(self.places.values()), self.budget, self.now, TURN)
            for name in made.never:
                self.refused += len(self.waiting[name])
                self.waiting[name] = []
            for name, why in made.unload:
                one = self.places[name]
                assert (one.where, one.open, one.pinned and why == "memory") == ("in", 0, False)
                assert not self.waiting[name] or name in self.held
                self.swaps += why == "memory"
                self.change(name, where="leaving")
                self.later(0.5, "out", name)
            for name in made.load:
                assert self.places[name].where == "out"
                self.loads += 1
                self.change(name, where="loading")
                self.later(1.0, "in", name)
            assert sum(one.nbytes for one in self.places.values() if one.where != "out") <= self.budget
            self.held = made.held
            ready = [name for name, one in self.places.items()
                     if one.where == "in" and name not in made.held and self.waiting[name]]  # fmt: skip
            for name in ready:
                self.serve(name)
            if not (made.load or made.unload or made.never or ready):
                if made.wake_at is not None and made.wake_at > self.now:
                    self.later(made.wake_at - self.now, "wake", "")
                return

    def run(self, requests: list[tuple[float, int, float]]) -> None:
        """Requests: how long after the one before each comes, for which model, and how long it takes."""
        at = 0.0
        for after, number, takes in requests:
            at += after
            self.later(at, f"ask {takes}", str(number % len(self.places)))
        for _ in range(100_000):
            if not self.events:
                return
            self.now, _, what, name = heapq.heappop(self.events)
            if what.startswith("ask"):
                self.waiting[name].append((self.now, float(what[4:])))
            elif what == "end":
                self.change(name, open=self.places[name].open - 1, idle_since=self.now)
            elif what == "in":
                self.change(name, where="in", loaded_at=self.now, last_used=self.now, idle_since=self.now)
                self.serve(name)
            elif what == "out":
                self.change(name, where="out")
            self.step()
        raise AssertionError("it never comes to rest")


ASKS = st.lists(st.tuples(st.floats(0, 4), st.sampled_from([0, 0, 0, 1, 2, 3, 4]), st.floats(0.1, 12)), max_size=80)


@settings(max_examples=examples(150), deadline=None)
@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=5), pinned=st.sets(st.integers(0, 4), max_size=1),
    budget=st.integers(5, 20), keep_alive=st.sampled_from([None, 0.0, 3.0]), asks=ASKS,
)  # fmt: skip
def test_laws_of_a_day(
    sizes: list[int], pinned: set[int], budget: int, keep_alive: float | None, asks: list[tuple[float, int, float]]
) -> None:
    """The budget is never passed, nobody with an open request goes, none is forgotten or waits for ever, and there are
    no more swaps than there are requests that waited."""
    day = Day(sizes, pinned, budget, keep_alive)
    day.run(asks)
    assert len(day.waits) + day.refused == len(asks)
    assert not any(day.waiting.values())
    assert all(one.open == 0 and one.where in ("in", "out") for one in day.places.values())
    assert day.loads <= sum(wait > 0 for wait in day.waits)
    event(f"swaps: {min(day.swaps, 3)}")
    # For each model that is before it: a turn, the longest request of those that have memory, a load and an unload.
    assert max(day.waits, default=0.0) <= len(sizes) * 2 * (TURN + 12.0 + 1.5)


@settings(max_examples=examples(50), deadline=None)
@given(st.lists(st.tuples(st.floats(0, 2), st.integers(0, 1), st.floats(0.1, 4)), min_size=1, max_size=100))
def test_two_that_do_not_fit_take_turns(asks: list[tuple[float, int, float]]) -> None:
    """However they are asked for: a model is loaded for those who waited, and all of them are served before it goes."""
    day = Day([6, 6], set(), 10, None)
    day.run(asks)
    assert len(day.waits) == len(asks)
    assert day.swaps == max(0, day.loads - 1)
    assert day.loads <= len(asks)
    event(f"requests for a load: {len(asks) // day.loads}")


def test_a_steady_stream_of_requests_starves_nobody() -> None:
    """One model is always in use: the other has it after a turn all the same, and then the first one again."""
    day = Day([6, 6], set(), 10, None)
    day.run([(0.1, int(number in (30, 200)), 1.0) for number in range(400)])
    assert len(day.waits) == 400
    assert day.loads == 5
    assert max(day.waits) < TURN + 1.0 + 4.0


def test_200_random_requests_for_two_that_do_not_fit() -> None:
    """None is refused. A model goes for one that waits: the more requests a load serves, the fewer swaps there are."""
    swaps = []
    for after in (0.2, 2.0, 8.0):  # seconds between requests, which take a second each
        draw = random.Random(17)
        day = Day([6, 6], set(), 10, None)
        day.run([(after, draw.randrange(2), 1.0) for _ in range(200)])
        assert (len(day.waits), day.refused, day.swaps) == (200, 0, day.loads - 1)
        swaps.append(day.swaps)
    turns = 200 * 0.2 / TURN
    assert swaps[0] <= 2 * turns
    assert swaps[0] < swaps[1] < swaps[2] < 110


@settings(max_examples=examples(50), deadline=None)
@given(first=st.floats(0.1, 100), turns=st.floats(0, 200))
def test_holds_leave_half_of_the_time(first: float, turns: float) -> None:
    """At any time those that are held have taken requests as long as not, but for the hold that there is now."""
    longest, now, held_for, open_for, at = LONGEST_HOLDS * first, first * turns, 0.0, 0.0, 0.0
    while at <= now:
        is_held, until = held(0.0, first, at)
        assert at < until <= at + longest
        held_for, open_for = held_for + is_held * (until - at), open_for + (not is_held) * (until - at)
        assert open_for <= held_for + 1e-6 * now
        assert held_for - open_for <= longest + 1e-6 * now
        at = until
    assert held(0.0, first, -1.0) == (False, 0.0)


@settings(max_examples=examples(50), deadline=None)
@given(endless=st.floats(200, 3000), many=st.integers(20, 100), takes=st.floats(0.1, 100))
def test_a_stream_that_goes_on_for_hours_closes_no_model(endless: float, many: int, takes: float) -> None:
    """Others go on using its model, half of the time; whoever waits for another one has that soon after the stream."""
    day = Day([6, 6], set(), 10, None)
    after = 2 * endless / many  # they go on coming for as long again
    day.run([(0.0, 0, endless), (1.0, 1, 1.0), *((after, 0, takes) for _ in range(many))])
    longest = LONGEST_HOLDS * HOLD_TURNS * TURN
    assert len(day.waits) == many + 2
    assert max(day.waited["1"]) <= endless + 2 * longest + takes + TURN
    assert max(day.waited["0"]) <= longest + takes + TURN + 2.5
    event(f"holds until it is over: {min(day.waited['1'][0] // longest, 5):.0f}")


@pytest.mark.parametrize(
    ("places", "lacking", "expected"),
    [
        ([loaded("a", 6)], 6, ("a",)),
        ([loaded("a", 6)], 7, None),
        ([], 1, None),
        ([loaded("a", 6, 9.0), loaded("b", 6, 8.0)], 6, ("b",)),
        ([loaded("a", 6, 9.0), loaded("b", 6, 8.0)], 7, ("b", "a")),
        ([loaded("a", 2, 8.0), loaded("b", 6, 9.0)], 6, ("b",)),
        ([loaded("a", 6, open=1), loaded("b", 6, pinned=True), loaded("c", 6, waits_since=9.0)], 1, None),
        ([place("a", 6, where="leaving"), loaded("b", 6)], 6, ()),
        ([place("a", 6, where="leaving"), loaded("b", 6)], 7, ("b",)),
        ([place("a", 6, where="loading"), place("b", 6)], 1, None),
    ],
)
def test_who_goes_where_the_machine_has_less_than_the_budget(
    places: list[Place], lacking: int, expected: tuple[str, ...] | None
) -> None:
    """Those that nobody has, if that is enough beside those that leave already."""
    assert making_room(places, lacking) == expected
