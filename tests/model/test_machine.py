"""The model's state machine as a table: state and event in, state and effects out."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from erllama_py.engine.backend import Sampling
from erllama_py.engine.jobs import Cancel, Died, Failed, Fault, Finished, Generate, Outcome, Prefilled, Text
from erllama_py.model.machine import State, transition
from erllama_py.model.messages import (
    CancelRequest,
    Complete,
    Crash,
    Effect,
    Emit,
    EngineOutcomes,
    FailRequest,
    InjectFault,
    Message,
    Request,
    SendJob,
    Submit,
)
from erllama_py.results import Progress, TextDelta

IDLE = State(memory="full", n_swa=0)


def submit(request_id: int, tokens: list[int] | None = None, *, stream: bool = False) -> Submit:
    request = Request(
        id=request_id,
        tokens=tokens or [1, 2, 3],
        max_new_tokens=4,
        sampling=Sampling(),
        stop_sequences=(),
        submitted_at=0.0,
    )
    return Submit(request, print if stream else None)


def finished(request_id: int, token_ids: list[int], held: int, **fields: Any) -> Finished:
    values: dict[str, Any] = {
        "reason": "stop", "stop_sequence": None, "text": "", "first_held": 0, "prefill_tokens": 3,
        "prefill_seconds": 0.1, "decode_seconds": 0.2, "decodes": len(token_ids),
    }  # fmt: skip
    return Finished(request_id=request_id, token_ids=token_ids, held=held, **(values | fields))


def run(state: State, *events: Submit | CancelRequest | InjectFault | Outcome) -> tuple[State, list[Effect]]:
    """Feed events one after another; the effects of the last are returned."""
    effects: list[Effect] = []
    for event in events:
        message = event if isinstance(event, Submit | CancelRequest | InjectFault) else EngineOutcomes([event])
        state, effects = transition(state, message, 1.0)
    return state, effects


def test_an_idle_model_starts_a_request_at_once() -> None:
    """The engine gets the whole prompt and keeps nothing of an empty sequence."""
    state, effects = run(IDLE, submit(1))
    assert state.phase == "prefilling"
    match effects:
        case [SendJob(Generate(request_id=1, tokens=[1, 2, 3], keep=0, seq_id=0))]:
            pass
        case _:
            raise AssertionError(effects)


def test_a_second_request_waits_and_starts_when_the_first_is_over() -> None:
    """First in, first out; the answer to the first goes out before the second's job."""
    state, effects = run(IDLE, submit(1), submit(2), submit(3))
    assert effects == []
    assert [waiting.request.id for waiting in state.waiting] == [2, 3]
    state, effects = run(state, finished(1, [7, 8], held=4))
    assert isinstance(effects[0], Complete)
    assert effects[0].request.id == 1
    assert isinstance(effects[1], SendJob)
    assert state.running is not None
    assert state.running.request.id == 2


def test_the_next_turn_keeps_what_the_last_one_left() -> None:
    """Prompt and decoded reply stay in the cells; the last sampled token was never decoded."""
    state, _ = run(IDLE, submit(1), finished(1, [7, 8], held=4))
    assert list(state.slot.held) == [1, 2, 3, 7]
    state, effects = run(state, submit(2, [1, 2, 3, 7, 8, 9]))
    assert isinstance(effects[0], SendJob)
    assert isinstance(effects[0].job, Generate)
    assert effects[0].job.keep == 4
    assert state.last_hit is not None
    assert (state.last_hit.kind, state.last_hit.prefix_len) == ("live", 4)


def test_a_waiting_request_is_cancelled_without_the_engine() -> None:
    """It is answered at once, as cancelled, and never reaches the thread."""
    state, effects = run(IDLE, submit(1), submit(2), CancelRequest(2))
    assert state.waiting == ()
    assert isinstance(effects[0], Complete)
    assert effects[0].finished is None


def test_a_running_request_is_cancelled_by_the_engine() -> None:
    """The thread says when it is over; until then it runs."""
    state, effects = run(IDLE, submit(1), CancelRequest(1))
    assert effects == [SendJob(Cancel(1))]
    assert state.running is not None


def test_cancelling_what_is_over_or_unknown_does_nothing() -> None:
    """Twice, late, or with an id that never was."""
    for state in (IDLE, run(IDLE, submit(1), finished(1, [], held=3))[0]):
        assert run(state, CancelRequest(1)) == (state, [])


def test_the_phase_follows_the_engine() -> None:
    """Prefilling until all of the prompt is in, then generating, then idle."""
    state, effects = run(IDLE, submit(1), Prefilled(1, 2, 3))
    assert (state.phase, effects) == ("prefilling", [Emit(1, Progress(2, 3))])
    state, _ = run(state, Prefilled(1, 3, 3))
    assert state.phase == "generating"
    state, effects = run(state, Text(1, "a", [5]))
    assert effects == [Emit(1, TextDelta("a", [5]))]
    state, _ = run(state, finished(1, [5], held=3))
    assert state.phase == "idle"


def test_a_failed_request_leaves_nothing_to_reuse_and_the_next_one_starts() -> None:
    """What the sequence holds after a failure is not known."""
    _, effects = run(IDLE, submit(1), finished(1, [7], held=3), submit(2), submit(3), Failed(2, "SamplerFailed", "x"))
    assert effects[0] == FailRequest(2, "SamplerFailed", "x")
    assert isinstance(effects[1], SendJob)
    assert isinstance(effects[1].job, Generate)
    assert (effects[1].job.request_id, effects[1].job.keep) == (3, 0)


def test_a_dead_engine_crashes_the_actor() -> None:
    """So that the supervisor makes a new one."""
    assert run(IDLE, submit(1), Died("BackendFailure", "x"))[1] == [Crash("BackendFailure: x")]


def test_drills_reach_the_place_they_name() -> None:
    """The actor crashes by itself; the thread gets a job."""
    assert isinstance(run(IDLE, InjectFault("actor"))[1][0], Crash)
    assert run(IDLE, InjectFault("thread"))[1] == [SendJob(Fault("thread"))]
    assert run(IDLE, InjectFault("decode"))[1] == [SendJob(Fault("decode"))]


@given(st.lists(st.sampled_from(["submit", "cancel", "finish", "fail", "late"]), max_size=40))
def test_every_request_is_answered_exactly_once(steps: list[str]) -> None:
    """Whatever the order of submissions, cancellations and ends, no answer is lost or given twice."""
    state, submitted, answered = IDLE, 0, []
    for step in [*steps, *["finish"] * 41]:
        running = state.running.request.id if state.running else 0
        event: Message
        match step:
            case "submit":
                submitted += 1
                event = submit(submitted)
            case "cancel":
                event = CancelRequest(max(submitted, 1))
            case "finish":
                event = EngineOutcomes([finished(running, [5], held=3)])
            case "fail":
                event = EngineOutcomes([Failed(running, "SamplerFailed", "x")] if running else [])
            case _:
                event = EngineOutcomes([finished(10_000, [5], held=3)])
        state, effects = transition(state, event, 0.0)
        answered += [e.request.id for e in effects if isinstance(e, Complete)]
        answered += [e.request_id for e in effects if isinstance(e, FailRequest)]
    assert sorted(answered) == list(range(1, submitted + 1))
    assert state.running is None
    assert msgspec.structs.asdict(state)["waiting"] == ()
