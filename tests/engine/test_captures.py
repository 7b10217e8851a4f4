"""Which ranges are copied out while a sequence grows: gapless, each once, and only while the cells are there."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from erllama_py.engine.backend import MemoryKind
from erllama_py.engine.captures import Captures
from erllama_py.engine.jobs import CapturePlan
from erllama_py.options.model import SaveReason

KINDS: list[MemoryKind] = ["full", "window", "recurrent", "hybrid"]
AT_END: tuple[MemoryKind, ...] = ("recurrent", "hybrid")


def plan(*ends: int, captured_to: int = 0, interval: int = 1000, min_tokens: int = 0) -> CapturePlan:
    return CapturePlan(captured_to=captured_to, prompt_ends=ends, interval=interval, min_tokens=min_tokens)


class Life:
    """A request's sequence as the engine drives it: every range asked for, and what became of it."""

    def __init__(self, plan: CapturePlan | None, prompt: int, keep: int, memory: MemoryKind) -> None:
        self.captures = Captures(plan, prompt, keep, memory)
        self.position, self.memory = keep, memory
        self.captured: list[tuple[int, int, SaveReason]] = []
        self.asked: list[int] = []

    def take(self, due: tuple[int, SaveReason], ok: bool) -> None:
        """Copy a range out, or fail to."""
        end, reason = due
        before, start = self.captures.captured_to, self.captures.begin
        assert start <= before < end <= self.position
        assert end not in self.asked
        assert self.memory not in AT_END or end == self.position
        self.asked.append(end)
        self.captures.settle(end, ok)
        assert self.captures.captured_to == (end if ok else before)
        assert self.captures.begin == self.captures.captured_to
        if ok:
            self.captured.append((start, end, reason))

    def grow(self, count: int) -> None:
        self.position += count


@st.composite
def lives(draw: st.DrawFn) -> tuple[CapturePlan, int, int, MemoryKind]:
    """A plan, the length of a prompt, how much of it is kept, and a memory."""
    prompt, memory = draw(st.integers(1, 80)), draw(st.sampled_from(KINDS))
    captured_to = draw(st.integers(0, prompt))
    ends = sorted(draw(st.sets(st.integers(1, prompt), max_size=6)))
    made = plan(*ends, captured_to=captured_to, interval=draw(st.integers(1, 40)), min_tokens=draw(st.integers(0, 150)))
    made = msgspec.structs.replace(made, begin=draw(st.none() | st.integers(0, captured_to)))
    return made, prompt, draw(st.integers(0, prompt)), memory


@given(lives(), st.integers(1, 16), st.data())
def test_ranges_follow_each_other_and_none_is_asked_for_twice(
    life: tuple[CapturePlan, int, int, MemoryKind], n_ubatch: int, data: st.DataObject
) -> None:
    """Whatever the plan, the slices and the failures: contiguous, each end once, a recurrent state only at its end."""
    made, prompt, keep, memory = life
    driven = Life(made, prompt, keep, memory)
    captures, oks = driven.captures, st.booleans()
    if memory in AT_END and (due := captures.due(keep)):
        driven.take(due, data.draw(oks))
    while driven.position < prompt:
        reach, left = captures.reach(driven.position, n_ubatch), prompt - driven.position
        most = left if reach is None else min(left, reach)
        assert most >= 1
        driven.grow(data.draw(st.integers(1, most)))
        while due := captures.due(driven.position):
            driven.take(due, data.draw(oks))
    for _ in range(data.draw(st.integers(0, 40))):
        driven.grow(1)
        while due := captures.due(driven.position):
            driven.take(due, data.draw(oks))
    if last := captures.last(driven.position):
        assert last == (driven.position, "finish")
        driven.take(last, data.draw(oks))
    # Nothing is due after that, and what was captured has no hole.
    assert captures.due(driven.position) is None
    at = made.captured_to
    if made.begin is not None and driven.captured and driven.captured[0][1] == driven.asked[0]:
        at = made.begin  # what was saved before is taken in at once, or not at all
    for start, end, _ in driven.captured:
        assert (start, end > start) == (at, True)
        at = end
    assert captures.captured_to == (at if driven.captured else made.captured_to)
    # Every end of the plan had its turn, but for those that were there already.
    behind = max(made.captured_to + 1, keep if memory in AT_END else 0)
    planned = [end for end in made.prompt_ends if end >= behind]
    assert [end for end in driven.asked if end in planned] == planned
    reasons = {"cold": lambda end: end <= prompt, "continued": lambda end: (end - prompt) % made.interval == 0}
    assert all(reasons[reason](end) for _, end, reason in driven.captured if reason in reasons)


@given(lives(), st.integers(1, 200))
def test_the_last_range_is_due_once_the_sequence_is_long_enough(
    life: tuple[CapturePlan, int, int, MemoryKind], position: int
) -> None:
    """Not below the gate, and not when all is captured."""
    made, prompt, keep, memory = life
    last = Captures(made, prompt, keep, memory).last(position)
    assert (last is not None) == (position >= made.min_tokens and position > made.captured_to)


@pytest.mark.parametrize("memory", KINDS)
def test_what_is_left_is_cut_where_the_reply_begins(memory: MemoryKind) -> None:
    """What is copied only at the end, because gates say so: as rows of the prompt and of the reply, where both are
    still there."""
    made = msgspec.structs.replace(plan(), reply_from=60)
    captures, ends = Captures(made, 64, 0, memory), list[int]()
    while last := captures.last(90):
        ends.append(last[0])
        captures.settle(last[0], True)
    assert ends == ([60, 90] if memory == "full" else [90])
    assert Captures(msgspec.structs.replace(made, captured_to=60), 64, 60, memory).rest(90) == (90, "evict")


@pytest.mark.parametrize("memory", KINDS)
def test_without_a_plan_nothing_is_ever_due(memory: MemoryKind) -> None:
    """Saving is off, or the cache away."""
    captures = Captures(None, 100, 0, memory)
    assert captures.captured_to == 0
    assert [captures.due(at) for at in (0, 50, 100, 5000)] == [None] * 4
    assert captures.last(5000) is None
    assert captures.reach(0, 8) is None
    captures.settle(50, True)
    assert captures.due(5000) is None


@pytest.mark.parametrize("memory", AT_END)
def test_a_recurrent_state_stops_at_each_end(memory: MemoryKind) -> None:
    """The decode goes exactly there: the state after it cannot be had any more."""
    captures = Captures(plan(20, 33), 70, 0, memory)
    assert captures.reach(0, 8) == 20
    assert captures.reach(13, 8) == 7
    captures.settle(20, True)
    assert captures.reach(20, 8) == 13
    captures.settle(33, False)
    assert captures.reach(33, 8) == 37  # the prompt's end


def test_a_sliding_window_stops_with_the_micro_batch_of_each_end() -> None:
    """It keeps the window before the last micro-batch, so the end may lie within that."""
    captures = Captures(plan(20), 70, 0, "window")
    assert captures.reach(0, 8) == 24
    assert captures.reach(8, 8) == 16
    assert captures.reach(20, 8) == 50  # the prompt's end


def test_a_sliding_window_stops_on_the_grid() -> None:
    """Also where a prompt goes on beside it; if the end lies after the grid's next line, in two steps."""
    captures = Captures(plan(20), 70, 0, "window")
    assert captures.reach(19, 8) == 5
    assert captures.reach(1, 8) == 23
    assert captures.reach(7, 8) == 9
    assert captures.reach(6, 8) == 10
    assert captures.reach(16, 8) == 8


def test_full_attention_never_stops() -> None:
    """Its cells stay; the ranges after it are copied when the decode is over."""
    captures = Captures(plan(20, 33), 70, 0, "full")
    assert captures.reach(0, 8) is None
    assert captures.due(70) == (20, "cold")
    captures.settle(20, True)
    assert captures.due(70) == (33, "cold")


@pytest.mark.parametrize(
    ("memory", "first"), [("full", (20, "cold")), ("window", (20, "cold")), ("recurrent", None), ("hybrid", None)]
)
def test_ends_within_what_is_kept_are_had_only_from_cells_that_stay(memory: MemoryKind, first: Any) -> None:
    """Live cells may not be saved yet: those of full attention can be now, a recurrent state lies further on."""
    assert Captures(plan(20, 60), 70, 40, memory).due(40) == first


@pytest.mark.parametrize("memory", AT_END)
def test_a_recurrent_state_that_stands_at_an_end_is_taken_at_once(memory: MemoryKind) -> None:
    """What is kept ends just there, and the next token would move it on."""
    assert Captures(plan(40, 60), 70, 40, memory).due(40) == (40, "cold")


def test_a_failed_range_makes_the_next_one_longer() -> None:
    """No hole: its cells go with those after it."""
    captures = Captures(plan(20, 40), 50, 0, "full")
    captures.settle(20, False)
    assert (captures.captured_to, captures.due(50)) == (0, (40, "cold"))


def test_a_failed_range_is_not_tried_again_where_it_ends() -> None:
    """The request ends where its last range did: the same bytes would be asked for once more."""
    captures = Captures(plan(50), 50, 0, "full")
    captures.settle(50, False)
    assert captures.last(50) is None
    assert captures.last(51) == (51, "finish")


def test_a_long_reply_is_saved_at_intervals() -> None:
    """Counted from the prompt's end; an interval that was jumped over is due when its turn comes."""
    captures = Captures(plan(interval=8), 50, 50, "full")
    assert captures.due(57) is None
    assert captures.due(58) == (58, "continued")
    captures.settle(58, True)
    assert captures.due(65) is None
    assert captures.due(70) == (66, "continued")
    captures.settle(66, False)
    assert captures.last(70) == (70, "finish")


@pytest.mark.parametrize("memory", KINDS)
def test_a_long_rest_is_copied_in_spans_where_a_range_can_end_anywhere(memory: MemoryKind) -> None:
    """At multiples of 512, when the request ends and when it is parked."""
    for left in (Captures.last, Captures.rest):
        captures, ends = Captures(plan(captured_to=100), 1500, 1500, memory), list[int]()
        while due := left(captures, 1300):
            ends.append(due[0])
            captures.settle(due[0], True)
        assert ends == ([512, 1024, 1300] if memory == "full" else [1300])
