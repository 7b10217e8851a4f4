"""Requests of an engine that has ended: asked for again, they go on, in the machine of the next."""

from __future__ import annotations

from typing import Any

import msgspec
from helpers.crashing_world import CrashingWorld
from helpers.examples import examples
from helpers.requests import finished, found, generate_of, hit_of, restored, row_read, rows_of, run
from helpers.stages import at, stages
from helpers.states import A, B, C, asked, begun, state_with
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from erllama_py.cache.keys import pack_tokens, prefix_keys
from erllama_py.chat.segments import Markers
from erllama_py.engine.drawn import Drawn, Draws
from erllama_py.engine.jobs import Parked, Prefilled, Resumed, Text, Wants
from erllama_py.results import CacheHit, TextDelta
from erllama_py.scheduler.machine import earlier
from erllama_py.scheduler.messages import (
    Complete,
    Earlier,
    Emit,
    EndThinking,
    LookUp,
    Outline,
    ReadRows,
    Refuse,
    Submit,
)
from erllama_py.scheduler.stages import Parked as OutOfCells
from erllama_py.scheduler.stages import Waiting, Working
from erllama_py.scheduler.starting import SAVE_WAIT

from .test_any_order import STEPS, asks, numbers, shapes

DRAWN = Drawn(token_ids=[7, 8, 9], draws=Draws(sampler=(3,), held=62))
TOLD = Earlier(Outline(hit=CacheHit("partial", 20), created=40, lookup_seconds=0.5, parks=1), 3.0, 50)


def again(request_id: int, tokens: list[int], **fields: Any) -> Submit:
    """One that three tokens were drawn for."""
    return asked(request_id, tokens, **({"again": True, "drawn": DRAWN, "earlier": TOLD} | fields))


def test_it_looks_for_all_that_it_had() -> None:
    """For rows and cells of the prompt and what was drawn; saves on their way to a tier are waited for."""
    state, effects = run(state_with(), again(1, A))
    (sought,) = (effect.request for effect in effects if isinstance(effect, LookUp))
    packed = pack_tokens([*A, 7, 8, 9])
    assert (sought.packed, sought.tokens) == (packed, [*A, 7, 8, 9])
    assert [sought.parent_key, sought.key] == prefix_keys(sought.identity, packed, (50, 63))
    assert sought.wait_seconds == SAVE_WAIT
    state, effects = run(state, found(1))
    job = generate_of(effects)
    assert (job.tokens, job.drawn, job.keep, job.limit) == (A, DRAWN, 0, 67)
    assert job.retrace
    assert not job.keep_logits


def test_rows_of_the_reply_are_restored() -> None:
    """Its prompt and its reply begin with them."""
    state, _ = run(state_with(), again(1, A))
    state, effects = run(state, found(1, hit_of([*A, 7, 8, 9], 32, 62)))
    (reading,) = (effect for effect in effects if isinstance(effect, ReadRows))
    assert [row.meta.end for row in reading.rows] == [32, 62]
    assert stages(state) == ["restoring"]


def test_beside_others_it_is_not_computed_token_by_token() -> None:
    """Only a reply that has the model for itself has batches that can be had again."""
    state, _ = run(state_with(), again(1, A), asked(2, B))
    assert not generate_of(run(state, found(1))[1]).retrace


def test_its_stream_is_told_nothing_again() -> None:
    """Neither how its prompt is read; its turn begins when it is further than it was."""
    state = begun(state_with(), again(1, A))
    assert at(state, 1, Working).back_at is None
    state, effects = run(state, Prefilled(1, 63, 63))
    assert effects == []
    assert state.phase == "generating"
    assert at(state, 1, Working).back_at is None
    state, _ = run(state, Resumed(1))
    assert at(state, 1, Working).back_at is not None
    text = Text(1, "d", [10], draws=Draws(held=63))
    assert run(state, text)[1] == [Emit(1, TextDelta("d", [10], None), Draws(held=63))]


def test_its_answer_tells_how_it_began_at_first() -> None:
    """As it would have been: what was found then, when it was started, and what both lives have saved."""
    state = begun(state_with(), again(1, A))
    _, effects = run(state, finished(1, [7, 8, 9, 10], held=63, captured_to=63))
    (answer,) = (effect for effect in effects if isinstance(effect, Complete))
    assert answer.outline == TOLD.outline
    assert answer.started_at == 3.0
    assert answer.request.tokens == A


def test_the_time_that_was_lost_is_told_to_the_engine() -> None:
    """That since it was begun, but for what was told with its reply."""
    told = DRAWN.draws
    told = msgspec.structs.replace(told, prefill_seconds=1.0, decode_seconds=2.0)
    for drawn, lost in ((msgspec.structs.replace(DRAWN, draws=told), 3.5), (None, 6.5)):
        state, _ = run(state_with(), again(1, A, drawn=drawn), now=9.0)
        assert generate_of(run(state, found(1), now=10.0)[1]).lost_seconds == lost
    state, _ = run(state_with(), asked(1, A), now=9.0)
    assert generate_of(run(state, found(1), now=10.0)[1]).lost_seconds == 0.0


def test_how_much_each_engine_has_found_is_known() -> None:
    """Whatever its answer will tell of the first one: what it reads beyond that is computed."""
    state, _ = run(state_with(), again(1, A, drawn=None), found(1, hit_of(A, 20, 40)))
    state, _ = run(state, *(row_read(1, row) for row in rows_of(A, 20, 40)))
    state, _ = run(state, *(restored(1, row) for row in rows_of(A, 20, 40)))
    begun_again = earlier(state, 1)
    assert begun_again is not None
    assert (begun_again.found, begun_again.outline.hit.prefix_len) == (40, 20)


def test_without_its_beginning_what_is_read_is_of_the_prompt_alone() -> None:
    """A hit that goes into the reply is none of its caller's."""
    state, _ = run(state_with(), again(1, A, earlier=None), found(1))
    held = finished(1, [7, 8, 9, 10], held=63, captured_to=63)
    state, effects = run(state, held)
    state, effects = run(state, again(2, A, earlier=None, drawn=Drawn(token_ids=[7, 8, 9, 10])), found(2))
    assert generate_of(effects).keep == 63
    _, effects = run(state, finished(2, [7, 8, 9, 10], held=63, captured_to=63))
    (answer,) = (effect for effect in effects if isinstance(effect, Complete))
    assert answer.outline.hit == CacheHit("live", 60)


def test_how_it_began_is_known_for_the_life_after_the_next() -> None:
    """Also while it waits, and once it has begun; of one that never began there is nothing."""
    state, _ = run(state_with(n_seq_max=1), asked(3, B), again(1, A), asked(2, C))
    assert earlier(state, 1) == TOLD
    assert earlier(state, 2) is None
    assert earlier(state, 4) is None
    state = begun(state_with(), again(1, A))
    assert earlier(state, 1) == msgspec.structs.replace(TOLD, captured_to=0)


def test_it_is_not_refused() -> None:
    """Neither for want of room nor for its session: it was let in before."""
    state, effects = run(state_with(n_seq_max=1, max_pending=0), asked(1, A), again(2, B), again(3, C, drawn=None))
    assert not [effect for effect in effects if isinstance(effect, Refuse)]
    assert stages(state) == ["looking", "waiting", "waiting"]
    state, effects = run(state_with(), again(1, A, session_id="s"), again(2, B, session_id="s", drawn=None))
    assert not [effect for effect in effects if isinstance(effect, Refuse)]
    assert stages(state) == ["looking", "waiting"]


def test_it_may_be_parked_before_it_is_back() -> None:
    """With all that was drawn; it goes on from there as any parked one."""
    state = begun(state_with(n_cells=135), again(1, A), asked(2, B, priority=1))
    state, _ = run(state, Wants(2, 64), Wants(2, 68))
    assert stages(state)[0] == "parking"
    state, _ = run(state, Parked(request_id=1, held=20, token_ids=[7, 8, 9]))
    assert at(state, 1, OutOfCells).begun.sought.tokens == [*A, 7, 8, 9]


def test_thinking_that_is_to_end_is_told_with_what_was_drawn() -> None:
    """The engine knows whether it is in any."""
    markers = Markers(thinking=("<", ">"))
    state, _ = run(state_with(n_seq_max=1), asked(1, A), again(2, B, markers=markers), EndThinking(2))
    waiting = at(state, 2, Waiting).core.request
    assert waiting.drawn == msgspec.structs.replace(DRAWN, end_thinking=True)
    assert waiting.markers == markers


happenings = st.tuples(st.sampled_from(["crash", "work", "round", "round", "deliver", *STEPS]), numbers)


@settings(max_examples=examples(200), suppress_health_check=list(HealthCheck))
@given(shapes, st.lists(asks | happenings | happenings, min_size=20, max_size=80))
def test_requests_come_to_their_end_whenever_their_engine_ends(shape: Any, steps: list[Any]) -> None:
    """Each is answered once, with the tokens that it is due, each of which its stream gets once."""
    world = CrashingWorld(shape)
    for step in steps:
        world.step(step)
    world.settle()
