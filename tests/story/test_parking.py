"""Requests whose cells do not fit together take turns in them: each ends with the reply that it gives alone.

On the stub backend, whose replies follow from the prompt by a checksum over all cells, so that a lost, a wrong or a
doubled cell changes them.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from helpers.cache import MEMORIES, Gate, Held, runtime_at, stub_reply
from helpers.crashes import crash
from helpers.crowd import CELLS, PROMPT, REPLY, SEQUENCES, GatedCrowd, crowded, crowded_config, prompts, together
from helpers.gated import gated
from helpers.runtime import until
from helpers.watched import Watch

import erllama_py as erllama
from erllama_py.cache.client import CacheClient
from erllama_py.errors import TierFailed
from erllama_py.results import Event
from erllama_py.scheduler.cells import count
from erllama_py.scheduler.stages import Parking, is_leaving
from erllama_py.scheduler.state import State

pytestmark = pytest.mark.anyio


@pytest.mark.either_loop
@pytest.mark.slow
@pytest.mark.parametrize("memory", MEMORIES)
async def test_many_requests_that_do_not_fit_together_all_say_what_they_say_alone(
    memory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight replies of 200 tokens in a context of 256 cells; no request fails, and the stats count the parks."""
    watch = Watch(monkeypatch)
    async with crowded(memory) as (_, model):
        replies = await together(model, prompts(8))
        await watch.at_rest()
    for prompt, reply in zip(prompts(8), replies, strict=True):
        assert reply.generated == stub_reply(prompt, REPLY)
    if memory != "recurrent":  # a state has one size: four fit whatever they have seen
        assert sum(reply.stats.parks for reply in replies) == len(watch.parks) > 0
    assert replies[0].stats.parks == 0  # who came first never steps back for others of its priority


async def test_the_latest_of_the_lowest_priority_steps_back() -> None:
    """In the order of their arrival, with one that is to go before all others."""
    async with crowded() as (_, model):
        replies = await together(model, prompts(3), {}, {}, {"priority": 1})
    parks = [reply.stats.parks for reply in replies]
    assert parks[2] == 0 < parks[1]
    assert [reply.generated for reply in replies] == [stub_reply(prompt, REPLY) for prompt in prompts(3)]


async def test_a_higher_priority_pushes_the_lowest_out_when_it_arrives(monkeypatch: pytest.MonkeyPatch) -> None:
    """All sequences are taken; the latest of the lowest priority leaves its own for the one that comes."""
    crowd = GatedCrowd(monkeypatch)
    async with crowded(runtime_options={"backend_factory": crowd.make}, context_opts={"n_ctx": 4096}) as (_, model):
        crowd.gate.clear()
        asked = asyncio.create_task(together(model, prompts(4), {"priority": 2}, {"priority": 1}, {"priority": 1}, {}))
        await until(lambda: crowd.watch.stages() == ["working"] * 4)
        above = asyncio.create_task(together(model, prompts(5)[4:], {"priority": 1}))
        await until(lambda: model.pending_len == 1)
        crowd.go_on()
        await crowd.until_parked()
        crowd.go_on()
        replies, (pushing,) = await asked, await above
    assert [reply.stats.parks for reply in (*replies, pushing)] == [0, 0, 0, 1, 0]
    assert [reply.generated for reply in replies] == [stub_reply(prompt, REPLY) for prompt in prompts(4)]


@pytest.mark.slow
async def test_no_request_is_parked_for_an_equal_without_a_sequence() -> None:
    """Where sequences are short and cells are not, later requests wait."""
    async with crowded(context_opts={"n_ctx": 4096}) as (_, model):
        replies = await together(model, prompts(8))
    assert [reply.stats.parks for reply in replies] == [0] * 8


async def test_a_stream_merely_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each piece of text comes once and in its place, and nothing tells the reader but the stats."""
    crowd = GatedCrowd(monkeypatch)
    asked = prompts(2)
    async with crowded(runtime_options={"backend_factory": crowd.make}) as (_, model):
        crowd.gate.clear()
        first = asyncio.create_task(together(model, asked[:1]))
        await until(lambda: model.queue_depth == 1)
        events: list[Event] = []

        async def read() -> None:
            async with model.stream(list(asked[1]), response_tokens=REPLY, temperature=0.0) as stream:
                events.extend([event async for event in stream])

        reading = asyncio.create_task(read())
        await until(lambda: model.queue_depth == 2)
        crowd.go_on()
        await crowd.until_parked()
        crowd.go_on()
        await reading
        await first
    done = events[-1]
    assert isinstance(done, erllama.Done)
    assert done.completion.stats.parks > 0
    told = [event for event in events if isinstance(event, erllama.TextDelta)]
    assert [token for event in told for token in event.token_ids] == stub_reply(asked[1], REPLY)
    assert "".join(event.text for event in told) == done.completion.reply
    progress = [event.done for event in events if isinstance(event, erllama.Progress)]
    assert progress == sorted(progress)
    assert progress[-1] == PROMPT  # it has not been told of what was computed again


@pytest.mark.slow
async def test_what_was_parked_is_restored_and_not_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of its cells but the last come back from the tier."""
    watch = Watch(monkeypatch)
    async with crowded() as (_, model):
        replies = await together(model, prompts(4))
    assert watch.parks
    assert [reply.stats.prefill_tokens for reply in replies] == [PROMPT] * 4


@pytest.mark.slow
@pytest.mark.parametrize("memory", MEMORIES)
async def test_without_saving_what_was_parked_is_computed_again(memory: str) -> None:
    """With `min_tokens` None nothing is in any tier; parking costs time then, and no request fails."""
    gates = {"min_tokens": None, "cold_min_tokens": None}
    async with crowded(memory, policy=gates) as (_, model):
        replies = await together(model, prompts(6))
    assert [reply.generated for reply in replies] == [stub_reply(prompt, REPLY) for prompt in prompts(6)]
    parked = [reply for reply in replies if reply.stats.parks]
    assert all(reply.stats.prefill_tokens > PROMPT for reply in parked)
    assert parked or memory == "recurrent"
    assert all(reply.cache_delta.created == 0 for reply in replies)


@pytest.mark.parametrize("length", [182, 214])
async def test_a_cancel_ends_a_request_that_is_being_parked(length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though its ranges are copied out over several ticks, and others go on in between: its caller gets an answer."""
    watch = Watch(monkeypatch)
    first, second, long = [*prompts(2), prompts(1, length)[0]]
    context, chunk = {"n_ctx": 2048, "n_batch": 512, "n_seq_max": 2}, {"prefill_chunk_size": 512}

    def parking() -> list[int]:
        return [number for number, one in watch.states["m"].placed.items() if isinstance(one, Parking)]

    async with gated(context=context, scheduler=chunk) as (_, model, gate):
        tasks = [asyncio.create_task(together(model, [first], {"priority": 1}))]
        await watch.once(lambda: watch.stages() == ["working"])
        below = asyncio.create_task(together(model, [long]))
        await watch.once(lambda: watch.stages() == ["working"] * 2)
        while gate.computed < len(first) + length:  # until both prompts are read
            await gate.shut(1)
        tasks.append(asyncio.create_task(together(model, [second], {"priority": 1})))
        await watch.once(lambda: bool(parking()))
        await gate.shut(1)
        (leaving,) = parking()
        model.cancel(leaving)
        await watch.once(lambda: (one := watch.request(leaving)) is not None and is_leaving(one))
        gate.gate.set()
        (cancelled,) = await below
        for one in tasks:
            await one
    assert (cancelled.finish_reason, cancelled.stats.parks) == ("cancelled", 0)


async def test_a_request_that_cannot_fit_alone_fails_before_it_begins_and_the_others_do_not() -> None:
    """With the numbers: what it has, and what there is."""
    asked = [*prompts(3), *prompts(1, CELLS, 1)]
    async with crowded() as (_, model):
        with pytest.raises(erllama.ContextOverflow) as refused:
            await model.complete(list(asked[3]), temperature=0.0)
        assert (refused.value.prompt_tokens, refused.value.n_ctx) == (CELLS, CELLS)
        results = asyncio.gather(together(model, asked[:3]), model.complete(list(asked[3])), return_exceptions=True)
        replies, failed = await results
    assert isinstance(failed, erllama.ContextOverflow)
    assert not isinstance(replies, BaseException)
    assert [reply.generated for reply in replies] == [stub_reply(prompt, REPLY) for prompt in asked[:3]]


@pytest.mark.parametrize("memory", MEMORIES)
async def test_requests_that_each_fill_the_whole_context_take_turns(memory: str) -> None:
    """Each needs every cell; without a limit of its own a reply ends where the context does."""
    asked = prompts(3, 100, CELLS - 100)
    async with crowded(memory) as (_, model):
        replies = await together(model, asked, length=CELLS)
    assert [reply.generated for reply in replies] == [stub_reply(prompt, CELLS - 100) for prompt in asked]


async def test_a_parked_request_that_is_cancelled_ends_with_what_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its reply so far; the one that it was parked for goes on."""
    crowd = GatedCrowd(monkeypatch)
    async with crowded(runtime_options={"backend_factory": crowd.make}) as (_, model):
        asked = asyncio.create_task(together(model, prompts(2)))
        parked = await crowd.until_parked()
        model.cancel(parked)
        await crowd.watch.once(lambda: (one := crowd.watch.request(parked)) is not None and is_leaving(one))
        crowd.go_on()
        first, second = await asked
        await crowd.watch.at_rest()
    whole = stub_reply(prompts(2)[1], REPLY)
    assert first.generated == stub_reply(prompts(1)[0], REPLY)
    assert (second.finish_reason, second.stats.parks) == ("cancelled", 1)
    assert 0 < len(second.generated) < REPLY
    assert second.generated == whole[: len(second.generated)]


async def test_a_caller_that_leaves_while_its_request_is_parked_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither in the machine nor on the thread."""
    crowd = GatedCrowd(monkeypatch)
    async with crowded(runtime_options={"backend_factory": crowd.make}) as (_, model):
        tasks = [asyncio.create_task(together(model, [prompt])) for prompt in prompts(2)]
        parked = await crowd.until_parked()
        tasks[1].cancel()
        await crowd.watch.once(lambda: (one := crowd.watch.request(parked)) is not None and is_leaving(one))
        crowd.go_on()
        (first,) = await tasks[0]
        await crowd.watch.at_rest()
    assert first.generated == stub_reply(prompts(1)[0], REPLY)
    assert tasks[1].cancelled()


@pytest.mark.slow
@pytest.mark.parametrize("how", ["stopped", "crashed", "full"])
async def test_a_tier_that_fails_while_a_request_is_parked_costs_time_and_no_reply(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, how: str
) -> None:
    """It computes again what is not there any more."""
    crowd = GatedCrowd(monkeypatch)
    if how == "full":
        gate = Gate(monkeypatch)
        gate.error = TierFailed("d", "no space left")
        gate.open()
    async with runtime_at(tmp_path, make=crowd.make) as runtime:
        model = await runtime.load_model("m", crowded_config(kind="disk"))
        asked = asyncio.create_task(together(model, prompts(3)))
        await crowd.until_parked()
        await runtime.cache.flush()
        if how == "stopped":
            await runtime.stop_tier("d")
        elif how == "crashed":
            for path in (tmp_path / "rows").glob("*"):
                path.unlink()
            await crash(runtime, "tier:d")
        crowd.go_on()
        replies = await asked
        await crowd.watch.at_rest()
    assert [reply.generated for reply in replies] == [stub_reply(prompt, REPLY) for prompt in prompts(3)]
    assert any(reply.stats.prefill_tokens > PROMPT for reply in replies)


@pytest.mark.slow
@pytest.mark.parametrize("where", ["actor", "thread", "decode"])
@pytest.mark.parametrize("on_crash", ["continue", "fail"])
async def test_a_crash_of_the_model_reaches_parked_requests_too(
    monkeypatch: pytest.MonkeyPatch, where: Any, on_crash: str
) -> None:
    """Both go on with the model that comes back, or learn of it."""
    crowd = GatedCrowd(monkeypatch)
    async with crowded(runtime_options={"backend_factory": crowd.make}) as (_, model):
        given = {"on_crash": on_crash}
        tasks = [asyncio.create_task(together(model, [prompt], given)) for prompt in prompts(2)]
        await crowd.until_parked()
        model.inject_fault(where)
        crowd.go_on()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        if on_crash == "fail":
            assert [crashed(end) for end in ends] == [True, True]
        else:
            replies = [one for end in ends if isinstance(end, list) for one in end]
            assert [reply.generated for reply in replies] == [stub_reply(prompt, REPLY) for prompt in prompts(2)]
        replies = await together(model, prompts(2))
        await crowd.watch.at_rest()
    assert [reply.generated for reply in replies] == [stub_reply(prompt, REPLY) for prompt in prompts(2)]


def crashed(end: object) -> bool:
    """Whether that is how a request ends with its model."""
    return isinstance(end, BaseExceptionGroup) and end.subgroup(erllama.ModelCrashed) is not None


@pytest.mark.slow
async def test_a_higher_priority_does_not_wait_for_the_prompts_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes while the others read theirs: one of them leaves its sequence with its prompt half read."""
    watch, done = Watch(monkeypatch), dict[int, bool]()

    def see(model_id: str, state: State) -> None:
        for request_id, one in state.placed.items():
            if isinstance(one, Parking):
                done.setdefault(request_id, one.begun.prefilled)

    watch.see = see
    low, high = prompts(2, 1000, 40), prompts(1, 20, 40)
    slow = {"seconds_per_token": 0.0005}
    async with crowded(context_opts={"n_ctx": 4096, "n_seq_max": 2}, stub=slow) as (_, model):
        first = asyncio.create_task(together(model, low, length=40))
        await watch.once(lambda: watch.stages() == ["working"] * 2)
        (above,) = await together(model, high, {"priority": 1}, length=40)
        replies = [*await first, above]
    assert [reply.generated for reply in replies] == [stub_reply(prompt, 40) for prompt in (*low, *high)]
    assert [reply.stats.parks for reply in replies] == [0, 1, 0]
    assert list(done.values()) == [False]


async def test_what_is_shared_with_a_request_that_has_not_begun_is_counted_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Three with the same beginning arrive before the cache has answered the first: the books know one beginning."""
    watch, start = Watch(monkeypatch), prompts(1, 100, 1)[0]
    finds = Held(monkeypatch, CacheClient, "find")
    async with gated(context={"n_ctx": 4096, "n_seq_max": 4}) as (_, model, gate):
        prompts_alike = [[*start, 97 + number, *start[:9]] for number in range(3)]
        replies = asyncio.create_task(together(model, prompts_alike, length=4))
        await watch.once(lambda: watch.stages() == ["looking"] * 3)
        finds.open()
        await watch.once(lambda: watch.stages() == ["working", "looking", "looking"])
        used = count(slot.pieces for slot in watch.states["m"].slots)
        gate.gate.set()
        await replies
        await watch.at_rest()
    assert used <= 100 + 3 * (10 + 3)  # a last token is decoded by nobody


async def test_a_session_that_ends_while_its_turn_is_parked_holds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The turn is answered all the same."""
    crowd = GatedCrowd(monkeypatch)
    async with crowded(runtime_options={"backend_factory": crowd.make}) as (_, model):
        asked = asyncio.create_task(together(model, prompts(2), {}, {"session_id": "s"}))
        await crowd.until_parked()
        await model.end_session("s")
        crowd.go_on()
        replies = await asked
        await crowd.watch.at_rest()
        assert [slot.session_id for slot in crowd.watch.states["m"].slots] == [None] * SEQUENCES
    assert [reply.generated for reply in replies] == [stub_reply(prompt, REPLY) for prompt in prompts(2)]
