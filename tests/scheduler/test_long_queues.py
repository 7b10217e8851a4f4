"""However many requests wait, an event costs the same: the machine's steps are counted, not timed."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from helpers.requests import FAILURE, finished, found, run
from helpers.rows import IDENTITY
from helpers.stages import queued_ids
from helpers.states import asked, begun, state_with

from erllama_py import scheduler
from erllama_py.cache.messages import SaveLost
from erllama_py.engine.jobs import Captured, Failed, Outcome, Parked, Prefilled, Wants
from erllama_py.scheduler.messages import CancelRequest, EndSession, Look, Message
from erllama_py.scheduler.state import State

ROOM = str(Path(scheduler.__file__).parent)
FEW, MANY = 50, 5000


@cache
def crowded(count: int, kind: str) -> State:
    """Three at work, of which the second has asked for more cells than there are; and so many that wait."""
    state = begun(state_with(max_pending=1 << 30), *(asked(number, [number] * 60) for number in (1, 2, 3)))
    for number in range(4, 4 + count):
        more: dict[str, Any] = {}
        if kind == "sessions":
            more = {"session_id": f"s{number}", "session_wait": True}
        elif kind == "turns of one session":
            more = {"session_id": "s", "session_wait": True}
        elif kind == "wait for room":
            more = {"queue_wait": 100.0 + number}
        state, _ = run(state, asked(number, [number, 1], **more))
    assert len(queued_ids(state)) == count
    return state


def steps(work: Callable[[], object]) -> int:
    """How many instructions of the room's own code are executed for it."""
    counted = 0

    def trace(frame: FrameType, what: str, _: object) -> Callable[..., Any] | None:
        nonlocal counted
        if not frame.f_code.co_filename.startswith(ROOM):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        counted += what == "opcode"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return counted


CAPTURED = Captured(
    request_id=1, start=0, end=20, reason="cold", payload=None, skipped="no_buffer", seconds=0.1, compute_seconds=0.2,
    generated=[],
)  # fmt: skip
EVENTS: dict[str, Callable[[int], Sequence[Message | Outcome]]] = {
    "a request": lambda last: [asked(last + 1, [9, 9, 9])],
    "a request of a higher priority": lambda last: [asked(last + 1, [9, 9, 9], priority=1)],
    "a turn of a session": lambda last: [asked(last + 1, [9, 9, 9], session_id="x")],
    "a cancel of the last": lambda last: [CancelRequest(last)],
    "a cancel of one at work": lambda last: [CancelRequest(2)],
    "an end, and the next begins": lambda last: [finished(1, [], held=60), found(4)],
    "a failure": lambda last: [Failed(1, FAILURE)],
    "more cells": lambda last: [Wants(1, 64)],
    "one is parked": lambda last: [Wants(1, 64), Wants(1, 68), Parked(request_id=3, held=60, token_ids=[])],
    "progress": lambda last: [Prefilled(1, 60, 60)],
    "a copy": lambda last: [CAPTURED],
    "a lost save": lambda last: [SaveLost(1, b"k" * 32, 0, 20)],
    "a session's end": lambda last: [EndSession((IDENTITY, "y"))],
    "a look": lambda last: [Look()],
}
KINDS = ["plain", "sessions", "turns of one session", "wait for room"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("what", EVENTS)
def test_an_event_takes_as_many_steps_in_a_long_queue(what: str, kind: str) -> None:
    """A hundred times as many wait, and none of them is looked at but those at the head."""
    few, many = (steps(partial(run, crowded(count, kind), *EVENTS[what](3 + count))) for count in (FEW, MANY))
    assert 0 < many <= 1.2 * few + 50


@pytest.mark.slow
def test_a_look_at_all_of_them_would_be_counted() -> None:
    """So the test above can fail."""
    queue = crowded(MANY, "plain").queue
    assert steps(lambda: list(queue.in_line())) > MANY
