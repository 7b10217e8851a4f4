"""What is kept of a stream, what is evicted, and what a reader at a number gets."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from erllama_py.serve.core.replay import Held, Pace, Replay, given_to_all, givers, leavers, numbered, split

EVENTS = st.binary(min_size=1, max_size=40).map(lambda data: b"data: " + data.hex().encode() + b"\n\n")


def all_after(replay: Replay, number: int) -> bytes:
    """All pieces that a reader is given."""
    text = b""
    while True:
        reached, piece = replay.after(number)
        if reached == number:
            assert piece == b""
            return text
        number, text = reached, text + piece


@given(st.lists(EVENTS), st.integers(0, 60))
def test_a_reader_gets_exactly_what_is_after_its_number(events: list[bytes], after: int) -> None:
    """Prefix plus rest is the whole, for each number; a number that is ahead is told from one that is at the end."""
    replay = Replay(1 << 20)
    for event in events:
        assert replay.add(event, 0)
    whole = [numbered(event, number) for number, event in enumerate(events, 1)]
    assert replay.place(after) == ("kept" if after <= len(events) else "ahead")
    if after <= len(events):
        assert all_after(replay, after) == b"".join(whole[after:])


@given(st.lists(EVENTS, max_size=20), st.integers(1, 300), st.integers(0, 60))
def test_what_all_have_had_goes_for_what_is_new_and_nothing_else(events: list[bytes], most: int, had: int) -> None:
    """Those up to the number that all have had, the oldest first; without them there is no room."""
    replay = Replay(most)
    for number, event in enumerate(events, 1):
        before = (replay.first, replay.last, replay.nbytes)
        if not replay.add(event, had):
            assert (replay.first, replay.last, replay.nbytes) == before
            assert replay.nbytes + len(numbered(event, number)) > most
            assert replay.first > min(had, replay.last)
            return
        assert replay.last == number
        assert replay.nbytes <= most or replay.first == replay.last
        assert replay.first <= max(had + 1, 1)


class Kept(RuleBasedStateMachine):
    """A stream with a reader that comes, reads, goes and comes again: it has every byte, or is told that it cannot."""

    def __init__(self) -> None:
        super().__init__()
        self.replay = Replay(200)
        self.sent = 0  # the highest number that was sent to anybody
        self.reader: int | None = 0
        self.told = list[bytes]()
        self.has = b""

    @rule(event=EVENTS)
    def produce(self, event: bytes) -> None:
        """Another event; where there is no room nobody has read what is kept."""
        readers = [] if self.reader is None else [self.reader]
        if self.replay.add(event, given_to_all(readers, self.sent)):
            self.told.append(numbered(event, len(self.told) + 1))
        else:
            assert self.replay.last > given_to_all(readers, self.sent)

    @precondition(lambda self: self.reader is not None)
    @rule()
    def read(self) -> None:
        """What it is given follows what it has."""
        assert self.reader is not None
        self.reader, piece = self.replay.after(self.reader)
        self.sent = max(self.sent, self.reader)
        self.has += piece

    @precondition(lambda self: self.reader is not None)
    @rule(lost=st.integers(0, 3))
    def cut(self, lost: int) -> None:
        """The last events that were sent to it did not arrive."""
        assert self.reader is not None
        arrived = max(self.reader - lost, 0)
        self.has = b"".join(self.told[:arrived])
        self.reader = None

    @precondition(lambda self: self.reader is None)
    @rule()
    def come_again(self) -> None:
        """By the number of the last event that it has."""
        after = self.has.count(b"id: ")
        if self.replay.place(after) == "kept":
            self.reader = after
        else:
            assert after + 1 < self.replay.first <= self.sent + 1

    @invariant()
    def whole(self) -> None:
        """What it has is the beginning of what there was."""
        assert b"".join(self.told).startswith(self.has)
        assert self.replay.nbytes == len(all_after(self.replay, self.replay.first - 1))


TestKept = Kept.TestCase
TestKept.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)


def test_a_single_event_may_be_longer_than_all_may_be() -> None:
    """The last event of a response has all of it."""
    replay = Replay(10)
    assert replay.add(b"data: 1\n\n", 0)
    assert not replay.add(b"data: " + b"x" * 50 + b"\n\n", 0)
    assert replay.add(b"data: " + b"x" * 50 + b"\n\n", 1)
    assert (replay.first, replay.last) == (2, 2)
    assert replay.place(0) == "evicted"
    assert replay.place(1) == "kept"
    assert replay.place(3) == "ahead"


@given(st.lists(EVENTS))
def test_events_are_told_apart(events: list[bytes]) -> None:
    """As they were put together."""
    assert list(split(b"".join(events))) == events


HELD = st.builds(
    Held, key=st.tuples(st.sampled_from("abc"), st.text("xyz", min_size=3, max_size=3)), nbytes=st.integers(1, 50),
    over=st.booleans(), left_at=st.none() | st.floats(0, 9),
)  # fmt: skip


@given(st.lists(HELD, max_size=12, unique_by=lambda one: one.key), st.integers(-2, 6))
def test_who_goes_for_others(held: list[Held], count: int) -> None:
    """Nobody that is read; no more than are needed; one that is over before one that goes on."""
    gone = leavers(held, count)
    assert all(one.left_at is not None for one in gone)
    left = [one for one in held if one.left_at is not None and one not in gone]
    assert len(gone) == max(count, 0) or not left
    if any(not one.over for one in gone):
        assert not any(one.over for one in left)


@pytest.mark.parametrize(("readers", "sent", "all_had"), [([], 7, 7), ([3], 7, 3), ([5, 2, 9], 9, 2)])
def test_what_all_have_had(readers: list[int], sent: int, all_had: int) -> None:
    """The slowest reader decides; where there is none, what was sent."""
    assert given_to_all(readers, sent) == all_had


@given(st.lists(HELD, max_size=12, unique_by=lambda one: one.key), st.integers(0, 200), st.sampled_from("abcd"))
def test_no_tenant_takes_from_those_that_have_less(held: list[Held], excess: int, grows: str) -> None:
    """And it goes on until there is enough, or nobody is left who has as much as itself."""
    totals = {tenant: sum(one.nbytes for one in held if one.key[0] == tenant) for tenant in "abc"}
    gone = givers(held, totals, excess, grows)
    for one in gone:
        assert one.left_at is not None
        assert excess > 0
        assert totals[one.key[0]] >= totals.get(grows, 0)
        totals[one.key[0]] -= one.nbytes
        excess -= one.nbytes
    assert len({one.key for one in gone}) == len(gone)
    if excess > 0:
        rest = [one for one in held if one.left_at is not None and one not in gone]
        assert all(totals[one.key[0]] < totals.get(grows, 0) for one in rest)


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 9), st.floats(0.0, 5.0))), st.floats(0.1, 9.0))
def test_a_reader_has_so_long_for_what_is_there(steps: list[tuple[int, int, float]], seconds: float) -> None:
    """Each event is given to it within twice as long from when it was there, or it has gone by then; one that has had
    all that there was has as long again."""
    pace, given_, last, now = Pace(seconds), 0, 0, 0.0
    came = dict[int, float]()
    for more, sent, passed in steps:
        came |= {number: now for number in range(last + 1, last + more + 1)}
        last += more
        until = pace.until(given_, last, now)
        assert until <= now + seconds
        if given_ == last - more:
            assert until == now + seconds
        assert all(until <= at + 2 * seconds for number, at in came.items() if number > given_)
        now += passed
        if now > until:
            break
        given_ = min(last, given_ + sent)
