"""Replies that think and call: their items, their events, and the turns that go on from them."""

from __future__ import annotations

from typing import Any

import pytest
from helpers.open_responses import check, read_stream, text_of
from helpers.scripted import Script
from helpers.served import Served, served
from helpers.stateless import CONTROLS, SIX, TEMPLATE, call, thought

PATH = "/v1/responses"
WEATHER: dict[str, Any] = {
    "type": "function", "name": "weather", "description": "Of a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}},
}  # fmt: skip
ASK: dict[str, Any] = {"model": "tiny", "input": "question 1?", "tools": [WEATHER], "max_output_tokens": 300}
ROOM: Any = {"context_opts": {"n_ctx": 8192, "n_seq_max": 4}}


def script(*replies: Any) -> Script:
    """A model that thinks between markers, and calls in the form of the Hermes models."""
    return Script(*replies, controls=CONTROLS, template=TEMPLATE)


def kinds(response: Any) -> list[str]:
    """The types of its items."""
    return [item["type"] for item in response["output"]]


def results(response: Any) -> list[dict[str, Any]]:
    """What the functions that it calls give."""
    return [
        {"type": "function_call_output", "call_id": item["call_id"], "output": item["arguments"]}
        for item in response["output"]
        if item["type"] == "function_call"
    ]


async def post(at: Served, **change: Any) -> Any:
    """One answer, which is what the specification says."""
    answer = await at.client.post(PATH, json=ASK | change)
    assert answer.status_code == 200, answer.text
    return check(answer.json())


@pytest.mark.anyio
async def test_what_is_thought_said_and_called_are_items() -> None:
    """In their order; what was thought is counted."""
    async with served(ROOM, script=script(thought("Two.", f"I look.\n{call('Rome', 2)}\n{call('Bern', 3)}"))) as at:
        answer = await post(at)
        assert kinds(answer) == ["reasoning", "message", "function_call", "function_call"]
        reasoning, message, rome, _ = answer["output"]
        assert reasoning["content"] == [{"type": "reasoning_text", "text": "Two."}]
        assert reasoning["summary"] == []
        assert message["content"][0]["text"].strip() == "I look."
        assert (rome["name"], rome["arguments"], rome["status"]) == (
            "weather", '{"city": "Rome", "days": 2}', "completed",
        )  # fmt: skip
        told = answer["usage"]["output_tokens_details"]["reasoning_tokens"]
        assert len("Two.") < told < answer["usage"]["output_tokens"]  # tokens are bytes; markers are of it


@pytest.mark.anyio
@pytest.mark.parametrize("summary", [None, "auto"])
async def test_the_same_items_come_in_a_stream(summary: str | None) -> None:
    """Thinking as it is written, as a summary where one is asked for; arguments in pieces."""
    asked = {"stream": True, "reasoning": {"summary": summary}}
    async with served(ROOM, script=script(thought("Hm, so.", f"I look.\n{call('Rome', 2)}"))) as at:
        events = read_stream((await at.client.post(PATH, json=ASK | asked)).text)
        answer = check(events[-1]["response"])
        assert kinds(answer) == ["reasoning", "message", "function_call"]
        thinking = {"reasoning": "content", "reasoning_summary_text": "summary"}
        name = "reasoning_summary_text" if summary else "reasoning"
        deltas = [one["delta"] for one in events if one["type"] == f"response.{name}.delta"]
        assert "".join(deltas) == "Hm, so."
        assert len(deltas) > 1
        assert answer["output"][0][thinking[name]][0]["text"] == "Hm, so."
        pieces = [one["delta"] for one in events if one["type"] == "response.function_call_arguments.delta"]
        assert "".join(pieces) == answer["output"][2]["arguments"]
        assert len(pieces) > 1


def sent_back(answer: Any, how: str) -> list[Any]:
    """An answer's items as clients send them: as they came, or without what is not theirs."""
    if how == "whole":
        return list(answer["output"])
    dropped = ("id", "status")
    return [
        {name: value for name, value in item.items() if name not in dropped}
        for item in answer["output"]
        if item["type"] != "reasoning"
    ]


@pytest.mark.slow
@pytest.mark.anyio
@pytest.mark.parametrize("how", ["by id", "whole", "bare"])
async def test_an_agent_computes_its_own_tokens_only(how: str) -> None:
    """Six turns of calls, results and questions, whichever way the client keeps them: by ids or as items, with what
    was thought or without. Nothing that was read or sampled is computed again, but for what was in no cell."""
    async with served(ROOM, script=script(*SIX)) as at:
        history = list[Any]()
        answer: Any = None
        for number in range(1, len(SIX) + 1):
            new = results(answer) if answer else []
            new = new or [{"role": "user", "content": f"question {number}?"}]
            given: dict[str, Any] = {"temperature": 0, "input": new}
            if how == "by id":
                given["previous_response_id"] = answer["id"] if answer else None
            else:
                history += sent_back(answer, how) if answer else []
                history += new
                given["input"] = history
            before, answer = answer, await post(at, **given)
            if before is not None:
                told = answer["usage"]["input_tokens_details"]
                assert told["cached_tokens"] >= before["usage"]["total_tokens"] - 1, number
        assert text_of(answer) == "You are welcome!"


@pytest.mark.anyio
async def test_thinking_is_kept_for_clients_without_state() -> None:
    """Signed, so that what comes back is what the model thought; another text is refused."""
    asked: dict[str, Any] = {"include": ["reasoning.encrypted_content"], "store": False}
    says = script(*SIX)
    async with served(ROOM, script=says) as at:
        answer = await post(at, **asked)
        assert answer["store"] is False
        assert (await at.client.get(f"{PATH}/{answer['id']}")).status_code == 404
        reasoning = dict(answer["output"][0])
        sealed = reasoning["encrypted_content"]
        history = [{"role": "user", "content": "question 1?"}, {**reasoning, "content": None}, *answer["output"][1:]]
        await post(at, **asked, input=[*history, *results(answer)])
        assert "Which city?" in says.prompts[-1]
        forged = [{**reasoning, "encrypted_content": sealed[:-8] + "AAAAAAA="}]
        refused = await at.client.post(PATH, json=ASK | {"input": [*forged, {"role": "user", "content": "?"}]})
        assert refused.status_code == 400
        assert refused.json()["error"]["code"] == "invalid_encrypted_content"


@pytest.mark.anyio
async def test_a_part_of_an_answer_can_be_named() -> None:
    """An item of a stored answer by its id alone, as clients do that send references."""
    async with served(ROOM, script=script(*SIX)) as at:
        answer = await post(at)
        items = [{"role": "user", "content": "question 1?"}]
        items += [{"type": "item_reference", "id": item["id"]} for item in answer["output"]]
        again = await post(at, input=[*items, *results(answer)])
        assert text_of(again) == "It is cold in Oslo."
        told = again["usage"]["input_tokens_details"]
        assert told["cached_tokens"] >= answer["usage"]["total_tokens"] - 1


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("none", ["message"]),
        ("required", ["function_call"]),
        ({"type": "function", "name": "weather"}, ["function_call"]),
        ({"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "weather"}]}, ["message"]),
        (
            {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "weather"}]},
            ["function_call"],
        ),
    ],
)
async def test_tools_are_chosen(choice: Any, expected: list[str]) -> None:
    """By a word, by name, or some of them."""
    reply = call("Rome", 2) if expected == ["function_call"] else "Nothing to call."
    async with served(ROOM, script=script(reply)) as at:
        answer = await post(at, tool_choice=choice)
        assert kinds(answer) == expected
        assert answer["tool_choice"] == choice


@pytest.mark.anyio
async def test_effort_turns_thinking_off_where_the_model_has_a_switch() -> None:
    """And is no error where it has none."""
    says = script("yes")
    async with served(ROOM, script=says) as at:
        await post(at, reasoning={"effort": "none"})
        assert says.prompts[-1].endswith("<think>\n\n</think>\n\n")
        answer = await post(at, reasoning={"effort": "minimal"})
        assert not says.prompts[-1].endswith("</think>\n\n")
        assert answer["reasoning"]["effort"] == "low"
    async with served() as at:
        answer = check((await at.client.post(PATH, json=ASK | {"reasoning": {"effort": "high"}})).json())
        assert answer["reasoning"]["effort"] == "high"


@pytest.mark.anyio
async def test_a_reply_of_white_space_is_an_empty_message() -> None:
    """An answer has at least one item."""
    async with served(ROOM, script=script("\n\n")) as at:
        answer = await post(at)
        assert kinds(answer) == ["message"]
        assert text_of(answer) == ""
        events = read_stream((await at.client.post(PATH, json=ASK | {"stream": True})).text)
        assert kinds(events[-1]["response"]) == ["message"]
