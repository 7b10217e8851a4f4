"""The queue: it is what a sorted list of requests would be, and a change leaves the one that it was made from."""

from __future__ import annotations

from typing import Any

from helpers.states import A, waiting
from hypothesis import given
from hypothesis import strategies as st

from erllama_py.scheduler.queue import BLOCK, Ordered, Queue
from erllama_py.scheduler.stages import Waiting, rank
from erllama_py.scheduler.state import changed

steps = st.lists(st.tuples(st.booleans(), st.integers(0, 300)), max_size=400)


@given(steps)
def test_an_ordered_map_is_a_sorted_dict(steps: list[tuple[bool, int]]) -> None:
    """Whatever is put in and taken out, in which order ever."""
    ordered, expected = Ordered[int, str](), dict[int, str]()
    for number, (put, key) in enumerate(steps):
        ordered = ordered.put(key, str(number)) if put else ordered.without(key)
        expected = {other: value for other, value in expected.items() if other != key}
        if put:
            expected[key] = str(number)
        assert (ordered.get(key), len(ordered)) == (expected.get(key), len(expected))
    assert list(ordered) == [expected[key] for key in sorted(expected)]
    for key in (-1, 0, 150, 301):
        assert list(ordered.after(key)) == [expected[other] for other in sorted(expected) if other >= key]


def test_a_change_shares_all_but_two_blocks() -> None:
    """Of 5,000 entries a change copies one block and the list of blocks, and what it was made from stays."""
    ordered = Ordered[int, int]()
    for key in range(5000):
        ordered = ordered.put(2 * key, key)
    before = list(ordered)
    for after in (ordered.put(4001, -1), ordered.without(4000), ordered.put(4000, -1)):
        mine = {id(block) for block in ordered.blocks}
        assert sum(id(block) not in mine for block in after.blocks) <= 2
    assert list(ordered) == before
    assert max(len(block) for block in ordered.blocks) <= BLOCK
    assert len(ordered.blocks) <= 2 * 5000 / BLOCK + 1


# --- the queue -----------------------------------------------------------------------------------------------------

some = st.builds(
    lambda request_id, priority, session, started, room_by: (request_id, priority, session, started, room_by),
    st.integers(1, 12), st.integers(0, 2), st.sampled_from([None, None, "s", "t"]), st.sampled_from([None, None, 1.0]),
    st.sampled_from([None, 5.0, 7.0]),
)  # fmt: skip


def made(request_id: int, priority: int, session: str | None, started: float | None, room_by: Any) -> Waiting:
    one = waiting(request_id, A, priority=priority, session_id=session)
    return changed(one, core=changed(one.core, started_at=started), room_by=room_by)


@given(st.lists(st.tuples(st.booleans(), some), max_size=60))
def test_a_queue_is_a_sorted_list(steps: list[tuple[bool, tuple[Any, ...]]]) -> None:
    """By rank, with one request of each session; so are those that wait for room."""
    queue, expected = Queue(), dict[int, Waiting]()
    for put, what in steps:
        one = made(*what)
        expected.pop(what[0], None)
        if put:
            expected[what[0]] = one
        queue = queue.put(one) if put else queue.without(what[0])
        assert_is(queue, sorted(expected.values(), key=rank))


def assert_is(queue: Queue, expected: list[Waiting]) -> None:
    first: dict[Any, Waiting] = {}
    for one in sorted(expected, key=lambda one: (one.core.started_at is None, one.core.request.id)):
        session = one.core.request.session
        first.setdefault(session if session is not None else one.core.request.id, one)
    assert sorted(queue, key=rank) == expected
    assert list(queue.in_line()) == sorted(first.values(), key=rank)
    outside = [one for one in expected if one.room_by is not None]
    assert queue.first_outside() == next(iter(outside), None)
    assert queue.next_end() == min((one.room_by for one in outside if one.room_by is not None), default=None)
    for session in {one.core.request.session for one in expected} - {None}:
        turns = [one for one in expected if one.core.request.session == session]
        turns.sort(key=lambda one: (one.core.started_at is None, one.core.request.id))
        assert session is not None
        assert list(queue.of_session(session)) == turns
