"""The loop of `run_tools`, step by step; the model's replies are given."""

from __future__ import annotations

import asyncio
import contextvars
import itertools
import json
import threading
from typing import Any

import anyio
import pytest
from helpers.chats import call, chats
from helpers.runtime import until

import erllama_py as erllama
from erllama_py.errors import InvalidOption, ModelCrashed, StreamMisused

pytestmark = pytest.mark.anyio


def question() -> list[Any]:
    return [{"role": "user", "content": "what is 1 and 2?"}]


async def add(x: int, y: int) -> int:
    """Adds."""
    return x + y


def double(x: int) -> dict[str, int]:
    """Doubles."""
    return {"twice": 2 * x}


def said(messages: list[Any]) -> list[tuple[str, str]]:
    return [(message["role"], message["content"]) for message in messages]


def errors_in(messages: list[Any]) -> list[str]:
    return [json.loads(message["content"])["error"] for message in messages if message["role"] == "tool"]


async def test_it_goes_on_until_there_is_an_answer() -> None:
    """Calls are carried out, results go back, and all of it is in the list that was given."""
    first, second = call("add", x=1, y=2), call("double", x=3)
    async with chats([first, second], [call("double", x=6)], "it is 12") as model:
        messages = question()
        result = await model.run(messages, [add, double], temperature=0.5)
        assert (result.ended, result.rounds, result.reply) == ("answer", 3, "it is 12")
        assert result.messages is messages
        assert said(messages) == [
            ("user", "what is 1 and 2?"), ("assistant", ""), ("tool", "3"), ("tool", '{"twice":6}'), ("assistant", ""),
            ("tool", '{"twice":12}'), ("assistant", "it is 12"),
        ]  # fmt: skip
        assert messages[2] == {"role": "tool", "tool_call_id": first.id, "name": "add", "content": "3"}
        assert [len(asked) for asked, _ in model.asked] == [1, 4, 6]
        assert {given["temperature"] for _, given in model.asked} == {0.5}


async def test_every_step_is_an_event() -> None:
    """Those of the streams among them; the last one is the result."""
    one = call("double", x=3)
    async with chats([one], "6") as model:
        async with model.run(question(), [double]) as run:
            events = [event async for event in run]
        match events:
            case [
                erllama.RoundStarted(1, 1), erllama.ToolCallEnd(), erllama.Done(), erllama.ToolStarted(started),
                erllama.ToolFinished(finished, '{"twice":6}', seconds, {"twice": 6}, None, None),
                erllama.RoundStarted(2, 1), erllama.TextDelta("6"), erllama.Done(), erllama.RunDone(result),
            ]:  # fmt: skip
                assert started == finished == one
                assert seconds >= 0.0
                assert run.result is result
                assert result.reply == "6"
            case _:
                raise AssertionError(events)


def wrong(x: int) -> object:
    """Raises."""
    raise KeyError("nothing there", x)


async def cancels(x: int) -> None:
    """Cancels itself."""
    raise asyncio.CancelledError


def nothing(x: int) -> object:
    """Returns what has no JSON form."""
    return object()


def stops(x: int) -> None:
    """What no future can hold."""
    raise StopIteration


@pytest.mark.parametrize(
    ("made", "problem"),
    [
        (call("wrong", x=1), "KeyError: ('nothing there', 1)"),
        (call("cancels", x=1), "CancelledError"),
        (call("nothing", x=1), "TypeError: object has no JSON form"),
        (call("stops", x=1), "StopIteration"),
        (call("wrung", x=1), "there is no tool 'wrung'; did you mean 'wrong'?"),
        (call("xyz"), "there is no tool 'xyz'"),
        (call("wrong"), "arguments are missing: x"),
        (call("wrong", x="1"), "the argument 'x' is refused: Expected `int`, got `str`"),
        (call("wrong", x=1, y=1), "there is no argument 'y'; there are: x"),
        (call("", problem="no JSON"), "the call cannot be carried out: no JSON"),
    ],
    ids=lambda value: value.name if isinstance(value, erllama.ToolCall) else None,
)
async def test_what_goes_wrong_with_a_call_is_told_to_the_model(made: erllama.ToolCall, problem: str) -> None:
    """As the call's result, and in its event; nothing is raised."""
    async with chats([made], "sorry") as model:
        messages = question()
        async with model.run(messages, [wrong, cancels, nothing, stops]) as run:
            finished = [event async for event in run if isinstance(event, erllama.ToolFinished)]
        assert run.result.reply == "sorry"
        (told,) = errors_in(messages)
        assert problem in told
        assert finished[0].problem == told


async def test_calls_of_one_reply_run_side_by_side() -> None:
    """As many as `parallel_calls` says; results keep the order of the calls."""
    at_work, most, gate = 0, 0, asyncio.Event()

    async def work(number: int) -> int:
        """Waits for the others."""
        nonlocal at_work, most
        at_work += 1
        most = max(most, at_work)
        await until(lambda: at_work == 3 or gate.is_set())
        gate.set()
        at_work -= 1
        return number

    async with chats([call("work", number=number) for number in range(7)], "done") as model:
        messages = question()
        await model.run(messages, [work], {"parallel_calls": 3})
        assert most == 3
        assert [message["content"] for message in messages[2:-1]] == [str(number) for number in range(7)]


async def test_functions_that_block_do_not_hold_up_the_loop() -> None:
    """They run on threads of their own, with the caller's context variables."""
    variable = contextvars.ContextVar[str]("variable")
    variable.set("mine")
    both = threading.Barrier(2)

    def block(x: int) -> str:
        """Waits for the other."""
        both.wait(20)
        return f"{variable.get()} {threading.current_thread() is not threading.main_thread()}"

    async with chats([call("block", x=1), call("block", x=2)], "done") as model:
        messages = question()
        await model.run(messages, [block])
        assert [message["content"] for message in messages[2:4]] == ["mine True"] * 2


async def test_a_function_may_return_what_is_awaited() -> None:
    """A wrapper that is no coroutine function itself."""
    wrapped: Any = lambda x, y: add(x, y)  # noqa: E731  # no coroutine function
    wrapped.__name__, wrapped.__annotations__ = "add", {"x": int, "y": int}
    async with chats([call("add", x=1, y=2)], "3") as model:
        messages = question()
        await model.run(messages, [wrapped])
        assert messages[2]["content"] == "3"


async def test_a_call_that_takes_too_long_is_cancelled_and_told() -> None:
    """Each has its own time; one on a thread is left there."""
    ended, gate = [], threading.Event()

    async def hang(x: int) -> None:
        """Never ends."""
        try:
            await anyio.sleep_forever()
        finally:
            ended.append(x)

    def block(x: int) -> None:
        """Never ends either, as far as the run can tell."""
        gate.wait(20)

    async with chats([call("hang", x=1), call("block", x=1), call("double", x=1)], "sorry") as model:
        messages = question()
        result = await model.run(messages, [hang, block, double], {"tool_timeout": 0.05})
        gate.set()
        assert ended == [1]
        assert [json.loads(message["content"]) for message in messages[2:5]] == [
            {"error": "it was cancelled after 0.05 seconds"}, {"error": "it was cancelled after 0.05 seconds"},
            {"twice": 2},
        ]  # fmt: skip
        assert result.reply == "sorry"


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
            given = {"tool_choice": choice}
            run = model.run(question(), [double])
            run._given = {**run._given}
            run._check = lambda: None  # type: ignore[method-assign]  # whether there is such an option yet
            run._given |= given
            await run
            asked = [given.get("tool_choice") for _, given in model.asked]
            assert asked[0] == choice
            assert set(asked[1:]) == later


@pytest.mark.parametrize("reads", [False, True])
async def test_a_model_that_crashes_is_asked_again(reads: bool) -> None:
    """What had come of the reply counts for nothing; after three times in a row the run fails."""
    crash = ModelCrashed("m", "a drill")
    for replies, fails in (((crash, crash, "done"), False), ((crash,), True), ((ModelCrashed("m", "", True),), True)):
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
            assert len(model.asked) == (1 if replies[0].gave_up else 3)
            assert attempts == (list(range(1, len(model.asked) + 1)) if reads else [])


async def test_a_deadline_is_for_the_whole_run() -> None:
    """Calls under way are cancelled and stay open; what is there stays."""

    async def hang(x: int) -> None:
        """Never ends."""
        await anyio.sleep_forever()

    async with chats([call("double", x=1), call("hang", x=1)], "never") as model:
        messages = question()
        result = await model.run(messages, [double, hang], deadline=0.1)
        assert result.ended == "deadline"
        assert [one.name for one in result.open_calls] == ["hang"]
        assert said(messages)[2:] == [("tool", '{"twice":2}')]
        assert 0.0 < model.asked[0][1]["deadline"] <= 0.1
        assert (await model.run(messages, [double, hang], deadline=1e-9)).ended == "deadline"


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


def _named(function: Any, ran: list[int]) -> Any:
    async def work(x: int) -> int:
        """Works."""
        return int(await function(x, ran))

    return work


async def _awaited(run: Any) -> erllama.ToolRunResult:
    result: erllama.ToolRunResult = await run
    return result


@pytest.mark.parametrize(
    ("limits", "option"),
    [
        ({"max_rounds": 0}, "max_rounds"),
        ({"max_rounds": True}, "max_rounds"),
        ({"max_rounds": 10_001}, "max_rounds"),
        ({"tool_timeout": 0.0}, "tool_timeout"),
        ({"tool_timeout": "1"}, "tool_timeout"),
        ({"parallel_calls": 0}, "parallel_calls"),
        ({"parallel_calls": 1025}, "parallel_calls"),
        ({"max_result_characters": 0}, "max_result_characters"),
        ({"max_result_characters": None}, "max_result_characters"),
    ],
)
async def test_bad_limits_are_refused_by_name(limits: dict[str, Any], option: str) -> None:
    """Before anything is asked or carried out."""
    async with chats("never") as model:
        with pytest.raises(InvalidOption) as caught:
            await model.run([*question(), {"role": "assistant", "tool_calls": [{}]}], [double], limits)
        assert caught.value.option == option


@pytest.mark.parametrize(
    ("messages", "given", "option"),
    [
        ((), {}, "messages"),
        ("hello", {}, "messages"),
        ([], {"tools": None}, "tools"),
        ([], {"tools": []}, "tools"),
        ([], {"n": 2}, "n"),
        ([], {"temperature": -1.0}, "temperature"),
        ([], {"limits": 1}, "limits"),
        ([], {"continue_final_message": True}, "continue_final_message"),
    ],
)
async def test_bad_options_are_refused_by_name(messages: Any, given: dict[str, Any], option: str) -> None:
    """Before anything is asked or carried out."""
    async with chats("never") as model:
        with pytest.raises(InvalidOption) as caught:
            await model.model.run_tools(messages, options={"tools": [double], **given})  # type: ignore[arg-type]  # slips
        assert caught.value.option == option
        assert model.asked == []


async def test_a_run_is_carried_out_once() -> None:
    """And is read inside its block."""
    async with chats("done") as model:
        run = model.run(question(), [double])
        for misuse in (run.cancel, lambda: aiter(run), lambda: run.result):
            with pytest.raises(StreamMisused):
                misuse()
        await run
        with pytest.raises(StreamMisused):
            await run
        with pytest.raises(StreamMisused):
            async with run:
                pass
        async with model.run(question(), [double]) as other:
            with pytest.raises(StreamMisused):
                _ = other.result
            with pytest.raises(StreamMisused):
                await other


async def test_an_error_of_the_model_ends_the_run() -> None:
    """Its reader gets it; one that leaves without waiting does not."""
    error = erllama.ContextOverflow("too long", 9, 8)
    async with chats(error) as model:
        with pytest.raises(erllama.ContextOverflow):
            await model.run(question(), [double])
        async with model.run(question(), [double]) as run:
            assert await anext(run) == erllama.RoundStarted(1)
            with pytest.raises(erllama.ContextOverflow):
                await anext(run)
            with pytest.raises(erllama.ContextOverflow):
                _ = run.result
        async with model.run(question(), [double]):
            await anyio.lowlevel.checkpoint()
