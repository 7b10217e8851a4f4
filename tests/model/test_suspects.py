"""Who is suspected of crashing a model, run alone, and found guilty: laws that hold over random lives."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st

from erllama_py.model.suspects import (
    STRIKES,
    Place,
    Record,
    Suspects,
    after_crash,
    has_passed,
    may_run,
    next_trial,
    without,
)


class World:
    """A model's requests, by how far each has come, and what becomes of them. One in `poison` crashes at its place."""

    def __init__(self, lengths: dict[int, int], poison: dict[int, int]) -> None:
        self.left, self.poison = dict(lengths), poison
        self.come = dict.fromkeys(lengths, 0)
        self.suspects = Suspects()
        self.hit = Counter[int]()  # crashes while it was at work
        self.own = Counter[int]()
        self.guilty: list[int] = []
        self.ended: list[int] = []
        self.trials: list[int] = []

    @property
    def open(self) -> list[int]:
        return sorted(set(self.left) - set(self.guilty) - set(self.ended))

    def running(self) -> list[int]:
        """Those that are at work: of the suspects one, alone."""
        self.suspects = next_trial(self.suspects)
        at_work = [one for one in self.open if may_run(self.suspects, one)]
        if self.suspects.trial is not None:
            assert at_work == [self.suspects.trial]
            if self.trials[-1:] != at_work:
                self.trials += at_work
        return at_work

    def crash(self, at_work: list[int], blamed: list[int]) -> None:
        self.hit.update(at_work)
        places = {one: Place(self.come[one], 0) for one in blamed}
        self.suspects, guilty = after_crash(self.suspects, places)
        if guilty is not None:
            self.guilty.append(guilty)

    def step(self, one: int) -> bool:
        """One token of a request; false where that crashes the model."""
        if self.poison.get(one) == self.come[one]:
            self.own[one] += 1
            return False
        self.come[one] += 1
        if self.suspects.trial == one and has_passed(self.suspects, Place(self.come[one], 0)):
            self.suspects = without(self.suspects, one)
        if self.come[one] == self.left[one]:
            self.ended.append(one)
            self.suspects = without(self.suspects, one)
        return True

    def life(self, order: Iterator[int], steps: int) -> None:
        """Until a crash of their own, or one from outside after so many steps."""
        for _ in range(steps):
            at_work = self.running()
            if not at_work:
                return
            one = at_work[next(order) % len(at_work)]
            if not self.step(one):
                self.crash(at_work, at_work)
                return
        at_work = self.running()
        self.crash(at_work, at_work)


ORDERS = st.lists(st.integers(0, 1000), min_size=1, max_size=50)


def forever(order: list[int]) -> Iterator[int]:
    while True:
        yield from order


@given(st.lists(st.integers(1, 30), min_size=1, max_size=6), st.lists(st.integers(0, 9), max_size=40), ORDERS)
def test_an_innocent_that_gets_further_is_never_failed_nor_suspected(
    lengths: list[int], further: list[int], order: list[int]
) -> None:
    """However many crashes there are from outside: each request comes on by a token at least between two."""
    world = World(dict(enumerate(lengths)), {})
    for more in further:
        for one in world.open:
            for _ in range(1 + (more + one) % 4):
                if one in world.open:
                    assert world.step(one)
        at_work = world.running()
        assert at_work == world.open
        world.crash(at_work, at_work)
        assert not world.suspects.suspected
    assert not world.guilty


@given(
    st.lists(st.integers(1, 30), min_size=1, max_size=6), st.integers(0, 5), st.integers(0, 29), ORDERS,
)  # fmt: skip
def test_a_poisonous_request_fails_after_three_crashes_and_costs_the_others_two(
    lengths: list[int], bad: int, place: int, order: list[int]
) -> None:
    """Whoever is computed when, and whoever else is suspected because of it: the others come to their end."""
    bad %= len(lengths)
    place %= lengths[bad]
    world, turns = World(dict(enumerate(lengths)), {bad: place}), forever(order)
    for _ in range(10):
        world.life(turns, 10_000)
        if not world.open:
            break
    assert world.guilty == [bad]
    assert world.own[bad] <= STRIKES + 1
    assert all(world.hit[one] <= STRIKES for one in range(len(lengths)) if one != bad)
    assert sorted(world.ended) == [one for one in range(len(lengths)) if one != bad]


@given(st.lists(st.integers(1, 30), min_size=2, max_size=6), st.sets(st.integers(0, 5), min_size=1), ORDERS)
def test_several_poisonous_requests_run_one_after_the_other(
    lengths: list[int], bad: set[int], order: list[int]
) -> None:
    """Each fails, each after three crashes of its own at most, and no innocent with them."""
    poison = {one % len(lengths): (one * 7) % lengths[one % len(lengths)] for one in bad}
    world, turns = World(dict(enumerate(lengths)), poison), forever(order)
    for _ in range(40):
        world.life(turns, 10_000)
        if not world.open:
            break
    assert sorted(world.guilty) == sorted(poison)
    assert all(world.own[one] <= STRIKES + 1 for one in poison)
    assert sorted(world.ended) == sorted(set(range(len(lengths))) - set(poison))


@given(
    st.lists(st.integers(1, 30), min_size=1, max_size=5), st.lists(st.integers(0, 12), min_size=1, max_size=30), ORDERS,
)  # fmt: skip
def test_at_any_time_one_suspect_runs_alone_or_none_is_there(
    lengths: list[int], crashes: list[int], order: list[int]
) -> None:
    """Also with crashes from outside at any moment; and all of them come to an end, by themselves or found guilty."""
    world, turns = World(dict(enumerate(lengths)), {}), forever(order)
    for steps in crashes:
        world.life(turns, steps)
    world.life(turns, 10_000)
    assert not world.open
    assert not world.suspects.records.keys() & set(world.ended)


def test_a_trial_in_which_another_crashed_is_void() -> None:
    """What is on trial was not at work in it: it is tried again, with what was held against it before."""
    record = Record(Place(3, 10), STRIKES)
    tried = next_trial(Suspects({7: record}))
    assert tried.trial == 7
    after, guilty = after_crash(tried, {})
    assert (guilty, after.trial, after.suspected) == (None, None, [7])


def test_a_crash_further_on_begins_to_count_anew() -> None:
    """Reading more of the prompt is further, and a token of the reply is further than all of it."""
    suspects = Suspects()
    for place in (Place(0, 5), Place(0, 6), Place(1, 6), Place(2, 6)):
        suspects, guilty = after_crash(suspects, {1: place})
        assert (guilty, suspects.records[1]) == (None, Record(place, 1))
    suspects, _ = after_crash(suspects, {1: Place(2, 6)})
    assert suspects.suspected == [1]
