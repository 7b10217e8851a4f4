"""Which requests go first, which are displaced, and which run out of time."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from helpers.cache import stub_reply
from helpers.coming_back import coming_back, crash
from helpers.crowd import prompts
from helpers.gated import arrived, gated
from helpers.runtime import until

import erllama_py as erllama

pytestmark = pytest.mark.anyio

ONE: dict[str, Any] = {"n_ctx": 1024, "n_seq_max": 1}


class Line:
    """Requests of one model, in the order in which they end."""

    def __init__(self, model: erllama.Model) -> None:
        self._model = model
        self._tasks: list[asyncio.Task[None]] = []
        self.ended: list[int] = []
        self.done: dict[int, erllama.Completion] = {}

    async def join(self, number: int, length: int = 10, **options: Any) -> None:
        """Ask for the reply to prompt `number`; returns when the model knows of it."""
        before = self._model.queue_depth

        async def ask() -> None:
            prompt = list(prompts(10)[number])
            given = {"response_tokens": length, "temperature": 0.0, **options}
            self.done[number] = await self._model.complete(prompt, **given)
            self.ended.append(number)

        self._tasks.append(asyncio.create_task(ask()))
        await until(lambda: self._model.queue_depth == before + 1)

    async def all(self) -> None:
        await asyncio.gather(*self._tasks)
        for number, done in self.done.items():
            assert done.generated == stub_reply(prompts(10)[number], len(done.generated))


async def test_the_higher_priority_goes_first_and_equals_in_their_order() -> None:
    """Of those that wait; one at work is displaced by a higher one, and goes on as the first of its own priority."""
    async with gated(context=ONE) as (_, model, gate):
        line = Line(model)
        for number, priority in enumerate((0, 0, -1, 5, 0, 5, -1)):
            await line.join(number, priority=priority)
        gate.gate.set()
        await line.all()
    assert line.ended == [3, 5, 0, 1, 4, 2, 6]


async def test_a_displaced_request_loses_nothing() -> None:
    """It was generating; its reply is whole, and it says that it was parked."""
    async with gated(context=ONE) as (_, model, gate):
        line = Line(model)
        await line.join(0, length=150, priority=-3)
        await gate.shut(5)  # its prompt and some tokens
        await until(lambda: model.phase == "generating")
        await line.join(1, priority=7)
        await line.join(2, priority=-2)
        gate.gate.set()
        await line.all()
    assert line.ended == [1, 2, 0]
    assert [line.done[number].stats.parks for number in range(3)] == [1, 0, 0]
    assert len(line.done[0].generated) == 150
    assert line.done[0].stats.prefill_tokens == 20


async def test_equals_are_not_pushed_out() -> None:
    """First come, first served."""
    async with gated(context=ONE) as (_, model, gate):
        line = Line(model)
        for number in range(4):
            await line.join(number, priority=3)
        gate.gate.set()
        await line.all()
    assert line.ended == [0, 1, 2, 3]
    assert all(done.stats.parks == 0 for done in line.done.values())


async def test_a_deadline_of_one_that_waits_gives_an_empty_answer() -> None:
    """It is no error: it ends as a cancelled one does."""
    async with gated(context=ONE) as (_, model, gate):
        line = Line(model)
        await line.join(0)
        await arrived(model, 1)
        late = await model.complete(list(prompts(2)[1]), deadline=0.01)
        assert (late.finish_reason, late.generated, late.reply) == ("deadline", [], "")
        assert late.stats.prefill_tokens == 0
        gate.gate.set()
        await line.all()


async def test_a_deadline_of_one_that_reads_its_prompt_ends_the_decode() -> None:
    """No call waits for the end of a batch that is not wanted any more."""
    async with gated(context=ONE) as (_, model, gate):
        late = await model.complete(list(prompts(1)[0]), deadline=0.01)
        assert (late.finish_reason, late.generated, model.queue_depth) == ("deadline", [], 0)
        assert gate.parts == []


@pytest.mark.slow
async def test_a_stream_ends_at_its_deadline_with_what_it_has() -> None:
    """The text so far, and `Done`. After eight decodes the gate is shut, so it cannot end before."""
    async with gated(context=ONE) as (_, model, gate):
        gate.shut_after = 8
        gate.gate.set()
        tokens: list[int] = []
        async with model.stream(list(prompts(1)[0]), temperature=0.0, response_tokens=100, deadline=1.0) as events:
            async for event in events:
                if isinstance(event, erllama.TextDelta):
                    tokens += event.token_ids
        assert isinstance(event, erllama.Done)
        assert event.completion.finish_reason == "deadline"
        assert tokens == event.completion.generated == stub_reply(prompts(1)[0], len(tokens)) != []


async def test_a_deadline_that_is_met_changes_nothing() -> None:
    """Its timer is gone with the request."""
    async with gated() as (_, model, gate):
        gate.gate.set()
        done = await model.complete(list(prompts(1)[0]), temperature=0.0, response_tokens=20, deadline=1e6)
        assert (done.finish_reason, len(done.generated)) == ("length", 20)


async def test_the_time_of_a_restart_counts_towards_a_deadline() -> None:
    """It begins with the call, and the model may be away."""
    async with coming_back() as (_, model, comings):
        await crash(model, comings)
        late = await model.complete("hello", deadline=0.001)
        assert (late.finish_reason, late.generated) == ("deadline", [])
        comings.back.set()
