"""`/v1/chat/completions` as OpenAI's clients see it."""

from __future__ import annotations

from typing import Any

import pytest
from helpers.served import events, served
from openai.types.chat import ChatCompletion, ChatCompletionChunk

HELLO = {"role": "user", "content": "hello"}
ASK: dict[str, Any] = {"model": "tiny", "messages": [HELLO], "max_tokens": 8, "temperature": 0}


@pytest.mark.anyio
async def test_a_conversation_is_answered() -> None:
    """With the counts of the engine."""
    async with served() as at:
        answer = await at.client.post("/v1/chat/completions", json=ASK)
        assert answer.status_code == 200
        completion = ChatCompletion.model_validate(answer.json(), strict=True)
        assert completion.choices[0].message.content
        assert completion.usage is not None
        assert completion.usage.completion_tokens == 8
        assert completion.choices[0].finish_reason == "length"


@pytest.mark.anyio
async def test_a_stream_has_the_same_text() -> None:
    """And ends with the usage, where that is asked for."""
    async with served() as at:
        whole = (await at.client.post("/v1/chat/completions", json=ASK)).json()
        more = {"stream": True, "stream_options": {"include_usage": True}}
        answer = await at.client.post("/v1/chat/completions", json=ASK | more)
        *chunks, end = events(answer.text)
        assert end == "[DONE]"
        read = [ChatCompletionChunk.model_validate(chunk, strict=True) for chunk in chunks]
        text = "".join(one.choices[0].delta.content or "" for one in read if one.choices)
        assert text == whole["choices"][0]["message"]["content"]
        assert read[-1].usage is not None
        assert read[-1].usage.completion_tokens == 8


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("change", "status", "param"),
    [
        ({"messages": "hello"}, 400, "messages"),
        ({"messages": [{"role": "user", "content": 3}]}, 400, "messages[0].content"),
        ({"temperature": -1}, 400, "temperature"),
        ({"temperature": "hot"}, 400, "temperature"),
        ({"max_tokens": 0}, 400, "max_tokens"),
        ({"model": "other"}, 404, "model"),
        ({"logit_bias": {"x": 1}}, 400, "logit_bias"),
        ({"response_format": {"type": "yaml"}}, 400, "response_format"),
        ({"stop": [""]}, 400, "stop"),
    ],
)
async def test_what_is_wrong_is_named(change: dict[str, Any], status: int, param: str | None) -> None:
    """In OpenAI's shape, with a sentence and the field."""
    async with served() as at:
        for stream in (False, True):
            answer = await at.client.post("/v1/chat/completions", json=ASK | change | {"stream": stream})
            assert answer.status_code == status
            error = answer.json()["error"]
            assert error["param"] == param
            assert error["message"]
            assert error["type"] == "invalid_request_error"


@pytest.mark.anyio
async def test_models_are_listed() -> None:
    """Each by all its names."""
    async with served(aliases={"gpt": "tiny"}) as at:
        data = (await at.client.get("/v1/models")).json()["data"]
        assert [one["id"] for one in data] == ["tiny", "gpt"]
        assert (await at.client.get("/v1/models/gpt")).json()["id"] == "gpt"
        assert (await at.client.get("/v1/models/nothing")).status_code == 404
        assert (await at.client.get("/v1/nothing")).json()["error"]["code"] == "unknown_endpoint"
