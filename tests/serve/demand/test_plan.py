"""Who is loaded and who goes: cases as a table, and laws over random days of a server."""

from __future__ import annotations

import heapq
import itertools
from typing import Any

import msgspec
import pytest
from helpers.examples import examples
from hypothesis import event, given, settings
from hypothesis import strategies as st

from erllama_py.serve.demand.plan import Place, Plan, plan

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
        ([wanted("a", 6, 95.0), loaded("b", 6, open=1)], 10, Plan(held=frozenset("b"))),
        ([wanted("a", 6, 1.0), Place(name="b", nbytes=6, where="in", open=1, loaded_at=98.0)], 10,
         Plan(wake_at=103.0)),
        ([wanted("a", 9, 1.0), loaded("b", 6, open=1), loaded("c", 4)], 10,
         Plan(held=frozenset("bc"), unload=(("c", "memory"),))),
        ([wanted("a", 9, 1.0), loaded("b", 9, open=1), wanted("c", 1, 2.0)], 10, Plan(held=frozenset("b"))),
        ([loaded("a", 1, keep_alive=20.0)], 10, Plan(wake_at=110.0)),
        ([loaded("a", 1, keep_alive=10.0)], 10, Plan(unload=(("a", "idle"),))),
        ([loaded("a", 1, keep_alive=0.0, asked=True)], None, Plan(unload=(("a", "asked"),))),
        ([loaded("a", 1, keep_alive=10.0, open=1)], 10, Plan()),
        ([loaded("a", 1, closing=True)], 10, Plan(unload=(("a", "changed"),), held=frozenset("a"))),
        ([loaded("a", 1, closing=True, open=2)], 10, Plan(held=frozenset("a"))),
        ([loaded("a", 1, closing=True, waits_since=9.0)], 10, Plan(unload=(("a", "changed"),), held=frozenset("a"))),
        ([loaded("a", 1, given_up=True, waits_since=9.0)], 10, Plan(unload=(("a", "failed"),), held=frozenset("a"))),
        ([loaded("a", 1, given_up=True, open=2)], 10, Plan(held=frozenset("a"))),
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
        self.waits: list[float] = []
        self.loads = self.swaps = self.refused = 0
        self.held = frozenset[str]()

    def change(self, name: str, **given: Any) -> None:
        self.places[name] = msgspec.structs.replace(self.places[name], **given)

    def later(self, seconds: float, what: str, name: str) -> None:
        heapq.heappush(self.events, (self.now + seconds, next(self.order), what, name))

    def serve(self, name: str) -> None:
        """Give a model to all who wait for it."""
        for since, takes in self.waiting[name]:
            self.waits.append(self.now - since)
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
