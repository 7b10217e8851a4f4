"""A burst of requests, and callers that wait for room in the queue: whatever ends the wait, they hear of it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from helpers.crowd import prompts
from helpers.gated import arrived, gated
from helpers.runtime import until
from helpers.watched import Watch

import erllama_py as erllama

pytestmark = pytest.mark.anyio

ONE: dict[str, Any] = {"n_ctx": 512, "n_seq_max": 1}
SHORT: dict[str, Any] = {"response_tokens": 2, "temperature": 0.0}
FULL: dict[str, Any] = {"context": ONE, "scheduler": {"max_pending": 1}}
Asked = asyncio.Task[erllama.Completion]


def ask(model: erllama.Model, number: int, **options: Any) -> Asked:
    """A request with a prompt of its own."""
    return asyncio.create_task(model.complete(list(prompts(8)[number]), **SHORT, **options))


async def fill(model: erllama.Model) -> list[Asked]:
    """One at work, one in the queue."""
    asked = []
    for number in range(2):
        asked.append(ask(model, number))
        await arrived(model, number + 1)
    return asked


@pytest.mark.either_loop
@pytest.mark.slow
@pytest.mark.parametrize("waiting", [1500, 0])
async def test_a_burst_is_refused_only_by_the_queue(waiting: int) -> None:
    """1,500 calls in one turn of the loop: as many wait as may, or wait for that; the mailbox refuses none of them."""
    count, max_pending = 1500, waiting or 100
    patience = not waiting
    async with gated(context=ONE, scheduler={"max_pending": max_pending}) as (_, model, gate):
        asked = [
            asyncio.create_task(model.complete([1, number % 250], **SHORT, queue_wait=patience))
            for number in range(count)
        ]
        await until(lambda: model.queue_depth == count)
        assert model.pending_len == count - 1
        for task in asked[1:]:
            task.cancel()
        await until(lambda: model.pending_len == 0)
        gate.gate.set()
        replies = await asyncio.gather(*asked, return_exceptions=True)
    assert isinstance(replies[0], erllama.Completion)
    assert all(isinstance(reply, asyncio.CancelledError) for reply in replies[1:])


async def test_those_that_wait_for_room_are_served_in_order() -> None:
    """Each when its turn comes, as if the queue had been long enough."""
    served: list[int] = []
    async with gated(**FULL) as (_, model, gate):
        asked = await fill(model)
        for number in range(2, 6):
            asked.append(ask(model, number, queue_wait=True))
            await until(lambda: model.queue_depth == len(asked))
        for task in asked:
            task.add_done_callback(lambda task: served.append(asked.index(task)))
        with pytest.raises(erllama.QueueFull) as caught:
            await model.complete("no patience")
        assert (caught.value.waiting, caught.value.capacity) == (5, 1)
        gate.gate.set()
        replies = await asyncio.gather(*asked)
    assert served == list(range(6))
    assert all(reply.finish_reason == "length" for reply in replies)


async def end(how: str, runtime: erllama.Runtime, model: erllama.Model, waiting: Asked, watch: Watch) -> None:
    match how:
        case "cancelled":
            waiting.cancel()
        case "cancelled by id":
            model.cancel(watch.ids()[-1])
        case "crash":
            model.inject_fault("actor")
        case "unload":
            await runtime.unload(model)


ENDS: dict[str, tuple[type[BaseException] | None, dict[str, Any]]] = {
    "cancelled": (asyncio.CancelledError, {}),
    "cancelled by id": (None, {}),
    "deadline": (None, {"deadline": 0.02}),
    "too long": (erllama.QueueFull, {"queue_wait": 0.02}),
    "crash": (erllama.ModelCrashed, {"on_crash": "fail"}),
    "unload": (erllama.ModelNotLoaded, {}),
}


@pytest.mark.either_loop
@pytest.mark.parametrize("how", ENDS)
async def test_whatever_ends_the_wait_its_caller_is_answered(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With an answer or its own error, and nothing of it is left."""
    expected, options = ENDS[how]
    watch = Watch(monkeypatch)
    async with gated(**FULL) as (runtime, model, gate):
        asked = await fill(model)
        waiting = ask(model, 2, **({"queue_wait": True} | options))
        await until(lambda: model.queue_depth == 3 or waiting.done())
        ending = asyncio.create_task(end(how, runtime, model, waiting, watch))
        await asyncio.wait({waiting})
        if expected is None:
            reason = "deadline" if how == "deadline" else "cancelled"
            assert (waiting.result().finish_reason, waiting.result().generated) == (reason, [])
        elif waiting.cancelled():
            assert expected is asyncio.CancelledError
        else:
            assert isinstance(waiting.exception(), expected)
        if how not in ("crash", "unload"):
            assert not asked[0].done()
            await until(lambda: watch.ids() == watch.ids()[:2])
        gate.gate.set()
        await asyncio.gather(ending, *asked, return_exceptions=True)
        if how != "unload":
            assert (await model.complete("hello", **SHORT)).finish_reason in ("length", "stop")
            await watch.at_rest()


async def test_the_end_of_the_runtime_ends_the_wait() -> None:
    """Like that of all its requests."""
    async with gated(**FULL) as (_, model, _):
        asked = await fill(model)
        asked.append(ask(model, 2, queue_wait=True))
        await until(lambda: model.queue_depth == 3)
    answers = await asyncio.gather(*asked, return_exceptions=True)
    assert isinstance(answers[2], erllama.RuntimeClosed)
