"""Why a reply ended: its deadline is told from a cancel, by whichever came first, and by every API in its own words."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, get_args

import msgspec
import pytest
from helpers.checkpoints import turns
from helpers.gated import gated

import erllama_py as erllama
from erllama_py.results import EARLY, FinishReason
from erllama_py.serve.anthropic import answers
from erllama_py.serve.ollama import lines
from erllama_py.serve.openai import chunks, completions
from erllama_py.serve.responses import resource

pytestmark = pytest.mark.anyio


async def test_the_counters_tell_a_deadline_from_a_cancel() -> None:
    """Each is counted under its own name."""
    reasons: tuple[Any, ...] = ("deadline", "cancelled")
    async with gated() as (_, model, gate):
        for why in reasons:
            async with model.stream("hello", ignore_eos=True) as events:
                model._caller.cancel(events.request_id, why)  # as its deadline does, which may pass before it has begun
                done = [event async for event in events][-1]
            assert isinstance(done, erllama.Done)
            assert done.completion.finish_reason == why
        gate.gate.set()
        assert model.counters.finished == {"deadline": 1, "cancelled": 1}


@pytest.mark.parametrize("first", ["cancelled", "deadline"])
async def test_the_first_reason_is_the_one_that_counts(first: Any) -> None:
    """A deadline that passes while a cancel is under way is none any more, and the other way round."""
    async with gated() as (_, model, gate):
        async with model.stream("hello", response_tokens=50, ignore_eos=True) as events:
            await gate.shut(2)
            for why in (first, *EARLY - {first}):
                model._caller.cancel(events.request_id, why)
            await turns(5)  # the model's actor tells its engine, which is in a decode
            gate.gate.set()
            done = [event async for event in events][-1]
        assert isinstance(done, erllama.Done)
        assert done.completion.finish_reason == first


async def test_a_reply_that_ended_by_itself_is_not_late() -> None:
    """A deadline that comes after its end changes nothing."""
    async with gated() as (_, model, gate):
        gate.gate.set()
        async with model.stream("hello", response_tokens=3, ignore_eos=True) as events:
            seen = [event async for event in events]
            model._caller.cancel(events.request_id, "deadline")
        assert isinstance(seen[-1], erllama.Done)
        assert seen[-1].completion.finish_reason == "length"
        assert model.counters.finished == {"length": 1}


async def test_every_api_has_words_for_every_reason() -> None:
    """What time has cut short is so by length, wherever there is no word for it."""
    async with gated() as (_, model, gate):
        gate.gate.set()
        done = await model.complete("hello", response_tokens=3, ignore_eos=True)
    words = {}
    for reason in get_args(FinishReason):
        one = msgspec.structs.replace(done, finish_reason=reason, tool_calls=(), stop_sequence=None)
        asked: Any = SimpleNamespace(max_tokens=3)
        output: Any = SimpleNamespace(items=[], reasoning_tokens=0)
        ended = resource.ended({}, output, one)
        words[reason] = (
            chunks.reason(one), completions.REASONS[reason], lines.REASONS[reason],
            answers.end(asked, one)["stop_reason"], ended["status"], (ended["incomplete_details"] or {}).get("reason"),
        )  # fmt: skip
    long = ("length", "length", "length", "max_tokens", "incomplete")
    assert words == {
        "stop": ("stop", "stop", "stop", "end_turn", "completed", None),
        "length": (*long, "max_output_tokens"),
        "deadline": (*long, "max_output_tokens"),
        "cancelled": (*long, "cancelled"),
    }


async def test_the_run_of_tools_says_which() -> None:
    """As the reply does that it ended in."""

    def look(place: str) -> str:
        """Look there."""
        return place

    async with gated(context={"n_ctx": 4096}) as (_, model, gate):
        run = model.run_tools([{"role": "user", "content": "hi"}], tools=[look], deadline=0.05)
        ended = await run
        gate.gate.set()
        assert ended.ended == "deadline"
        assert [one.finish_reason for one in ended.completions] in (["deadline"], [])


async def test_a_session_drops_a_turn_that_was_late_before_it_began() -> None:
    """And keeps one that has said something."""
    async with gated() as (_, model, gate):
        session = model.session()
        late = await session.chat("hello", deadline=0.01)
        assert (late.finish_reason, session.messages) == ("deadline", [])
        gate.gate.set()
        await asyncio.sleep(0)
