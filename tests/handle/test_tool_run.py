"""The loop of `run_tools`, step by step; the model's replies are given."""

from __future__ import annotations

import asyncio
import contextvars
import dataclasses
import json
import threading
from typing import Any

import anyio
import pytest
from helpers.chats import call, chats, double, question, said
from helpers.runtime import until

import erllama_py as erllama
from erllama_py.errors import InvalidOption, StreamMisused

pytestmark = pytest.mark.anyio


async def add(x: int, y: int) -> int:
    """Adds."""
    return x + y


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


async def leaves(x: int) -> None:
    """Ends the process, as argument parsers do."""
    raise SystemExit(2)


class Odd(BaseException):
    """No `Exception`."""


async def odd(x: int) -> None:
    """Raises what few catch."""
    raise Odd(x)


class Unsaid(Exception):
    """Has no text."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


@dataclasses.dataclass
class Picky:
    """A type that takes nothing, and does not say why."""

    y: int

    def __post_init__(self) -> None:
        raise Unsaid


def picky(x: Picky) -> None:
    """Never runs."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("made", "problem"),
    [
        (call("wrong", x=1), "KeyError: ('nothing there', 1)"),
        (call("cancels", x=1), "CancelledError"),
        (call("nothing", x=1), "TypeError: object has no JSON form"),
        (call("stops", x=1), "StopIteration"),
        (call("leaves", x=1), "SystemExit: 2"),
        (call("odd", x=1), "Odd: 1"),
        (call("picky", x={"y": 1}), "the argument 'x' is refused: Unsaid"),
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
        async with model.run(messages, [wrong, cancels, nothing, stops, leaves, odd, picky]) as run:
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

    async with chats([call("hang", x=1), call("block", x=1)], "sorry") as model:
        messages = question()
        result = await model.run(messages, [hang, block], {"tool_timeout": 0.05})
        gate.set()
        assert ended == [1]
        assert errors_in(messages) == ["it was cancelled after 0.05 seconds"] * 2
        assert result.reply == "sorry"


ASKED_ONCE = {"role": "assistant", "tool_calls": [{"id": "a", "function": {"name": "double", "arguments": "{}"}}]}


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
        ([ASKED_ONCE, {"role": "tool", "tool_call_id": "zz", "content": "4"}], {}, "messages"),
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
