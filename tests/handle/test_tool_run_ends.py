"""How a run of `run_tools` ends, and how another takes it up; the model's replies are given."""

from __future__ import annotations

import asyncio
import itertools
import threading
from typing import Any

import anyio
import pytest
from helpers.chats import call, chats, double, question, said

import erllama_py as erllama
from erllama_py.errors import ModelCrashed, StreamMisused
from erllama_py.handle import tool_run
from erllama_py.handle.tool_list import tool_list

pytestmark = pytest.mark.anyio


async def test_the_rounds_are_bounded() -> None:
    """The calls of the last reply stay open, and the next run begins with them."""
    async with chats([call("double", x=1)], [call("double", x=2)], [call("double", x=3)], "done") as model:
        messages = question()
        result = await model.run(messages, [double], {"max_rounds": 2})
        assert (result.ended, result.rounds) == ("max_rounds", 2)
        assert [one.arguments for one in result.open_calls] == [{"x": 2}]
        assert said(messages)[-1] == ("assistant", "")
        again = await model.run(messages, [double])
        assert (again.ended, again.rounds, again.open_calls) == ("answer", 2, ())


async def test_calls_of_tools_without_a_function_are_left_to_the_caller() -> None:
    """The others are carried out; with its result there the run goes on."""
    ask = {"name": "ask", "parameters": {"type": "object", "properties": {}}}
    person = call("ask")
    async with chats([person, call("double", x=1)], "done") as model:
        messages = question()
        result = await model.run(messages, [double, ask])
        assert (result.ended, result.open_calls) == ("calls", (msgspec_call(person),))
        assert said(messages)[2:] == [("tool", '{"twice":2}')]
        messages.append({"role": "tool", "tool_call_id": person.id, "content": "yes"})
        assert (await model.run(messages, [double, ask])).ended == "answer"


def msgspec_call(one: erllama.ToolCall) -> erllama.ToolCall:
    """A call as it is read from a message."""
    return erllama.ToolCall(id=one.id, name=one.name, arguments=one.arguments, text=one.text)


async def test_a_conversation_with_an_answer_needs_no_run() -> None:
    """A run that crashed after its last step comes to the same."""
    async with chats("never asked") as model:
        messages = [*question(), {"role": "assistant", "content": "3"}]
        result = await model.run(messages, [double])
        assert (result.ended, result.rounds, result.reply, result.completion) == ("answer", 0, "3", None)
        assert model.asked == []


async def test_a_tool_choice_is_followed_until_there_is_a_result() -> None:
    """For ever, there would be no answer; one that forbids calls stays."""
    for choice, later in (("required", {None}), ("none", {"none"})):
        async with chats([call("double", x=1)], [call("double", x=2)], "done") as model:
            await model.run(question(), [double], tool_choice=choice)
            asked = [given.get("tool_choice") for _, given in model.asked]
            assert asked[0] == choice
            assert set(asked[1:]) == later


@pytest.mark.parametrize("reads", [False, True])
async def test_a_model_that_crashes_is_asked_again(reads: bool) -> None:
    """Where its replies are to fail; after three times in a row the run fails. Not where it is to blame itself."""
    crash, last, own = ModelCrashed("m", "a drill"), ModelCrashed("m", "", True), ModelCrashed("m", "", by_request=True)
    for replies, fails in (((crash, crash, "done"), False), ((crash,), True), ((last,), True), ((own,), True)):
        async with chats(*replies) as model:
            messages = question()
            run = model.run(messages, [double])
            attempts = []
            try:
                if reads:
                    async with run:
                        async for event in run:
                            attempts += [event.attempt] if isinstance(event, erllama.RoundStarted) else []
                else:
                    await run
            except ModelCrashed:
                assert fails
                assert messages == question()
            else:
                assert not fails
                assert messages[-1]["content"] == "done"
            assert len(model.asked) == (1 if replies[0] in (last, own) else 3)
            assert attempts == (list(range(1, len(model.asked) + 1)) if reads else [])


@pytest.mark.slow
async def test_a_deadline_is_for_the_whole_run() -> None:
    """Calls under way are cancelled and stay open; what is there stays."""

    async def hang(x: int) -> None:
        """Never ends."""
        await anyio.sleep_forever()

    async def at_once(x: int) -> int:
        """Is done at once."""
        return x

    async with chats([call("at_once", x=1), call("hang", x=1)], "never") as model:
        messages = question()
        result = await model.run(messages, [at_once, hang], deadline=0.5)
        assert result.ended == "deadline"
        assert [one.name for one in result.open_calls] == ["hang"]
        assert said(messages)[2:] == [("tool", "1")]
        assert 0.0 < model.asked[0][1]["deadline"] <= 0.5
        assert (await model.run(messages, [at_once, hang], deadline=1e-9)).ended == "deadline"


async def test_a_run_can_be_cancelled() -> None:
    """It ends with what there is, and the events go on to the last one."""

    async def hang(x: int) -> None:
        """Never ends."""
        await anyio.sleep_forever()

    async with chats([call("hang", x=1)], "never") as model:
        async with model.run(question(), [hang]) as run:
            async for event in run:
                if isinstance(event, erllama.ToolStarted):
                    run.cancel()
                last = event
        assert isinstance(last, erllama.RunDone)
        assert last.result.ended == "cancelled"


async def test_leaving_the_block_ends_the_run() -> None:
    """Before the block is left, all of it has ended."""
    ended = []

    async def hang(x: int) -> None:
        """Never ends."""
        try:
            await anyio.sleep_forever()
        finally:
            ended.append(x)

    async with chats([call("hang", x=1), call("hang", x=2)], "never") as model:
        async with model.run(question(), [hang]) as run:
            async for event in run:
                if isinstance(event, erllama.ToolStarted) and event.call.arguments == {"x": 2}:
                    break
        assert sorted(ended) == [1, 2]
        with pytest.raises(StreamMisused):
            await anext(run)


@pytest.mark.slow
async def test_a_run_that_is_cancelled_anywhere_can_be_taken_up() -> None:
    """At each await in turn: whatever was complete is in the list, no call with a result runs again, and the next run
    comes to the same answer."""
    for stop in itertools.count():
        ran: list[int] = []

        async def work(x: int, ran: list[int] = ran) -> int:
            """Works."""
            await anyio.lowlevel.checkpoint()
            ran.append(x)
            return x

        async with chats([call("work", x=1), call("work", x=2)], [call("work", x=3)], "done") as model:
            messages = question()
            task = asyncio.ensure_future(_awaited(model.run(messages, [_named(work, ran)])))
            for _ in range(stop):
                await asyncio.sleep(0)
            whole = task.done()
            task.cancel()
            await asyncio.wait((task,))
            results = {message["content"] for message in messages if message["role"] == "tool"}
            before = list(ran)
            model_replies = model._replies
            model._replies = model_replies[len([m for m in messages if m["role"] == "assistant"]) :] or ("never",)
            model.asked.clear()
            again = await model.run(messages, [_named(work, ran)])
            assert again.reply == "done"
            assert [content for role, content in said(messages) if role == "tool"] == ["1", "2", "3"]
            assert not results & {str(x) for x in ran[len(before) :]}
            if whole:
                assert stop > 5
                return


async def test_a_run_is_over_when_its_block_is_also_where_leaving_that_is_cancelled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """While a thread still works for it: nothing outlives the call."""
    begun, gate, runs = asyncio.Event(), threading.Event(), list[asyncio.Task[Any] | None]()
    loop = asyncio.get_running_loop()

    def held(tools: Any) -> Any:
        loop.call_soon_threadsafe(begun.set)
        assert gate.wait(60)
        return tool_list(tools)

    monkeypatch.setattr(tool_run, "tool_list", held)
    async with chats("done") as model:

        async def enter_and_leave() -> None:
            async with model.run(question(), [double]) as run:
                runs.append(run._task)
                await begun.wait()

        task = asyncio.ensure_future(enter_and_leave())
        await begun.wait()
        await anyio.wait_all_tasks_blocked()
        task.cancel()
        await asyncio.wait((task,))
        assert task.cancelled()
        assert [one is not None and one.done() for one in runs] == [True]
        gate.set()


def _named(function: Any, ran: list[int]) -> Any:
    async def work(x: int) -> int:
        """Works."""
        return int(await function(x, ran))

    return work


async def _awaited(run: Any) -> erllama.ToolRunResult:
    result: erllama.ToolRunResult = await run
    return result


async def test_a_model_that_is_unloaded_ends_the_run() -> None:
    """The result that came meanwhile is in the list; nothing else is carried out for a model that is gone."""
    async with chats([call("unload"), call("double", x=1)], "never") as model:

        async def unload() -> str:
            """Unloads the model."""
            await model.model.unload()
            return "gone"

        messages = question()
        with pytest.raises(erllama.ModelNotLoaded):
            await model.run(messages, [unload, double], {"max_rounds": 2})
        assert said(messages)[2:] == [("tool", "gone"), ("tool", '{"twice":2}')]
        with pytest.raises(erllama.ModelNotLoaded):
            await model.run([*question(), messages[1]], [unload, double])


async def test_a_runtime_that_is_closed_ends_the_run() -> None:
    """A function that has no thread any more was not carried out: its call stays open."""
    async with chats([call("close"), call("double", x=1)], "never") as model:

        async def close() -> str:
            """Closes the runtime's threads and its models, as its end does."""
            await model.model.unload()
            model.model._caller.home.leave()
            return "closed"

        messages = question()
        with pytest.raises(erllama.ModelNotLoaded):
            await model.run(messages, [close, double], {"parallel_calls": 1})
        assert said(messages)[2:] == [("tool", "closed")]
