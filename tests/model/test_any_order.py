"""Many requests on one model, in any order of events: cells suffice, nobody is lost, and nothing is done twice."""

from __future__ import annotations

import pytest
from helpers.model_world import ALL, SESSIONS, Ask, Shape, Step, World
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

STEPS = ["answer", "cancel", "deliver", "jobs", "look", "mishap", "read", "round", "store", "tick"]
RARE = ["end session", "evict rows", "save all", "unload"]
TEMPERS = (
    STEPS + RARE,
    ["round", "work", "deliver", *STEPS],  # much gets done
    ["work"] * 10 + STEPS,  # the cache sleeps while the engine goes on
    ["answer", "deliver", "jobs", "read", "store", "tick"] * 4 + ["mishap"] + STEPS + RARE,  # in the smallest steps
)

shapes = st.builds(
    Shape,
    memory=st.sampled_from(["full", "full", "full", "window", "recurrent", "hybrid"]),
    n_ctx=st.sampled_from([64, 96, 128, 256]),
    n_seq_max=st.integers(1, 5),
    quantum=st.sampled_from([4, 8, 16, 32]),
    kept=st.sampled_from([ALL, 40, 0]),
    saves=st.sampled_from([True, True, True, False]),
    max_pending=st.sampled_from([ALL, ALL, 3]),
)
asks = st.builds(
    Ask,
    base=st.sampled_from([0, 0, 0, 1, 2]),
    length=st.sampled_from([0, 10, 20, 24, 32, 40, 50, 60, 80, 100]),
    own=st.sampled_from([0, 0, 1, 2, 3]),
    after=st.sampled_from([None, None, None, 0, 1, 2]),
    max_new_tokens=st.sampled_from([0, 1, 2, 5, 20, 60, 100, 200]),
    priority=st.sampled_from([0, 0, 1, 2]),
    session=st.sampled_from([None, None, *SESSIONS]),
    wait=st.sampled_from([True, True, True, False]),
    tenant=st.sampled_from([0, 0, 0, 0, 1]),
    stream=st.booleans(),
    plan=st.sampled_from([True, True, True, False]),
)
numbers = st.integers(0, 15) | st.integers(0, 1 << 15)


def steps_of(temper: list[str]) -> st.SearchStrategy[list[Step]]:
    """Requests, and twice as many other things."""
    happenings = st.tuples(st.sampled_from(temper), numbers)
    return st.lists(asks | happenings | happenings, min_size=20, max_size=80)


anything = st.sampled_from(TEMPERS).flatmap(steps_of)


def run(shape: Shape, steps: list[Step]) -> None:
    """Do all of it, and see that it comes to an end."""
    world = World(shape)
    for step in steps:
        world.step(step)
    world.settle()


@settings(max_examples=15, suppress_health_check=list(HealthCheck))
@given(shapes, anything)
def test_requests_come_to_their_end(shape: Shape, steps: list[Step]) -> None:
    """Whatever happens, each is answered once with what it is due; a first look, see the next test."""
    run(shape, steps)


@pytest.mark.slow
@settings(max_examples=1000, suppress_health_check=list(HealthCheck))
@given(shapes, anything)
def test_requests_come_to_their_end_in_many_orders(shape: Shape, steps: list[Step]) -> None:
    """The same, with so many examples that rare meetings are among them."""
    run(shape, steps)
