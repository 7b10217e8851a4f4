"""`/api/chat` as Ollama's clients see it."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from helpers.served import lines, served, served_script
from ollama import ChatResponse

import erllama_py as erllama
from erllama_py.serve.core.problems import Problem
from erllama_py.serve.ollama.lines import LineWriter, Reply, chat_shape

HELLO = {"role": "user", "content": "hello"}
ASK: dict[str, Any] = {"model": "tiny", "messages": [HELLO], "options": {"num_predict": 8, "temperature": 0}}
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a town.",
        "parameters": {"type": "object", "properties": {"town": {"type": "string"}}, "required": ["town"]},
    },
}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"town": "Oslo"}}\n</tool_call>'


@pytest.mark.anyio
async def test_a_conversation_is_answered() -> None:
    """Streamed unless told not to; with the counts of the engine, and times that fit into each other."""
    async with served() as at:
        whole = (await at.client.post("/api/chat", json=ASK | {"stream": False})).json()
        told = ChatResponse.model_validate(whole)
        assert (told.done, told.done_reason, told.eval_count) == (True, "length", 8)
        assert told.message.role == "assistant"
        assert told.prompt_eval_count is not None
        parts = (told.load_duration or 0) + (told.prompt_eval_duration or 0) + (told.eval_duration or 0)
        assert 0 < parts <= (told.total_duration or 0)
        answer = await at.client.post("/api/chat", json=ASK)
        assert answer.headers["content-type"] == "application/x-ndjson"
        *pieces, last = [ChatResponse.model_validate(one) for one in lines(answer.text)]
        assert "".join(one.message.content or "" for one in pieces) == told.message.content
        assert not any(one.done for one in pieces)
        assert (last.done, last.done_reason, last.eval_count) == (True, "length", 8)
        assert all(one.model == "tiny" and one.created_at for one in [*pieces, last])


@pytest.mark.anyio
async def test_what_was_cached_is_told() -> None:
    """In the prompt's count too, which is the whole prompt."""
    async with served() as at:
        first, again = [(await at.client.post("/api/chat", json=ASK | {"stream": False})).json() for _ in range(2)]
        assert first["prompt_eval_cached_count"] == 0
        assert 0 < again["prompt_eval_cached_count"] <= again["prompt_eval_count"] == first["prompt_eval_count"]


@pytest.mark.anyio
async def test_without_messages_the_model_is_there() -> None:
    """As clients warm it up, with whatever time to keep it."""
    async with served() as at:
        empty: list[dict[str, Any]] = [
            {},
            {"messages": []},
            {"keep_alive": "5m"},
            {"keep_alive": -1},
            {"keep_alive": 0},
        ]
        for more in empty:
            told = (await at.client.post("/api/chat", json={"model": "tiny"} | more)).json()
            assert (told["done"], told["done_reason"], told["message"]["content"]) == (True, "load", "")


@pytest.mark.anyio
async def test_tools_are_called_with_objects() -> None:
    """The call stands in a line of its own; its result comes back by the name of its tool."""
    async with served_script(CALL, "It is sunny.") as at:
        ask = ASK | {"tools": [WEATHER], "options": {}}
        (piece, last) = lines((await at.client.post("/api/chat", json=ask)).text)
        (called,) = piece["message"]["tool_calls"]
        assert called["function"] == {"index": 0, "name": "weather", "arguments": {"town": "Oslo"}}
        assert called["id"]
        assert last["done_reason"] == "stop"
        reply = ChatResponse.model_validate(piece).message.model_dump()  # the client drops what it does not know
        messages = [HELLO, reply, {"role": "tool", "content": "sun", "tool_name": "weather"}]
        told = (await at.client.post("/api/chat", json=ask | {"messages": messages, "stream": False})).json()
        assert told["message"]["content"] == "It is sunny."
        assert "sun<|im_end|>" in at.script.prompts[-1]
        assert told["prompt_eval_cached_count"] > 0  # the call is recognised, though its id is lost


@pytest.mark.anyio
async def test_a_model_without_tools_says_so() -> None:
    """Instead of dropping them."""
    plain = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    async with served_script("x", template=plain) as at:
        answer = await at.client.post("/api/chat", json=ASK | {"tools": [WEATHER]})
        assert answer.status_code == 400
        assert "does not support tools" in answer.json()["error"]


@pytest.mark.anyio
@pytest.mark.parametrize("stream", [True, False])
async def test_structured_output(stream: bool) -> None:
    """Any object, or one of a schema."""
    schema = {"type": "object", "properties": {"n": {"type": "integer", "maximum": 9}}, "required": ["n"]}
    async with served() as at:
        ask = ASK | {"format": schema, "stream": stream, "options": {"seed": 1, "num_predict": 100}}
        pieces = lines((await at.client.post("/api/chat", json=ask)).text)
        text = "".join(piece["message"]["content"] for piece in pieces)
        assert isinstance(json.loads(text)["n"], int)
        refused = await at.client.post("/api/chat", json=ask | {"format": "yaml"})
        assert (refused.status_code, refused.json()["error"]) == (400, "format: expected 'json' or a JSON schema")


@pytest.mark.anyio
async def test_log_probabilities() -> None:
    """Of each token, in the line that has its text."""
    async with served() as at:
        for stream in (True, False):
            ask = ASK | {"logprobs": True, "top_logprobs": 2, "stream": stream}
            pieces = [
                ChatResponse.model_validate(one) for one in lines((await at.client.post("/api/chat", json=ask)).text)
            ]
            told = [token for piece in pieces for token in piece.logprobs or ()]
            assert len(told) == 8
            assert all(token.logprob < 0 and len(token.top_logprobs or ()) == 2 for token in told)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"messages": "hello"}, "messages"),
        ({"messages": [{"content": "no role"}]}, "messages[0]"),
        ({"messages": [{"role": "user", "content": 3}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": "x", "images": ["aGk="]}]}, "messages[0].images[0]"),
        ({"options": {"temperature": -1}}, "options.temperature"),
        ({"options": {"temperature": "hot"}}, "options.temperature"),
        ({"options": {"top_p": 0}}, "options.top_p"),
        ({"options": {"num_predict": 1.5}}, "options.num_predict"),
        ({"options": {"stop": [""]}}, "options.stop"),
        ({"options": "none"}, "options"),
        ({"keep_alive": "soon"}, "keep_alive"),
        ({"think": "much"}, "think"),
        ({"think": True}, "think"),
        ({"format": "yaml"}, "format"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"stream": "yes"}, "stream"),
        ({"model": 3}, "model"),
    ],
)
async def test_what_is_wrong_is_named(change: dict[str, Any], field: str) -> None:
    """With status 400 and one sentence, also where a stream was asked for."""
    async with served() as at:
        for stream in (True, False):
            answer = await at.client.post("/api/chat", json=ASK | {"stream": stream} | change)
            assert answer.status_code == 400
            assert field in answer.json()["error"]


@pytest.mark.anyio
@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff"])
async def test_bodies_that_are_none(body: bytes) -> None:
    """They get Ollama's form of an error."""
    async with served() as at:
        answer = await at.client.post("/api/chat", content=body)
        assert answer.status_code == 400
        assert isinstance(answer.json()["error"], str)


@pytest.mark.anyio
async def test_what_is_not_heeded_is_taken() -> None:
    """Options of loading, of other versions, and fields that nobody knows."""
    ignored = {"num_ctx": 4096, "num_gpu": 99, "num_thread": 4, "num_keep": 5, "tfs_z": 1.0, "penalize_newline": True}
    async with served() as at:
        ask = ASK | {"options": ASK["options"] | ignored, "truncate": True, "shift": False, "new": {}, "stream": False}
        assert (await at.client.post("/api/chat", json=ask)).status_code == 200


@pytest.mark.anyio
async def test_a_conversation_that_is_too_long() -> None:
    """It is refused, and never cut in silence."""
    async with served() as at:
        answer = await at.client.post("/api/chat", json=ASK | {"messages": [{"role": "user", "content": "x" * 3000}]})
        assert answer.status_code == 400
        assert "2048" in answer.json()["error"]


@pytest.mark.anyio
async def test_an_encoder_cannot_chat() -> None:
    """Nor be talked to."""
    async with served({"stub": {"embeds_only": True}}) as at:
        assert (await at.client.post("/api/chat", json=ASK)).status_code == 400


@pytest.mark.anyio
@pytest.mark.parametrize("stream", [True, False])
async def test_a_model_that_crashes(stream: bool) -> None:
    """Before a line it is a status; after one, it is a line."""
    async with served({"stub": {"fail_decode_after": 3}}) as at:
        answer = await at.client.post("/api/chat", json=ASK | {"stream": stream})
        if stream:
            assert answer.status_code == 200
            assert list(lines(answer.text)[-1]) == ["error"]
        else:
            assert answer.status_code >= 500
            assert list(answer.json()) == ["error"]


@pytest.mark.anyio
async def test_a_failure_in_the_middle_is_a_line() -> None:
    """The only way to say it once the status is sent."""
    writer = LineWriter(Reply("m", chat_shape, 0.0, lambda completion: {}))
    assert (writer.begin(), writer.heartbeat) == (b"", b"")
    assert msgspec.json.decode(writer.failed(Problem("internal", "broken"))) == {"error": "broken"}
    assert writer.event(erllama.Progress(1, 2)) == b""
