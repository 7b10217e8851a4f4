"""OpenAI's own client: what it makes of the answers, the streams, the errors."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import openai
import pytest
from helpers.scripted import Reply, Script
from helpers.served import served
from helpers.stateless import CONTROLS, SIX, TEMPLATE, call, thought
from openai import AsyncOpenAI
from openai.types.responses import Response, ResponseFunctionToolCall, ResponseReasoningItem
from pydantic import BaseModel

ROOM: Any = {"context_opts": {"n_ctx": 8192, "n_seq_max": 4}}
WEATHER: Any = {
    "type": "function", "name": "weather", "description": "Of a city.", "strict": False,
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}},
}  # fmt: skip
ASK: Any = {"model": "tiny", "max_output_tokens": 300, "temperature": 0}


class Verdict(BaseModel):
    """What the model is to say."""

    ok: bool


@asynccontextmanager
async def sdk(*replies: Reply) -> AsyncIterator[AsyncOpenAI]:
    """The client of an application whose model says these."""
    script = Script(*replies, controls=CONTROLS, template=TEMPLATE) if replies else None
    async with served(ROOM, script=script) as at:
        http: Any = at.client  # its types name a fork of httpx, with the same calls
        yield AsyncOpenAI(base_url="http://localhost/v1", api_key="x", http_client=http, max_retries=0)


@pytest.mark.slow
@pytest.mark.anyio
async def test_answers_are_what_its_types_say() -> None:
    """Made, shown, continued, forgotten."""
    async with sdk(*SIX) as client:
        first = await client.responses.create(**ASK, input="question 1?", tools=[WEATHER])
        Response.model_validate(first.model_dump(), strict=True)
        thinking, asked = first.output
        assert isinstance(thinking, ResponseReasoningItem)
        assert isinstance(asked, ResponseFunctionToolCall)
        shown = await client.responses.retrieve(first.id)
        assert shown == first
        result: Any = {"type": "function_call_output", "call_id": asked.call_id, "output": "3 °C"}
        second = await client.responses.create(
            **ASK, input=[result], previous_response_id=first.id, tools=[WEATHER]
        )  # fmt: skip
        assert second.output_text == "It is cold in Oslo."
        assert second.usage is not None
        assert first.usage is not None
        assert second.usage.input_tokens_details.cached_tokens >= first.usage.total_tokens - 1
        listed = await client.responses.input_items.list(second.id)
        assert [item.type async for item in listed] == ["function_call_output"]
        counted = await client.responses.input_tokens.count(model="tiny", input="question 1?", tools=[WEATHER])
        assert counted.input_tokens == first.usage.input_tokens
        await client.responses.delete(first.id)
        with pytest.raises(openai.NotFoundError):
            await client.responses.retrieve(first.id)


@pytest.mark.slow
@pytest.mark.anyio
async def test_its_streams_come_to_the_same() -> None:
    """Its own account of the deltas is the answer."""
    async with sdk(thought("Hm.", f"I look.\n{call('Rome', 2)}")) as client:
        asked: Any = {"input": "weather?", "tools": [WEATHER], "reasoning": {"summary": "auto"}}
        kinds, texts = list[str](), list[str]()
        async with client.responses.stream(**ASK, **asked) as stream:
            async for event in stream:
                kinds.append(event.type)
                if event.type == "response.reasoning_summary_text.delta":
                    texts.append(event.delta)
            final = await stream.get_final_response()
        assert "".join(texts) == "Hm."
        assert kinds.count("response.output_item.done") == len(final.output) == 3
        assert final.status == "completed"
        assert final.output_text.strip() == "I look."


@pytest.mark.anyio
async def test_a_type_is_filled() -> None:
    """As its `parse` asks for it, whole and as a stream."""
    async with sdk() as client:
        parsed = await client.responses.parse(**ASK, input="is it?", text_format=Verdict)
        assert isinstance(parsed.output_parsed, Verdict)
        async with client.responses.stream(**ASK, input="is it?", text_format=Verdict) as stream:
            final = await stream.get_final_response()
        assert isinstance(final.output_parsed, Verdict)


@pytest.mark.slow
@pytest.mark.anyio
async def test_conversations_are_compacted() -> None:
    """And go on from what they have become."""
    async with sdk("Noted.", "Launch: Tuesday.", "It is on Tuesday.") as client:
        first = await client.responses.create(**ASK, input="launch on Tuesday")
        compacted = await client.responses.compact(model="tiny", previous_response_id=first.id)
        items: list[Any] = [item.to_dict(warnings=False) for item in compacted.output]
        again = await client.responses.create(**ASK, input=[*items, {"role": "user", "content": "so?"}])
        assert again.output_text == "It is on Tuesday."


@pytest.mark.anyio
async def test_its_errors_are_the_right_ones() -> None:
    """By their classes, with the code and the field."""
    async with sdk() as client:
        with pytest.raises(openai.BadRequestError) as bad:
            await client.responses.create(**ASK, input="x", previous_response_id="resp_1")
        assert (bad.value.code, bad.value.param) == ("previous_response_not_found", "previous_response_id")
        with pytest.raises(openai.NotFoundError) as missing:
            await client.responses.create(model="other", input="x")
        assert missing.value.code == "model_not_found"
        with pytest.raises(openai.BadRequestError):
            await client.responses.create(model="tiny", input="x", background=True)
