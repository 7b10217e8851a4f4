"""Requests between two lives of their model: what may end them there, and what they come to."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import anyio
import pytest
from helpers.coming_back import Comings, coming_back, crash
from helpers.runtime import drain, until
from helpers.scripted import scripted

import erllama_py as erllama
from erllama_py.errors import StreamMisused
from erllama_py.scheduler.messages import InjectFault

pytestmark = pytest.mark.anyio
GREEDY: dict[str, Any] = {"temperature": 0.0, "response_tokens": 60, "ignore_eos": True}


async def begun(stream: erllama.Stream, tokens: int) -> list[erllama.Event]:
    """The events of a stream until so many of text have come."""
    events: list[erllama.Event] = []
    async for event in stream:
        events.append(event)
        tokens -= isinstance(event, erllama.TextDelta)
        if not tokens:
            break
    return events


def text_of(events: list[erllama.Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, erllama.TextDelta))


async def between(stream: erllama.Stream, model: erllama.Model, comings: Comings) -> list[erllama.Event]:
    """What has come of a stream whose model is not back yet."""
    events = await begun(stream, 3)
    await crash(model, comings)
    while stream._events:
        events.append(await anext(stream))
    return events


@pytest.mark.parametrize("where", ["actor", "thread", "decode"])
async def test_a_stream_goes_on_where_it_was(where: Any) -> None:
    """It sees a pause: its events are those of one that was not disturbed, and so is its completion."""
    async with coming_back() as (_, model, comings):
        alone = await drain(model.stream("hello again", **GREEDY))
        async with model.stream("hello again", **GREEDY) as stream:
            events = await begun(stream, 4)
            await crash(model, comings, where)
            comings.back.set()
            events += await begun(stream, 20)
            await crash(model, comings, where)
            comings.back.set()
            events += [event async for event in stream]
        assert events[:-1] == alone[:-1]
        ends = [one.completion for one in (events[-1], alone[-1]) if isinstance(one, erllama.Done)]
        assert ends[0].generated == ends[1].generated
        assert ends[0].reply == ends[1].reply
        assert ends[0].finish_reason == "length"
        assert [end.stats.crashes for end in ends] == [2, 0]
        assert (model.counters.failed, model.counters.requests, model.info.restarts) == (0, 2, 2)


async def test_a_call_without_a_stream_loses_its_last_tokens_at_most() -> None:
    """And none of them for its caller."""
    async with coming_back() as (_, model, comings):
        alone = await model.complete("hello again", **GREEDY | {"response_tokens": 100})
        asking = asyncio.create_task(model.complete("hello again", **GREEDY | {"response_tokens": 100}))
        await until(lambda: model.phase == "generating" and model.counters.generated_tokens > 150)
        await crash(model, comings, "decode")
        comings.back.set()
        done = await asking
        assert done.generated == alone.generated
        assert done.stats.prefill_tokens > alone.stats.prefill_tokens


async def test_one_that_its_caller_has_left_is_over_when_its_model_crashes() -> None:
    """Although its actor has not heard yet that nobody waits: nothing is kept of it, and it is counted."""
    async with coming_back() as (_, model, comings):
        asking = asyncio.create_task(model.complete("hello", **GREEDY))
        await until(lambda: model.phase == "generating")
        asking.cancel()
        await crash(model, comings)
        assert asking.cancelled()
        assert (model._board.calls, model.counters.finished) == ({}, {"cancelled": 1})


async def test_one_that_is_to_fail_fails() -> None:
    """At once, with what ended its model."""
    async with coming_back() as (_, model, comings):
        async with model.stream("hello", on_crash="fail", **GREEDY) as stream:
            await begun(stream, 3)
            await crash(model, comings)
            with pytest.raises(erllama.ModelCrashed) as caught:
                [event async for event in stream]
        assert "told to fail" in str(caught.value)
        assert not caught.value.gave_up
        assert model.counters.failed == 1


async def test_between_two_lives_it_waits_and_is_counted_so() -> None:
    """What is done to it then needs no actor."""
    async with coming_back() as (_, model, comings), model.stream("hello", **GREEDY) as stream:
        await between(stream, model, comings)
        assert (model.pending_len, model.counters.waiting, model.queue_depth) == (1, 1, 1)
        comings.back.set()
        assert isinstance([event async for event in stream][-1], erllama.Done)
        assert (model.pending_len, model.counters.waiting) == (0, 0)


@pytest.mark.parametrize("by", ["stream", "id", "all"])
async def test_one_that_is_cancelled_between_two_lives_has_what_it_had(by: str) -> None:
    """At once, however long its model takes to come back."""
    async with coming_back() as (runtime, model, comings):
        async with model.stream("hello", **GREEDY) as stream:
            events = await between(stream, model, comings)
            if by == "stream":
                stream.cancel()
            else:
                (model if by == "id" else runtime.model("m")).cancel(stream.request_id)
            rest = [event async for event in stream]
        (last,) = rest
        assert isinstance(last, erllama.Done)
        assert last.completion.finish_reason == "cancelled"
        assert last.completion.stats.crashes == 1
        assert last.completion.reply == text_of(events)
        assert not comings.back.is_set()
        assert model.counters.finished == {"cancelled": 1}


async def test_a_deadline_that_passes_between_two_lives_ends_it_with_what_it_had() -> None:
    """As at any other time."""
    async with coming_back() as (_, model, comings):
        asking = asyncio.create_task(model.complete("hello", deadline=0.3, **GREEDY | {"response_tokens": 1000}))
        await until(lambda: model.counters.generated_tokens > 5)
        await crash(model, comings)
        done = await asking
        assert done.finish_reason == "deadline"
        assert done.generated
        assert not comings.back.is_set()


async def test_a_caller_that_leaves_between_two_lives_leaves_nothing() -> None:
    """Neither a task nor a request of the next life."""
    before = asyncio.all_tasks()
    async with coming_back() as (_, model, comings):
        asking = asyncio.create_task(model.complete("hello", **GREEDY))
        await until(lambda: model.counters.generated_tokens > 5)
        await crash(model, comings)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        assert asking.cancelled()
        await until(lambda: not any(task.get_name().startswith("request ") for task in asyncio.all_tasks() - before))
        assert (model.queue_depth, model._board.calls, model._board.between) == (0, {}, set())
        comings.back.set()
        assert (await model.complete("hello", **GREEDY)).generated
        assert model._board.calls == {}


async def test_a_stream_that_is_left_between_two_lives_is_over() -> None:
    """And cannot be read any more."""
    async with coming_back() as (_, model, comings):
        async with model.stream("hello", **GREEDY) as stream:
            await between(stream, model, comings)
        assert model.queue_depth == 0
        with pytest.raises(StreamMisused):
            await anext(stream)
        assert not comings.back.is_set()


@pytest.mark.parametrize("end", ["unload", "close"])
async def test_the_end_of_the_model_ends_those_that_wait_for_it(end: str) -> None:
    """With the error that says so."""
    expected = {"unload": erllama.ModelNotLoaded, "close": erllama.RuntimeClosed}[end]
    async with coming_back() as (runtime, model, comings):
        asking = [asyncio.create_task(model.complete("hello", **GREEDY)) for _ in range(3)]
        await until(lambda: model.counters.generated_tokens > 5)
        await crash(model, comings)
        ending = asyncio.create_task(model.unload() if end == "unload" else runtime.__aexit__(None, None, None))
        with anyio.fail_after(10):
            ended = await asyncio.gather(*asking, return_exceptions=True)
        comings.back.set()
        await ending
    assert [type(one) for one in ended] == [expected] * 3


@pytest.mark.parametrize("end", ["unload", "close"])
async def test_a_crash_in_the_end_of_the_model_is_no_end_of_its_own(end: str) -> None:
    """Its requests are told that it was to end."""
    expected = {"unload": erllama.ModelNotLoaded, "close": erllama.RuntimeClosed}[end]
    async with coming_back() as (runtime, model, _comings):
        asking = [asyncio.create_task(model.complete("hello", **GREEDY | {"response_tokens": 900})) for _ in range(3)]
        await until(lambda: model.counters.generated_tokens > 5)
        actor = model._board.ref
        assert actor is not None
        actor.cast(InjectFault("actor"), urgent=True)
        ending = asyncio.create_task(model.unload() if end == "unload" else runtime.__aexit__(None, None, None))
        model._board.close(expected if end == "close" else partial(erllama.ModelNotLoaded, "m"))
        ended = await asyncio.gather(*asking, return_exceptions=True)
        await ending
    assert [type(one) for one in ended] == [expected] * 3


async def test_the_end_of_thinking_can_be_asked_for_between_two_lives() -> None:
    """The next life closes the block."""
    thinking: Any = {"thinking_markers": ("<think>", "</think>"), "response_tokens": 400}
    said, stub = "<think>" + "well " * 40 + "</think>so", {"seconds_per_token": 0.001}
    async with scripted(said, words=("<think>", "</think>"), stub=stub) as (_, model, _script):
        async with model.stream("hello", **thinking) as stream:
            thought = 0
            async for event in stream:
                thought += isinstance(event, erllama.ThinkingDelta)
                if thought == 5:
                    break
            model.inject_fault("actor")
            await until(lambda: model.info.restarts == 1)
            stream.end_thinking()
            rest = [event async for event in stream]
        assert len([event for event in rest if isinstance(event, erllama.ThinkingEnd)]) == 1
        last = rest[-1]
        assert isinstance(last, erllama.Done)
        assert last.completion.thinking is not None
        assert last.completion.thinking.count("well") < 40
