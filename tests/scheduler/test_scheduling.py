"""Which request gets a place and cells next: the queue, grants, and those parked for others."""

from __future__ import annotations

from typing import Any

import pytest
from helpers.requests import (
    FAILURE,
    captured,
    finished,
    found,
    generate_of,
    hit_of,
    jobs,
    restored,
    row_read,
    rows_of,
    run,
)
from helpers.stages import at, queued, requests, stage, stages
from helpers.states import A, B, C, D, asked, begun, kept, looked_up, state_with

from erllama_py.cache.keys import pack_tokens, prefix_keys
from erllama_py.engine.jobs import Cancel, Capture, Drop, Failed, Grant, Park, Parked, PromptLogits, Resume, Wants
from erllama_py.results import CacheHit
from erllama_py.scheduler.cells import Slot
from erllama_py.scheduler.messages import (
    CancelRequest,
    Complete,
    EndLookUp,
    FailRequest,
    Look,
    LookUp,
    Refuse,
    SaveAll,
    SendJob,
)
from erllama_py.scheduler.stages import Restoring, Working, rank
from erllama_py.scheduler.starting import SAVE_WAIT
from erllama_py.scheduler.state import State


def starves(state: State, request_id: int) -> bool:
    return at(state, request_id, Working).starving


def ids(state: State) -> list[int]:
    return [one.core.request.id for one in sorted(queued(state), key=rank)]


# --- the queue ----------------------------------------------------------------------------------------------------


def test_as_many_run_as_there_are_sequences() -> None:
    """Each is looked up at once and begins by itself, in a sequence of its own."""
    state, _ = run(state_with(n_seq_max=2), asked(1, A), asked(2, B), asked(3, C))
    assert stages(state) == ["looking", "looking", "waiting"]
    for request_id in (2, 1):
        state, effects = run(state, found(request_id))
        assert generate_of(effects).seq_id == request_id - 1
    assert state.phase == "prefilling"


def test_the_queue_is_in_order_of_priority_then_of_arrival() -> None:
    """In whatever order they came: only those with a sequence are before them."""
    state = begun(state_with(n_seq_max=1), asked(1, A, priority=9))
    state, _ = run(state, asked(2, B), asked(3, B, priority=-1), asked(4, B, priority=3), asked(5, B))
    assert ids(state) == [4, 2, 5, 3]
    for done, following in ((1, 4), (4, 2), (2, 5), (5, 3)):
        state, effects = run(state, finished(done, [], held=60, captured_to=60))
        assert looked_up(effects) == [following]
        state, _ = run(state, found(following))


def test_the_head_of_the_queue_is_not_overtaken() -> None:
    """A short prompt would fit; but then a long one might wait for ever."""
    state = begun(state_with(n_cells=132), asked(1, A))
    state, effects = run(state, asked(2, range(100)), asked(3, [1, 2, 3]))
    assert (effects, ids(state)) == ([], [2, 3])
    _, effects = run(state, CancelRequest(2))
    assert looked_up(effects) == [3]


def test_no_more_than_allowed_may_wait() -> None:
    """One more is refused with the number of them; those at work do not count."""
    state, _ = run(state_with(n_seq_max=1, max_pending=2), asked(1, A), asked(2, B), asked(3, C))
    refused = asked(4, D)
    assert run(state, refused) == (state, [Refuse(refused.request, 2)])
    state, _ = run(state, CancelRequest(3))
    assert ids(run(state, refused)[0]) == [2, 4]


# --- cells --------------------------------------------------------------------------------------------------------


def test_a_reply_gets_more_cells_as_it_grows() -> None:
    """Step by step, up to its last token, which is never decoded; a question that was answered is nothing."""
    state = begun(state_with(), asked(1, A))
    for limit, more in ((64, 68), (68, 69)):
        state, effects = run(state, Wants(1, limit))
        assert effects == [SendJob(Grant(1, more))]
        assert run(state, Wants(1, limit)) == (state, [])


def test_an_idle_sequence_goes_for_a_reply() -> None:
    """Copied out first, where it is not saved; no more goes than is needed."""
    state = state_with(kept(1, B, captured_to=40, used_at=1.0), kept(2, C[:10], session_id="s"), n_cells=64 + 60 + 10)
    state = begun(state, asked(1, A))
    state, effects = run(state, Wants(1, 64))
    capture = Capture(request_id=-1, seq_id=1, start=40, end=60, reason="evict")
    assert effects == [SendJob(capture), SendJob(Drop(1)), SendJob(Grant(1, 68))]
    assert [slot.length for slot in state.slots if slot.is_idle] == [10]


FULL = begun(state_with(n_cells=132), asked(1, A), asked(2, B, max_new_tokens=5))  # 64 and 64 cells, 4 left
FULL, _ = run(FULL, Wants(1, 64))


def test_without_cells_the_lowest_in_rank_is_parked() -> None:
    """Once: nothing else is decided until it is out. Then the one that asked gets them, and the parked one waits."""
    state, effects = run(FULL, Wants(1, 68))
    assert effects == [SendJob(Park(2))]
    assert run(state, asked(3, [1, 2, 3]))[1] == []
    assert run(state, Wants(2, 64)) == (state, [])
    state, effects = run(state, Parked(request_id=2, held=62, token_ids=[7, 8, 9]))
    assert effects == [SendJob(Grant(1, 69))]
    assert state.slots[1] == Slot(1)
    assert ids(state) == [2]


def test_the_request_that_asks_for_cells_may_be_parked_itself() -> None:
    """The other one, of higher rank, goes on undisturbed."""
    state = begun(state_with(n_cells=132), asked(1, A), asked(2, B))
    state, _ = run(state, Wants(1, 64))
    state, effects = run(state, Wants(2, 64))
    assert effects == [SendJob(Park(2))]
    assert stage(state, 2) == "parking"


def test_a_parked_request_goes_on_where_it_stood() -> None:
    """It looks up all that it had, waits for what is being saved of it, and nothing of its answer is lost."""
    state, _ = run(FULL, Wants(1, 68), captured(2, 0, 62, generated=[7, 8]))
    state, _ = run(state, Parked(request_id=2, held=62, token_ids=[7, 8, 9]))
    state, effects = run(state, finished(1, [], held=69, captured_to=69))
    packed = pack_tokens([*B, 7, 8, 9])
    (sought,) = (effect.request for effect in effects if isinstance(effect, LookUp))
    identity = sought.identity
    assert (sought.packed, sought.tokens) == (packed, [*B, 7, 8, 9])
    assert [sought.parent_key, sought.key] == prefix_keys(identity, packed, (62, 63))
    assert sought.wait_seconds == SAVE_WAIT
    state, effects = run(state, found(2))
    assert jobs(effects) == [Resume(request_id=2, seq_id=1, keep=0, limit=64)]
    assert [effect.resumed for effect in effects if isinstance(effect, EndLookUp)] == [False]  # the key is our own
    _, effects = run(state, finished(2, [7, 8, 9, 10], held=63, captured_to=63))
    assert isinstance(effects[0], Complete)
    assert (effects[0].outline.parks, effects[0].outline.hit) == (1, CacheHit("cold", 0))
    assert effects[0].request.tokens == B


def test_a_parked_request_waits_by_its_rank() -> None:
    """Before those that came later, after those of higher priority."""
    state, _ = run(FULL, asked(3, C), asked(4, D, priority=1), Wants(1, 68))
    state, _ = run(state, Parked(request_id=2, held=60, token_ids=[]))
    assert ids(state) == [4, 2, 3]


def test_a_parked_request_is_cancelled_by_the_engine() -> None:
    """Which knows its text; it is not started again meanwhile."""
    state, _ = run(FULL, Wants(1, 68))
    state, _ = run(state, Parked(request_id=2, held=62, token_ids=[7, 8, 9]))
    state, effects = run(state, CancelRequest(2))
    assert effects == [SendJob(Cancel(2))]
    state, effects = run(state, finished(1, [], held=69, captured_to=69))
    assert looked_up(effects) == []
    state, effects = run(state, finished(2, [7, 8, 9], held=0, reason="cancelled"))
    assert [type(effect) for effect in effects] == [Complete]
    assert requests(state) == {}


def test_a_request_that_is_to_resume_is_cancelled_by_the_engine_too() -> None:
    """Its place is free at once."""
    state, _ = run(FULL, Wants(1, 68))
    state, _ = run(state, Parked(request_id=2, held=62, token_ids=[7, 8, 9]))
    state, _ = run(state, finished(1, [], held=69, captured_to=69))
    assert stage(state, 2) == "looking"
    state, effects = run(state, CancelRequest(2))
    assert [type(effect) for effect in effects] == [SendJob, EndLookUp, SendJob]
    assert jobs(effects) == [Drop(1), Cancel(2)]
    assert run(state, found(2)) == (state, [])
    _, effects = run(state, finished(2, [7, 8, 9], held=0, reason="cancelled"))
    assert isinstance(effects[0], Complete)


@pytest.mark.parametrize("ending", ["finished", "failed"])
def test_a_request_that_ends_before_it_is_parked_frees_its_cells_all_the_same(ending: str) -> None:
    """The engine had it done already; the one that asked gets the cells."""
    state, _ = run(FULL, Wants(1, 68))
    over: Any = finished(2, [7], held=60, captured_to=60) if ending == "finished" else Failed(2, FAILURE)
    state, effects = run(state, over)
    assert isinstance(effects[0], Complete | FailRequest)
    assert effects[-1] == SendJob(Grant(1, 69))
    assert run(state, Parked(request_id=2, held=60, token_ids=[])) == (state, [])


def test_a_request_that_has_not_begun_goes_back_into_the_queue() -> None:
    """With none to park, one that still looks up gives its cells back; it looks up again when there are some."""
    state = begun(state_with(n_cells=64 + 64), asked(1, A, max_new_tokens=60))
    state, _ = run(state, asked(2, B[:50]))
    assert stage(state, 2) == "looking"
    for limit in (64, 68):
        state, effects = run(state, Wants(1, limit))
    assert [type(job) for job in jobs(effects)] == [Grant]
    state, effects = run(state, Wants(1, 72))
    assert [type(effect) for effect in effects] == [SendJob, EndLookUp, SendJob]
    assert jobs(effects) == [Drop(1), Grant(1, 76)]
    assert (ids(state), stage(state, 2)) == ([2], "waiting")
    assert run(state, found(2)) == (state, [])
    _, effects = run(state, finished(1, [], held=76, captured_to=76))
    assert looked_up(effects) == [2]


def test_a_higher_priority_pushes_one_out() -> None:
    """And takes its place when it is out; the one that was pushed out waits for the next."""
    state = begun(state_with(n_seq_max=1), asked(1, A))
    state, effects = run(state, asked(2, B, priority=1))
    assert effects == [SendJob(Park(1))]
    state, effects = run(state, Parked(request_id=1, held=60, token_ids=[]))
    assert looked_up(effects) == [2]
    state, effects = run(state, found(2), finished(2, [], held=60, captured_to=60))
    assert looked_up(effects) == [1]


def test_a_higher_priority_sends_back_a_request_that_has_not_begun() -> None:
    """Nothing is lost with it, so none has to be parked: it came last, and is looked up again."""
    state = begun(state_with(n_seq_max=2), asked(1, A))
    state, _ = run(state, asked(2, B))
    state, effects = run(state, asked(3, C, priority=1))
    assert jobs(effects) == [Drop(1)]
    assert looked_up(effects) == [3]
    assert [stage(state, request_id) for request_id in (1, 2, 3)] == ["working", "waiting", "looking"]


def test_the_logits_of_a_prompt_do_not_resume_what_was_sampled_after_it() -> None:
    """They belong to its end, not to where it was parked."""
    state, _ = run(FULL, PromptLogits(2, b"l"), Wants(1, 68))
    state, _ = run(state, Parked(request_id=2, held=62, token_ids=[7, 8, 9]))
    state, _ = run(state, finished(1, [], held=69, captured_to=69))
    state, _ = run(state, found(2, hit_of([*B, 7, 8, 9], 62), b"l"))
    assert not at(state, 2, Restoring).start.by_logits


def test_a_request_that_has_not_begun_does_not_go_back_for_one_of_lower_rank() -> None:
    """That one, though it is the only one at work, is parked itself: the other is about to be."""
    state = begun(state_with(n_cells=64 + 64), asked(1, A, max_new_tokens=60))
    state, _ = run(state, asked(2, B[:50], priority=9), Wants(1, 64), Wants(1, 68))
    state, effects = run(state, Wants(1, 72))
    assert effects == [SendJob(Park(1))]
    assert stage(state, 2) == "looking"
    state, _ = run(state, Parked(request_id=1, held=72, token_ids=list(range(12))), found(2))
    assert (stage(state, 2), ids(state)) == ("working", [1])


@pytest.mark.parametrize("end", [CancelRequest(2), SaveAll(9, "shutdown")], ids=lambda end: type(end).__name__)
@pytest.mark.parametrize("asked_before", [True, False])
def test_no_room_is_made_for_a_request_that_was_cancelled(end: Any, asked_before: bool) -> None:
    """It will not grow any more, whether it had asked before, or its `Wants` was still to come."""
    state = begun(state_with(n_cells=132), asked(1, A), asked(2, B, priority=1))
    state, _ = run(state, Wants(2, 64))
    if asked_before:
        state, effects = run(state, Wants(2, 68))
        assert effects == [SendJob(Park(1))]
        state, _ = run(state, end)
        state, effects = run(state, Parked(request_id=1, held=60, token_ids=[]))
    else:
        state, _ = run(state, end)
        state, effects = run(state, Wants(2, 68))
    assert [job for job in jobs(effects) if isinstance(job, Grant | Park)] == []
    assert not starves(state, 2)


def test_what_is_kept_beside_those_at_work_is_bounded() -> None:
    """As soon as it is idle, and not only when a request gets a place; an idle model keeps all of it."""
    state = begun(state_with(n_cells=1000, kept_cells=70), asked(1, A), asked(2, B), asked(3, C))
    state, effects = run(state, finished(2, [], held=60, captured_to=60))
    assert jobs(effects) == []
    state, effects = run(state, finished(3, [], held=60, captured_to=50))
    assert jobs(effects) == [Drop(1)]  # what is saved goes first
    state, effects = run(state, finished(1, [], held=60, captured_to=60))
    assert jobs(effects) == []
    assert len(state.idle) == 2
    state, effects = run(state, asked(4, [1, 2, 3]))
    assert jobs(effects) == [Drop(0)]


@pytest.mark.parametrize(("min_tokens", "gone"), [(0, [Drop(1)]), (None, [])])
def test_the_only_copy_of_a_session_is_kept(min_tokens: int | None, gone: list[Drop]) -> None:
    """Where nothing is saved; else it comes back in milliseconds, and need not slow down the others."""
    state = begun(
        state_with(n_cells=1000, kept_cells=0, min_tokens=min_tokens), asked(1, A), asked(2, B, session_id="s")
    )
    state, effects = run(state, finished(2, [], held=60, captured_to=60))
    assert jobs(effects) == gone
    state, effects = run(state, asked(3, C))
    assert [job for job in jobs(effects) if isinstance(job, Drop)] == []


# --- one at a time ------------------------------------------------------------------------------------------------


def test_while_one_is_being_parked_no_other_is_parked_for_a_waiting_request() -> None:
    """Its sequence is what the waiting one gets, whatever happens meanwhile."""
    state = begun(state_with(n_seq_max=2, n_cells=1000), asked(1, A), asked(2, B))
    state, effects = run(state, asked(3, C, priority=1))
    assert effects == [SendJob(Park(2))]
    state, effects = run(state, asked(4, D, priority=-1))
    assert effects == []
    state, effects = run(state, Parked(request_id=2, held=60, token_ids=[]))
    assert (looked_up(effects), jobs(effects)) == ([3], [])


def test_while_one_is_being_parked_no_other_is_parked_for_a_growing_request() -> None:
    """Its cells may be enough for all that have asked."""
    state = begun(state_with(n_cells=200), *(asked(n, prompt) for n, prompt in ((1, A), (2, B), (3, C))))
    state, effects = run(state, Wants(1, 64), Wants(2, 64), Wants(1, 68))
    assert effects == [SendJob(Park(3))]
    state, effects = run(state, Wants(2, 68))
    assert effects == []
    state, effects = run(state, Parked(request_id=3, held=60, token_ids=[]))
    assert effects == [SendJob(Grant(1, 69)), SendJob(Grant(2, 69))]


def test_while_one_stalls_for_want_of_cells_none_is_admitted() -> None:
    """Also where none can be parked for it yet, as rows are being restored for the other: a higher priority that comes
    would push out the one that has asked."""
    state = begun(state_with(n_cells=64 + 64), asked(1, A, max_new_tokens=60))
    state, _ = run(state, asked(2, B[:50]), found(2, hit_of(B[:50], 20)), Wants(1, 64), Wants(1, 68), Wants(1, 72))
    assert starves(state, 1)
    state, effects = run(state, asked(3, C, priority=9))
    assert effects == []
    rows = rows_of(B, 20)
    state, effects = run(state, row_read(2, rows[0]), restored(2, rows[0]))
    assert jobs(effects)[1:] == [Park(2)]


def test_a_turn_waits_until_what_its_session_held_is_copied() -> None:
    """It would find neither the sequence nor its rows."""
    state = state_with(kept(0, A, captured_to=0, session_id="s", used_at=0.0), n_seq_max=2)
    state, effects = run(state, Look(), now=1000.0)
    (copy, _) = jobs(effects)
    state, effects = run(state, asked(1, [*A, 1], session_id="s"))
    assert (effects, ids(state)) == ([], [1])
    _, effects = run(state, captured(copy.request_id, 0, 60))
    assert looked_up(effects) == [1]
