"""`/v1/messages` as Anthropic's own client sees it."""

from __future__ import annotations

import asyncio
from typing import Any

import anthropic
import pytest
from helpers.claude import VERSION, asked, blocks, checked, named_events, says, total
from helpers.claude import client as claude
from helpers.gated import Gated
from helpers.listening import listening
from helpers.runtime import until
from helpers.served import served

HELLO: Any = {"role": "user", "content": "hello"}
RAW: Any = {"model": "tiny", "messages": [HELLO], "max_tokens": 8}
GREEDY: Any = {"temperature": 0.0, "top_k": 40, "top_p": 0.9}  # which newer clients have no arguments for
ASK: Any = RAW | {"extra_body": GREEDY}


@pytest.mark.anyio
async def test_a_conversation_is_answered() -> None:
    """With the counts of the engine."""
    async with asked() as client:
        message = checked((await client.messages.create(**ASK)).model_dump())
        assert message.content[0].type == "text"
        assert message.content[0].text
        assert (message.stop_reason, message.stop_sequence, message.model) == ("max_tokens", None, "tiny")
        usage = message.usage
        assert usage.output_tokens == 8
        assert usage.cache_creation is not None
        count = await client.messages.count_tokens(model="tiny", messages=[HELLO])
        assert total(usage) == count.input_tokens
        assert usage.cache_creation_input_tokens == usage.cache_creation.ephemeral_5m_input_tokens


@pytest.mark.anyio
async def test_a_stream_has_the_same_message() -> None:
    """Its events come together to what a whole answer has."""
    async with asked() as client:
        whole = await client.messages.create(**ASK)
        async with client.messages.stream(**ASK) as stream:
            texts = [text async for text in stream.text_stream]
            final = await stream.get_final_message()
        assert "".join(texts) == whole.content[0].text
        assert blocks(final) == blocks(whole)
        assert (final.stop_reason, final.usage.output_tokens) == ("max_tokens", 8)
        assert total(final.usage) == total(whole.usage)
        assert final.usage.cache_read_input_tokens
        assert final.usage.cache_creation is None  # the SDK has it of the start, where it is not known


@pytest.mark.anyio
async def test_the_events_have_their_order() -> None:
    """And each is named as its type."""
    async with served() as at:
        answer = await at.client.post("/v1/messages", json=RAW | GREEDY | {"stream": True}, headers=VERSION)
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["request-id"].startswith("req_")
        kinds = [one.type for one in named_events(answer.text)]
        assert kinds[:2] == ["message_start", "content_block_start"]
        assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]
        assert set(kinds[2:-3]) == {"content_block_delta"}


@pytest.mark.slow
@pytest.mark.anyio
@pytest.mark.parametrize(
    ("change", "status", "at"),
    [
        ({"messages": "hello"}, 400, "messages"),
        ({"messages": [{"role": "user", "content": 3}]}, 400, "messages[0].content"),
        ({"messages": [{"role": "tool", "content": "x"}]}, 400, "messages[0].role"),
        ({"messages": [{"role": "user", "content": [{"type": "smell"}]}]}, 400, "messages[0].content[0].type"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, 400, "messages[0].content[0]"),
        ({"messages": []}, 400, "there are no messages"),
        ({"max_tokens": None}, 400, "max_tokens"),
        ({"max_tokens": -1}, 400, "max_tokens"),
        ({"temperature": -1}, 400, "temperature"),
        ({"temperature": "hot"}, 400, "temperature"),
        ({"top_p": 2}, 400, "top_p"),
        ({"model": "other"}, 404, "model"),
        ({"stop_sequences": [""]}, 400, "stop_sequences"),
        ({"thinking": {"type": "deep"}}, 400, "thinking.type"),
        ({"thinking": {"type": "enabled"}}, 400, "thinking"),
        ({"tools": [{"name": "f"}]}, 400, "tools[0].input_schema"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, 400, "tools[0].type"),
        ({"tools": [{"name": "a b", "input_schema": {}}]}, 400, "tools"),
        ({"output_config": {"format": {"type": "yaml", "schema": {}}}}, 400, "output_config.format.type"),
        ({"output_config": {"format": {"type": "json_schema", "schema": {"not": {}}}}}, 400, "not"),
        ({"system": 3}, 400, "system"),
        ({"system": [{"type": "text", "text": "x", "cache_control": {"type": "for ever"}}]}, 400, "cache_control"),
        ({"cache_control": {"type": "ephemeral", "ttl": "1d"}}, 400, "cache_control.ttl"),
        ({"max_tokens": 0, "stream": True}, 400, "max_tokens"),
    ],
)
async def test_what_is_wrong_is_named(change: dict[str, Any], status: int, at: str) -> None:
    """In Anthropic's shape, with the field; before a stream has begun too."""
    async with served() as at_:
        for stream in (False, True):
            answer = await at_.client.post(
                "/v1/messages", json=RAW | GREEDY | {"stream": stream} | change, headers=VERSION
            )
            assert answer.status_code == status
            body = answer.json()
            assert body["type"] == "error"
            assert body["request_id"] == answer.headers["request-id"]
            kinds = {400: "invalid_request_error", 404: "not_found_error"}
            assert body["error"]["type"] == kinds[status]
            assert at in body["error"]["message"]


@pytest.mark.anyio
async def test_errors_are_the_classes_of_the_client() -> None:
    """Which it retries or not by them."""
    async with asked() as client:
        with pytest.raises(anthropic.NotFoundError) as caught:
            await client.messages.create(**ASK | {"model": "other"})
        assert caught.value.type == "not_found_error"
        assert caught.value.request_id is not None
        with pytest.raises(anthropic.BadRequestError, match="context"):
            await client.messages.create(**ASK | {"messages": [{"role": "user", "content": "x" * 3000}]})
    async with served(settings={"max_open": 1}) as at, claude(at.app) as client:
        with at.app.service.open.one(lambda: None), pytest.raises(anthropic.OverloadedError) as busy:
            await client.messages.create(**ASK)
        assert (busy.value.status_code, busy.value.type) == (529, "overloaded_error")
        assert busy.value.response.headers["retry-after"] == "1"
    async with asked(settings={"max_body_bytes": 100}) as client:
        with pytest.raises(anthropic.ContentTooLargeError):
            await client.messages.create(**ASK | {"messages": [{"role": "user", "content": "x" * 300}]})


@pytest.mark.anyio
async def test_a_stream_that_fails_says_so() -> None:
    """By an event that the client raises."""
    async with asked({"stub": {"fail_decode_after": 3}}) as client:
        with pytest.raises(anthropic.APIStatusError) as caught:
            async with client.messages.stream(**ASK) as stream:
                await stream.get_final_message()
        assert caught.value.type == "api_error"


@pytest.mark.anyio
async def test_a_stop_sequence_is_told() -> None:
    """As the reason and by itself."""
    async with says("one, two, three") as (client, _, _model):
        ask = {"model": "m", "messages": [HELLO], "max_tokens": 99}
        message = await client.messages.create(**ask, stop_sequences=[", th", "x"])
        assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", ", th")
        assert message.content[0].text == "one, two"
        assert (await client.messages.create(**ask)).stop_reason == "end_turn"
        async with client.messages.stream(**ask, stop_sequences=["two"]) as stream:
            final = await stream.get_final_message()
        assert (final.stop_reason, final.stop_sequence, final.content[0].text) == ("stop_sequence", "two", "one, ")


@pytest.mark.anyio
async def test_the_end_of_the_context_is_told() -> None:
    """It is no fault of `max_tokens`."""
    async with asked({"context_opts": {"n_ctx": 64}}) as client:
        message = await client.messages.create(**ASK | {"max_tokens": 4096})
        assert message.stop_reason == "model_context_window_exceeded"
    async with asked({"context_opts": {"n_ctx": 64}}, settings={"max_response_tokens": 3}) as client:
        message = await client.messages.create(**ASK | {"max_tokens": 4096})
        assert (message.stop_reason, message.usage.output_tokens) == ("max_tokens", 3)


@pytest.mark.anyio
async def test_an_answer_goes_on_from_its_beginning() -> None:
    """Where the last message is the assistant's."""
    async with says(" Rhine.") as (client, script, _):
        begun = [HELLO, {"role": "assistant", "content": "The"}]
        message = await client.messages.create(model="m", messages=begun, max_tokens=99)
        assert message.content[0].text == " Rhine."
        assert script.prompts[0].endswith("The")


@pytest.mark.anyio
async def test_an_empty_answer_has_no_blocks() -> None:
    """As Anthropic's own."""
    async with says("") as (client, _, _model):
        message = await client.messages.create(model="m", messages=[HELLO], max_tokens=9)
        assert (message.content, message.stop_reason) == ([], "end_turn")
        async with client.messages.stream(model="m", messages=[HELLO], max_tokens=9) as stream:
            assert (await stream.get_final_message()).content == []


@pytest.mark.anyio
async def test_no_tokens_prepare_the_prompt() -> None:
    """The request after it reads it from the cache."""
    long: Any = [{"role": "user", "content": "abcdefgh" * 100}]
    async with asked() as client:
        message = checked((await client.messages.create(model="tiny", messages=long, max_tokens=0)).model_dump())
        assert (message.content, message.stop_reason, message.usage.output_tokens) == ([], "max_tokens", 0)
        assert message.usage.cache_creation_input_tokens
        again = await client.messages.create(model="tiny", messages=long, max_tokens=1)
        assert again.usage.cache_read_input_tokens
        assert again.usage.cache_read_input_tokens > 700


@pytest.mark.anyio
async def test_what_nobody_knows_is_ignored() -> None:
    """Betas, and fields of services that there are none of here."""
    body = RAW | {
        "metadata": {"user_id": "x"}, "service_tier": "auto", "container": None, "speed": "fast",
        "context_management": {"edits": []}, "mcp_servers": [], "output_config": {"effort": "high"},
        "betas": ["a", "b"], "diagnostics": {"previous_message_id": None}, "brand_new": {"x": [1]},
    }  # fmt: skip
    body["messages"] = [{"role": "user", "content": [{"type": "text", "text": "x", "citations": None, "new": 1}]}]
    async with served() as at:
        for path in ("/v1/messages?beta=true", "/v1/messages/count_tokens?beta=true"):
            headers = VERSION | {"anthropic-beta": "a-2025,b-2026", "x-api-key": "any", "x-app": "cli"}
            assert (await at.client.post(path, json=body, headers=headers)).status_code == 200


@pytest.mark.anyio
async def test_images_are_refused_unless_the_server_tells_of_them() -> None:
    """With their place, wherever they are."""
    source = {"type": "base64", "media_type": "image/png", "data": "AAAA"}
    messages: Any = [
        {"role": "user", "content": [{"type": "text", "text": "see"}, {"type": "image", "source": source}]}
    ]
    async with asked() as client:
        with pytest.raises(anthropic.BadRequestError, match=r"messages\[0\].content\[1\]: this model cannot see"):
            await client.messages.create(**ASK | {"messages": messages})
    async with says("I see", settings={"images": "note"}) as (client, script, _):
        await client.messages.create(model="m", messages=messages, max_tokens=9)
        assert "Here was an image" in script.prompts[0]


@pytest.mark.slow
@pytest.mark.anyio
async def test_a_client_that_leaves_ends_its_request() -> None:
    """Through a real socket, in the middle of a stream and of a whole answer."""
    long, gate = ASK | {"max_tokens": 2000}, Gated()
    gate.shut_after = 5  # a reply could be over in no time
    gate.gate.set()
    async with (
        served(make=gate.make) as at,
        listening(at.app) as address,
        anthropic.AsyncAnthropic(base_url=address, api_key="any", max_retries=0) as client,
    ):
        async with client.messages.stream(**long) as stream:
            await stream.__anext__()
            assert len(at.app.service.open) == 1
        await until(lambda: len(at.app.service.open) == 0 and at.model.queue_depth == 0)
        asking = asyncio.ensure_future(client.messages.create(**long))
        await until(lambda: at.model.queue_depth == 1)
        asking.cancel()
        await until(lambda: len(at.app.service.open) == 0 and at.model.queue_depth == 0)


@pytest.mark.anyio
async def test_nothing_said_in_words() -> None:
    """Clients in languages whose structures have no missing fields send `null` for each of them."""
    tool = {"name": "f", "input_schema": {"type": "object"}, "description": None, "strict": None, "cache_control": None}
    control = {"type": "ephemeral", "ttl": None}
    turns = [
        {"role": "user", "content": [{"type": "text", "text": "a", "cache_control": control, "citations": None}]},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "b", "signature": None},
                {"type": "redacted_thinking", "data": None},
                {"type": "tool_use", "id": "c", "name": "f", "input": None, "cache_control": None},
            ],
        },
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c", "content": None, "is_error": None}]},
    ]
    body: dict[str, Any] = {"model": "tiny", "max_tokens": 2, "messages": turns, "tools": [tool]}
    body["tool_choice"] = {"type": "auto", "disable_parallel_tool_use": None}
    nothing = ("system", "thinking", "output_config", "stop_sequences", "temperature", "top_p", "top_k", "stream")
    async with served() as at:
        answer = await at.client.post("/v1/messages", json=body | dict.fromkeys(nothing))
        assert answer.status_code == 200, answer.text
