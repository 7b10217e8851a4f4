"""`/v1/chat/completions` as OpenAI's clients see it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from helpers.scripted import Script
from helpers.served import Served, events, served
from helpers.tiny_gguf import tiny_gguf
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from erllama_py.serve.core.service import session_of

PATH = "/v1/chat/completions"
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
        ({"model": None}, 400, "model"),
        ({"top_logprobs": 3}, 400, "top_logprobs"),
        ({"messages": []}, 400, None),
        ({"messages": [{"content": "x"}]}, 400, "messages[0].role"),
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


async def post(at: Served, change: dict[str, Any], status: int = 200) -> Any:
    """The answer to a changed request, as JSON or as the chunks of a stream."""
    answer = await at.client.post(PATH, json=ASK | change)
    assert answer.status_code == status, answer.text
    if not change.get("stream") or status != 200:
        return answer.json()
    *chunks, end = events(answer.text)
    assert end == "[DONE]"
    return chunks


@pytest.mark.slow
@pytest.mark.anyio
async def test_several_replies_at_temperature_0_are_alike(tmp_path: Path) -> None:
    """Each is what one alone is."""
    async with served({"backend": "llama", "model_path": tiny_gguf("dense", tmp_path)}) as at:
        alone = await post(at, {"temperature": 0})
        several = await post(at, {"temperature": 0, "n": 3})
        texts = [choice["message"]["content"] for choice in several["choices"]]
        assert texts == [alone["choices"][0]["message"]["content"]] * 3


@pytest.mark.anyio
async def test_several_replies_and_their_odds() -> None:
    """Each by its index, and of each token how likely it was: the same in chunks as whole."""
    async with served() as at:
        ask = {"n": 3, "seed": 7, "temperature": 1, "logprobs": True, "top_logprobs": 2}
        whole = ChatCompletion.model_validate(await post(at, ask), strict=True)
        assert [choice.index for choice in whole.choices] == [0, 1, 2]
        assert whole.usage is not None
        assert whole.usage.completion_tokens == 24
        texts, tokens = ["", "", ""], [list[Any](), list[Any](), list[Any]()]
        for chunk in await post(at, ask | {"stream": True}):
            (choice,) = ChatCompletionChunk.model_validate(chunk, strict=True).choices
            texts[choice.index] += choice.delta.content or ""
            tokens[choice.index] += (choice.logprobs and choice.logprobs.content) or []
        assert texts == [choice.message.content for choice in whole.choices]
        for one_of, streamed in zip(whole.choices, tokens, strict=True):
            assert one_of.logprobs is not None
            assert one_of.logprobs.content is not None
            assert [one.model_dump() for one in streamed] == [one.model_dump() for one in one_of.logprobs.content]
            assert {len(one.top_logprobs) for one in streamed} == {2}


@pytest.mark.anyio
async def test_structured_replies() -> None:
    """Any object, or one of a schema, strict or not; llama-server's forms too."""
    schema = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]}
    named = {"name": "n", "schema": schema}
    async with served() as at:
        for given in (
            {"response_format": {"type": "json_schema", "json_schema": named | {"strict": True}}},
            {"response_format": {"type": "json_schema", "json_schema": named}},
            {"response_format": {"type": "json_object", "schema": schema}},
            {"json_schema": schema},
        ):
            reply = await post(at, given | {"max_tokens": 40})
            assert isinstance(json.loads(reply["choices"][0]["message"]["content"])["a"], bool)
        text = await post(at, {"response_format": {"type": "text"}})
        assert text["choices"][0]["finish_reason"] == "length"
        for kind in ({"type": "json_object"}, {"type": "json_schema", "json_schema": {"name": "n"}}):
            assert (await post(at, {"response_format": kind}))["choices"][0]["message"]["content"][0] == "{"
        grammar = await post(at, {"grammar": 'root ::= "yes" | "no"'})
        assert grammar["choices"][0]["message"]["content"] in ("yes", "no")
        await post(at, {"response_format": {"type": "json_schema"}}, 400)


@pytest.mark.anyio
async def test_messages_of_all_kinds() -> None:
    """Roles and parts are made into what templates know; fields of replies that come back are ignored."""
    script = Script("yes")
    async with served(script=script) as at:
        parts = [{"type": "text", "text": "two"}, {"type": "text", "text": "parts"}]
        said: dict[str, Any] = {"role": "assistant", "content": None, "refusal": "no", "audio": None, "annotations": []}
        messages = [{"role": "developer", "content": "be brief"}, HELLO, said, {"role": "user", "content": parts}]
        await post(at, {"messages": messages})
        assert "developer" not in script.prompts[-1]
        assert all(text in script.prompts[-1] for text in ("system", "be brief", "two\nparts"))


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("part", "param"),
    [
        ({"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}, "messages[0].content[0]"),
        ({"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}}, "messages[0].content[0]"),
        ({"type": "file", "file": {"file_id": "x"}}, "messages[0].content[0]"),
        ({"type": "text"}, "messages[0].content[0].text"),
        ("text", "messages[0].content[0]"),
        ({}, "messages[0].content[0]"),
    ],
)
async def test_parts_that_are_no_text(part: Any, param: str) -> None:
    """Are refused by their place; an image is mentioned where the server is told to."""
    async with served() as at:
        body = {"messages": [{"role": "user", "content": [part]}]}
        assert (await post(at, body, 400))["error"]["param"] == param
    async with served(settings={"images": "note"}) as at:
        is_image = isinstance(part, dict) and part.get("type") == "image_url"
        await post(at, body, 200 if is_image else 400)


@pytest.mark.anyio
async def test_the_last_message_may_go_on() -> None:
    """Where it is the assistant's, unless it is asked not to."""
    script = Script("a", "b", "c")
    async with served(script=script) as at:
        begun = [HELLO, {"role": "assistant", "content": "One river"}]
        await post(at, {"messages": begun})
        assert script.prompts[-1].endswith("One river")
        await post(at, {"messages": begun, "continue_final_message": False})
        assert not script.prompts[-1].endswith("One river")
        await post(at, {"messages": begun, "add_generation_prompt": True})
        assert not script.prompts[-1].endswith("One river")
        await post(at, {"continue_final_message": True}, 400)


@pytest.mark.slow
@pytest.mark.anyio
async def test_a_conversation_is_a_session_as_far_as_it_can_be() -> None:
    """`prompt_cache_key` names it; while a turn of it is under way the next request goes on without it."""
    async with served() as at:
        for _ in range(2):
            await post(at, {"prompt_cache_key": "x" * 1000})
        session = session_of("mine")
        async with at.model.stream_chat([HELLO], session_id=session, ignore_eos=True) as other:
            await anext(other)
            for stream in (False, True):
                await post(at, {"prompt_cache_key": "mine", "stream": stream})
        await post(at, {"prompt_cache_key": "mine", "n": 2, "temperature": 1})


@pytest.mark.anyio
async def test_a_prompt_is_kept_for_a_day() -> None:
    """Where that is asked for; what is saved of it is then not evicted before."""
    long = {"messages": [{"role": "user", "content": "word " * 200}]}
    async with served({"policy": {"min_tokens": 16}}) as at:
        for retention, kept in (("in_memory", False), (None, False), ("24h", True)):
            await post(at, long | {"prompt_cache_retention": retention})
            await at.runtime.cache.flush()
            assert any(row.kept_until is not None for row in await at.runtime.cache.rows()) == kept
        error = (await post(at, {"prompt_cache_retention": "1h"}, 400))["error"]
        assert error["param"] == "prompt_cache_retention"


@pytest.mark.anyio
async def test_bounds_of_a_reply_by_either_name() -> None:
    """The newer one counts; -1 is none, as llama-server has it; a server's own bound stays."""
    async with served(settings={"max_response_tokens": 12}) as at:
        for given, tokens in (
            ({"max_completion_tokens": 3}, 3), ({"max_tokens": 3, "max_completion_tokens": 5}, 5),
            ({"max_tokens": -1}, 12), ({"max_tokens": 50}, 12), ({"max_tokens": None}, 12),
        ):  # fmt: skip
            reply = await post(at, given | {"ignore_eos": True})
            assert reply["usage"]["completion_tokens"] == tokens
        error = (await post(at, {"max_completion_tokens": 0}, 400))["error"]
        assert error["param"] == "max_completion_tokens"


@pytest.mark.anyio
async def test_what_llama_servers_clients_say() -> None:
    """Is heeded, or ignored; a seed of 64 bits is taken."""
    taken = {
        "temperature": 0.7,
        "top_k": -1, "min_p": 0.1, "typical_p": 0.9, "top_n_sigma": 1.0, "repeat_penalty": 1.1, "repeat_last_n": 32,
        "dynatemp_range": 0.1, "xtc_probability": 0.1, "dry_multiplier": 0.5, "dry_sequence_breakers": ["\n"],
        "mirostat": 0, "mirostat_tau": 5.0, "ignore_eos": True, "seed": -(1 << 62), "stop_token_ids": [300],
        "cache_prompt": True, "id_slot": 3, "samplers": ["top_k"], "user": "u", "store": True, "metadata": {"a": "b"},
        "service_tier": "auto", "logit_bias": {"5": -100}, "chat_template_kwargs": {"documents": []}, "min_tokens": 2,
    }  # fmt: skip
    async with served() as at:
        await post(at, taken)
        assert (await post(at, {"repeat_last_n": -7}, 400))["error"]["param"] == "repeat_last_n"
        assert (await post(at, {"mirostat": 9}, 400))["error"]["param"] == "mirostat"


@pytest.mark.anyio
async def test_progress_is_told_where_it_is_asked_for() -> None:
    """Tokens of the prompt that are in, before the first of the reply."""
    async with served() as at:
        long = [{"role": "user", "content": "word " * 200}]
        chunks = await post(at, {"messages": long, "return_progress": True, "stream": True})
        progress = [chunk["prompt_progress"] for chunk in chunks if "prompt_progress" in chunk]
        assert progress[-1]["processed"] == progress[-1]["total"] > 1000
        chunks = await post(at, {"messages": long, "stream": True})
        assert not [chunk for chunk in chunks if "prompt_progress" in chunk]


@pytest.mark.anyio
async def test_none_of_the_likeliest_tokens() -> None:
    """Clients that write out their defaults send a number of them where they want none."""
    async with served() as at:
        answer = await at.client.post(PATH, json=ASK | {"logprobs": False, "top_logprobs": 0, "max_tokens": 2})
        assert answer.status_code == 200
        assert answer.json()["choices"][0]["logprobs"] is None
