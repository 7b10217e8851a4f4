"""Requests that do not fit together take turns: which displaces which, when, and for how long one is parked."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import pytest
from helpers import fake_engine
from helpers.examples import examples
from helpers.model_asks import Ask, Shape
from helpers.model_world import ALL, TICK_SECONDS, World
from helpers.requests import PLAN, found, run
from helpers.stages import at, requests, stage_of
from helpers.states import A, B, C, D, asked, begun, state_with, waiting
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from erllama_py.engine.jobs import Forked, Wants
from erllama_py.engine.jobs import Park as ParkJob
from erllama_py.scheduler.messages import CancelRequest, SendJob
from erllama_py.scheduler.placing import Park, place
from erllama_py.scheduler.preempt import TURN_SHARE, gives_way, next_turn, next_up, parkable, turn_end
from erllama_py.scheduler.stages import Open, Parked, Queued, Working, is_prefilled, queue_rank
from erllama_py.scheduler.state import State, changed, with_request

FULL = begun(state_with(n_seq_max=2, n_cells=1000), asked(1, A, plan=PLAN), asked(2, B, plan=PLAN))


def working(state: State, request_id: int) -> Working:
    return at(state, request_id, Working)


def parked(request_id: int, tokens: list[int], at: float, **fields: Any) -> Parked:
    """A request that was parked at some time and waits."""
    core, was = waiting(request_id, tokens, **fields).core, working(FULL, 1).begun
    return Parked(core, changed(was, sought=core.request, parked_at=at, parks=1))


def since(state: State, *times: float | None, came_in: float = 0.0) -> State:
    """The state in which requests 1, 2 … at work are back since then; None: not yet."""
    for request_id, time in enumerate(times, 1):
        state = with_request(state, changed(working(state, request_id), back_at=time, came_in=came_in))
    return state


# --- which displaces which -----------------------------------------------------------------------------------------


def test_a_parked_request_displaces_the_equal_that_has_worked_longest() -> None:
    """Both have waited and worked for a turn; the one that came first has no privilege."""
    state = since(FULL, 5.0, 4.0)
    assert place(state, parked(3, C, at=5.0), now=7.0) == Park((2,))
    assert place(since(FULL, 4.0, 5.0), parked(3, C, at=5.0), now=7.0) == Park((1,))


@pytest.mark.parametrize(
    ("at", "back", "now"), [(5.1, 1.0, 7.0), (1.0, 5.1, 7.0), (1.0, None, 7.0)],
    ids=["it has not waited for a turn", "none has worked for one", "one that is not back has not begun its turn"],
)  # fmt: skip
def test_no_request_is_displaced_before_a_turn(at: float, back: float | None, now: float) -> None:
    """Whoever is restored, or computes again what was not saved, is left there until it has got on for a turn."""
    assert place(since(FULL, back, back), parked(3, C, at=at), now=now) is None


def test_a_request_that_was_never_started_displaces_no_equal() -> None:
    """However long it waits: those at work end some time, and no stream of it pauses."""
    assert place(since(FULL, 0.0, 0.0), waiting(3, C), now=1000.0) is None


def test_a_higher_priority_is_never_displaced() -> None:
    """And a lower one goes before an equal, turn or not."""
    state = begun(state_with(n_seq_max=2, n_cells=1000), asked(1, A, priority=1, plan=PLAN), asked(2, B, plan=PLAN))
    state = since(state, 0.0, 6.9)
    assert place(state, parked(3, C, at=0.0), now=7.0) is None
    assert place(state, parked(3, C, at=0.0, priority=1), now=7.0) == Park((2,))


def test_a_request_that_takes_long_to_come_back_has_a_longer_turn() -> None:
    """So that coming back never takes more than a ninth of the time, saved or not."""
    state = since(FULL, 0.0, 0.0, came_in=3.0)
    assert [turn_end(state, working(state, n)) for n in (1, 2)] == [3.0 * TURN_SHARE] * 2
    assert place(state, parked(3, C, at=0.0), now=23.9) is None
    assert place(state, parked(3, C, at=0.0), now=24.0) == Park((1,))


def test_coming_back_begins_with_the_look_up() -> None:
    """It waits for what is still being saved, with cells that are unused meanwhile."""
    state, _ = run(state_with(), asked(1, A, plan=PLAN), now=1.0)
    state, _ = run(state, found(1), now=4.0)
    assert (working(state, 1).back_at, working(state, 1).came_in) == (4.0, 3.0)


@pytest.mark.parametrize(("first", "then"), [(found(2), Forked(2, 40)), (Forked(2, 40), found(2))])
def test_coming_back_counts_from_when_the_wait_for_a_leader_is_over(first: Any, then: Any) -> None:
    """A leader's prompt may take that long; its follower is not to keep its place for eight times that."""
    state = begun(state_with(), asked(1, A, plan=PLAN))
    state, _ = run(state, asked(2, [*A[:40], *B[:20]], plan=PLAN), now=2.0)
    state, _ = run(state, first, now=5.0)
    state, _ = run(state, then, now=9.0)
    assert (working(state, 2).back_at, working(state, 2).came_in) == (9.0, 0.0 if first == found(2) else 4.0)


def test_a_prompt_that_is_not_saved_is_read_before_its_turn_begins() -> None:
    """Parked in the middle of it, all of it would be read again; one that is saved goes on where it was."""
    state = begun(state_with(), asked(1, A), asked(2, B, plan=PLAN))
    assert [working(state, n).back_at for n in (1, 2)] == [None, 1.0]  # of the clock of `run`


def test_the_next_in_the_queue_is_the_one_parked_first() -> None:
    """Before those that were never started, after higher priorities; so none waits for ever."""
    state = FULL
    queue: list[Queued] = [parked(3, C, at=3.0), parked(4, D, at=2.0), waiting(5, C), waiting(6, D, priority=1)]
    for one, expected in zip(reversed(queue), (6, 6, 6, 6), strict=True):
        state = with_request(state, one)
        assert (up := next_up(state)) is not None
        assert up.core.request.id == expected
    assert [one.core.request.id for one in sorted(queue, key=queue_rank)] == [6, 4, 3, 5]


def test_a_look_is_due_when_one_more_turn_is_over() -> None:
    """Not before the waiting one has waited for one, and not for what is past."""
    state = with_request(since(FULL, 3.0, 4.5), parked(3, C, at=2.0))
    assert [next_turn(state, now) for now in (0.0, 4.0, 5.0, 6.4, 6.5)] == [5.0, 5.0, 6.5, 6.5, None]
    state = with_request(since(FULL, 0.0, 0.0), parked(3, C, at=2.0))
    assert [next_turn(state, now) for now in (3.0, 4.0)] == [4.0, None]
    assert next_turn(with_request(since(FULL, 0.0, 0.0), waiting(3, C)), 0.0) is None


# --- which gives way to one that grows -----------------------------------------------------------------------------


def order(state: State, request_id: int, now: float) -> list[int]:
    """Those that would be parked for its growth, one after the other."""
    others, found = parkable(state), list[int]()
    while others and (last := gives_way(state, working(state, request_id), others, now)) is not None:
        found.append(last.core.request.id)
        others.remove(last)
    return found


def test_the_lowest_priority_gives_way_first_then_the_latest_arrival() -> None:
    """Never a higher one; one that is leaving is not parked, nor one that the engine has not begun."""
    state = begun(
        state_with(n_seq_max=6, n_cells=1000),
        asked(1, A, priority=1), asked(2, B), asked(3, C), asked(4, D, priority=2), asked(5, [1, 2, 3]),
    )  # fmt: skip
    assert order(state, 4, 0.0) == [5, 3, 2, 1, 4]
    assert order(state, 2, 0.0) == [5, 3, 2]
    state, _ = run(state, CancelRequest(3), asked(6, [4, 5, 6]))
    assert order(state, 4, 0.0) == [5, 2, 1, 4]


def test_a_request_that_has_had_its_turn_gives_way_before_one_that_has_not() -> None:
    """Whichever came first."""
    assert order(since(FULL, 0.0, 1.5), 2, now=3.0) == [1, 2]
    assert order(since(FULL, 0.0, 0.0), 1, now=3.0) == [2, 1]


def test_a_request_that_comes_back_advances_before_it_gives_way_to_an_equal() -> None:
    """It would have been restored for nothing; a higher priority does not wait for that."""
    state = since(FULL, 0.0, None)
    back = working(state, 2)
    state = with_request(state, changed(back, begun=changed(back.begun, parks=1)))
    assert order(state, 1, now=1.0) == []
    high = working(state, 1)
    high = changed(high, core=changed(high.core, request=changed(high.core.request, priority=1)))
    assert order(with_request(state, high), 1, now=1.0) == [2, 1]


@pytest.mark.parametrize("priority", [-1000, 0])
def test_a_higher_priority_waits_for_no_cells_of_lower_ones(priority: int) -> None:
    """One of these asks for more than there are, and lets another one come back first, which may take long beside
    others: an equal waits for both, a higher one takes their places."""
    first, second = asked(1, A, priority=-1000), asked(2, B, priority=-1000)
    state = since(begun(state_with(n_cells=132), first, second), 0.0, None)
    back = working(state, 2)
    state, _ = run(with_request(state, changed(back, begun=changed(back.begun, parks=1))), Wants(1, 64), Wants(1, 68))
    assert working(state, 1).starving
    state, effects = run(state, asked(3, C[:40], priority=priority))
    assert effects == ([] if priority else [SendJob(ParkJob(2))])


# --- how long anybody is parked ------------------------------------------------------------------------------------


@dataclass
class Seen:
    """One stream: its stage and since when; what was seen since it was parked; what it had come to by then."""

    stage: str = ""
    since: float = 0.0
    parked_since: float | None = None
    waited_with: int = 0  # most that were parked
    beside: int = 1 << 30  # fewest that had a place
    had: int = -1
    parks: int = 0


class Streams:
    """Equal streams in a world whose decodes take a second each, and how long they are moved and parked."""

    def __init__(
        self, shape: Shape, lengths: Sequence[int], reply: int, *, fast: bool = True, look_up: float = 0.0
    ) -> None:
        self.world, self._fast = World(shape), fast  # whether all rows of a request are read within a decode
        self._look_up, self._asked = look_up, dict[int, float]()  # seconds that a look-up takes; when each was begun
        self.pauses: list[tuple[float, int]] = []  # seconds, and rounds of turns that they may have lasted
        self.out = self.back = self.came_in = 0.0  # the longest times to be parked and to come back
        self.parks = 0
        self._seen = {number: Seen() for number in range(1, len(lengths) + 1)}
        self._most_rounds = 100 * (reply + max(lengths)) * len(lengths)
        for number, length in enumerate(lengths):
            self.world.step(
                Ask(
                    base=number % 3, length=length, own=1 + number, after=None, max_new_tokens=reply, priority=0,
                    session=None, wait=True, tenant=0, stream=True, plan=shape.saves,
                )
            )  # fmt: skip

    def run(self) -> float:
        """Until all have ended, after as many tokens as were wanted: how long that took."""
        with patch.object(fake_engine, "END_ODDS", 1 << 62):
            return self._run()

    def _run(self) -> float:
        for _ in range(self._most_rounds):
            if not requests(self.world.state):
                return self.world.now
            while self._fast and self.world.reading:
                self.world.read(0)
            young = self._held_back()
            self.world.round(0)  # three tokens of a prompt a decode: to compute it again takes a while
            self.world.asking.extend(young & self.world.open.keys())
            for request_id, one in requests(self.world.state).items():
                self._note(one, self._seen[request_id])
        raise AssertionError("they do not come to an end")

    def _held_back(self) -> set[int]:
        """Look-ups that are not to be answered yet."""
        world, now = self.world, self.world.now
        self._asked = {request_id: self._asked.get(request_id, now) for request_id in world.asking}
        young = {request_id for request_id, began in self._asked.items() if now < began + self._look_up}
        world.asking = deque(request_id for request_id in world.asking if request_id not in young)
        return young

    def _note(self, one: Open, seen: Seen) -> None:
        state, now = self.world.state, self.world.now
        back = one if isinstance(one, Working) and one.back_at is not None else None
        stage = "back" if back is not None else stage_of(one)
        stage = stage if stage in ("back", "parking", "parked") else "coming"
        parks = 0 if one.begun is None else one.begun.parks
        if stage != seen.stage:
            if seen.stage == "parking":
                self.out = max(self.out, now - seen.since)
            if parks > seen.parks:  # else it was put back before the engine had begun with it
                self.parks += 1
                had = len(self.world.streamed[one.core.request.id])
                assert had > seen.had or not is_prefilled(one), "parked again before it got on"
                seen.parked_since, seen.waited_with, seen.beside, seen.had = now, 0, 1 << 30, had
                seen.parks = parks
            if seen.stage == "coming" and seen.parked_since is not None:
                self.back = max(self.back, now - seen.since)
            seen.stage, seen.since = stage, now
        if back is not None and seen.parked_since is not None:
            self.came_in = max(self.came_in, back.came_in)
            self.pauses.append((now - seen.parked_since, math.ceil(seen.waited_with / seen.beside)))
            seen.parked_since = None
        if seen.parked_since is not None:
            seen.waited_with = max(seen.waited_with, len(state.parked))
            seen.beside = max(1, min(seen.beside, len(state.placed)))


crowds = st.tuples(
    st.builds(
        Shape, memory=st.sampled_from(["full", "window", "hybrid"]), n_ctx=st.sampled_from([96, 128, 256]),
        n_seq_max=st.integers(1, 5), quantum=st.sampled_from([4, 8, 16]), kept=st.sampled_from([ALL, 0]),
        saves=st.booleans(), max_pending=st.just(ALL), turn=st.sampled_from([1.0, 3.0, 10.0, 30.0]),
    ),
    st.lists(st.integers(1, 40), min_size=2, max_size=6),
    st.integers(2, 55),
    st.booleans(),
    st.sampled_from([0.0, 0.0, 3.0, 20.0]),
)  # fmt: skip


def crowd_takes_turns(shape: Shape, lengths: Sequence[int], reply: int, fast: bool, look_up: float) -> None:
    """Let a crowd run; none waits longer than is stated, and moving stays within bounds."""
    streams = Streams(shape, lengths, reply, fast=fast, look_up=look_up)
    took = streams.run()
    turn = max(shape.turn, TURN_SHARE * streams.came_in) + TICK_SECONDS
    at_most = len(lengths)
    swap = at_most * streams.out + streams.back + 2 * TICK_SECONDS
    for pause, rounds in streams.pauses:
        assert pause <= rounds * (turn + swap) + swap, (pause, rounds, turn, swap)
    # Each park for an equal that waits costs a turn of a sequence; for one that grows, a quantum of cells.
    grown = at_most * (reply // shape.quantum + 1)
    assert streams.parks <= grown + shape.n_seq_max * (took / shape.turn + 1)


@pytest.mark.slow
@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
@given(crowds)
def test_no_request_is_parked_for_longer_than_is_stated(crowd: tuple[Shape, list[int], int, bool, float]) -> None:
    """A first look, see the next test."""
    crowd_takes_turns(*crowd)


@pytest.mark.slow
@settings(max_examples=examples(150), deadline=None, suppress_health_check=list(HealthCheck))
@given(crowds)
def test_no_request_is_parked_for_longer_than_is_stated_in_many_crowds(
    crowd: tuple[Shape, list[int], int, bool, float],
) -> None:
    """ceil(parked / that fit) turns and moves; each gets on before it is parked again; and parks are bounded."""
    crowd_takes_turns(*crowd)


@pytest.mark.slow
@pytest.mark.parametrize("look_up", [0.0, 10.0, 30.0])
def test_turns_cost_little_however_long_a_look_up_takes(look_up: float) -> None:
    """Two streams that fit one at a time: with turns they take an eighth longer, and a first and a last look-up."""

    def takes(turn: float) -> float:
        shape = Shape(
            memory="full", n_ctx=340, n_seq_max=2, quantum=16, kept=ALL, saves=True, max_pending=ALL, turn=turn
        )
        return Streams(shape, [20] * 2, 300, look_up=look_up).run()

    assert takes(1.0) <= (1 + 1 / TURN_SHARE) * takes(ALL) + 2 * look_up


@pytest.mark.slow
def test_the_longest_pause_does_not_grow_with_what_the_others_say() -> None:
    """Four streams in cells for one of them whole: without turns one waits until others have ended, for 200 decodes."""

    def longest(turn: float) -> float:
        shape = Shape(
            memory="full", n_ctx=340, n_seq_max=4, quantum=16, kept=ALL, saves=True, max_pending=ALL, turn=turn
        )
        streams = Streams(shape, [20] * 4, 300)
        streams.run()
        return max(pause for pause, _ in streams.pauses)

    assert longest(30.0) <= 4 * 30 < 200 < longest(ALL)
