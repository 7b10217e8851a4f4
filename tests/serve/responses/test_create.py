"""`POST /v1/responses`: answers and events as the specification's own document has them."""

from __future__ import annotations

from typing import Any

import pytest
from helpers.open_responses import check, read_stream, text_of
from helpers.served import served

ASK: dict[str, Any] = {"model": "tiny", "input": "hello", "max_output_tokens": 8, "temperature": 0}
PATH = "/v1/responses"


@pytest.mark.anyio
async def test_an_answer_is_what_the_specification_says() -> None:
    """With what was asked for, the counts of the engine, and how it ended."""
    async with served() as at:
        answer = await at.client.post(PATH, json=ASK | {"metadata": {"a": "b"}, "instructions": "be brief"})
        assert answer.status_code == 200
        response = check(answer.json())
        assert response["status"] == "incomplete"
        assert response["incomplete_details"] == {"reason": "max_output_tokens"}
        assert response["usage"]["output_tokens"] == 8
        assert response["usage"]["total_tokens"] == response["usage"]["input_tokens"] + 8
        assert response["metadata"] == {"a": "b"}
        assert response["instructions"] == "be brief"
        assert response["temperature"] == 0
        assert text_of(response)


@pytest.mark.anyio
async def test_a_stream_has_the_same_answer() -> None:
    """Event by event, ended by the whole answer."""
    async with served() as at:
        whole = (await at.client.post(PATH, json=ASK)).json()
        streamed = await at.client.post(PATH, json=ASK | {"stream": True})
        events = read_stream(streamed.text)
        assert text_of(events[-1]["response"]) == text_of(whole)
        assert events[-1]["response"]["usage"]["output_tokens"] == 8


@pytest.mark.anyio
async def test_a_turn_goes_on_from_an_answer_by_its_id_and_computes_its_own_tokens_only() -> None:
    """The tokens of all turns before are where they were; at most the last one sampled is computed again."""
    async with served() as at:
        first = (await at.client.post(PATH, json=ASK)).json()
        taken = first["usage"]["total_tokens"]
        for _ in range(3):
            more = {"input": "and then?", "previous_response_id": first["id"]}
            answer = await at.client.post(PATH, json=ASK | more)
            response = check(answer.json())
            assert response["usage"]["input_tokens_details"]["cached_tokens"] >= taken - 1
            first, taken = response, response["usage"]["total_tokens"]


@pytest.mark.anyio
async def test_a_turn_by_id_reads_what_a_turn_by_items_reads() -> None:
    """The same prompt, token for token; instructions are not carried over."""
    async with served() as at:
        first = (await at.client.post(PATH, json=ASK | {"instructions": "be brief"})).json()
        asked = {"role": "user", "content": "more"}
        items = [{"role": "user", "content": "hello"}, *first["output"], asked]
        by_items = await at.client.post(PATH, json=ASK | {"input": items})
        by_id = await at.client.post(PATH, json=ASK | {"input": [asked], "previous_response_id": first["id"]})
        assert by_id.json()["usage"]["input_tokens"] == by_items.json()["usage"]["input_tokens"]
        assert text_of(by_id.json()) == text_of(by_items.json())


@pytest.mark.anyio
async def test_log_probabilities_are_told_where_they_are_asked_for() -> None:
    """Of each token of the text, with the likeliest others."""
    async with served() as at:
        answer = check((await at.client.post(PATH, json=ASK | {"top_logprobs": 2})).json())
        told = answer["output"][0]["content"][0]["logprobs"]
        assert len(told) == 8
        assert all(len(one["top_logprobs"]) == 2 for one in told)
        events = read_stream((await at.client.post(PATH, json=ASK | {"top_logprobs": 2, "stream": True})).text)
        streamed = [one for event in events for one in event.get("logprobs", ()) if event["type"].endswith("delta")]
        assert streamed == told


@pytest.mark.anyio
async def test_text_obeys_a_schema() -> None:
    """As `text.format` asks for it; the answer tells the format again."""
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
    shape = {"format": {"type": "json_schema", "name": "verdict", "schema": schema | {"additionalProperties": False}}}
    async with served() as at:
        answer = check((await at.client.post(PATH, json=ASK | {"text": shape, "max_output_tokens": 99})).json())
        assert "".join(text_of(answer).split()) in ('{"ok":true}', '{"ok":false}')
        assert answer["text"]["format"]["name"] == "verdict"


@pytest.mark.anyio
async def test_a_conversation_that_is_too_long_is_cut_where_that_is_asked_for() -> None:
    """Its oldest turns are left out; else it is an error."""
    turns = [{"role": role, "content": "x" * 300} for _ in range(8) for role in ("user", "assistant")]
    asked = ASK | {"input": [*turns, {"role": "user", "content": "the end"}]}
    async with served() as at:
        answer = await at.client.post(PATH, json=asked)
        assert answer.status_code == 400
        assert answer.json()["error"]["code"] == "context_length_exceeded"
        answer = await at.client.post(PATH, json=asked | {"truncation": "auto"})
        assert 300 < check(answer.json())["usage"]["input_tokens"] < 2048


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("change", "status", "param"),
    [
        ({"model": None}, 400, "model"),
        ({"model": "other"}, 404, "model"),
        ({"input": None}, 400, "input"),
        ({"input": []}, 400, "input"),
        ({"input": 3}, 400, "input"),
        ({"input": [{"type": "web_search_call"}]}, 400, "input[0].type"),
        ({"input": [{"role": "user", "content": 3}]}, 400, "input[0].content"),
        ({"input": [{"role": "king", "content": "x"}]}, 400, "input[0].role"),
        ({"input": [{"role": "user", "content": [{"type": "input_text"}]}]}, 400, "input[0].content[0]"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, 400, "input[0].content[0]"),
        ({"input": [{"role": "user", "content": [{"type": "input_file"}]}]}, 400, "input[0].content[0]"),
        ({"input": [{"type": "function_call_output", "call_id": "c", "output": ""}]}, 400, "input"),
        ({"input": [{"type": "compaction", "encrypted_content": "AAAA"}]}, 400, "input"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, 404, "input"),
        ({"previous_response_id": "resp_1"}, 400, "previous_response_id"),
        ({"previous_response_id": "../../key"}, 400, "previous_response_id"),
        ({"conversation": "conv_1"}, 400, "conversation"),
        ({"prompt": {"id": "p"}}, 400, "prompt"),
        ({"background": True}, 400, "background"),
        ({"include": ["everything"]}, 400, "include[0]"),
        ({"metadata": {str(n): "" for n in range(17)}}, 400, "metadata"),
        ({"metadata": {"a": 3}}, 400, "metadata[...]"),
        ({"temperature": 3}, 400, "temperature"),
        ({"top_logprobs": 21}, 400, "top_logprobs"),
        ({"max_output_tokens": 0}, 400, "max_output_tokens"),
        ({"reasoning": {"effort": "much"}}, 400, "reasoning.effort"),
        ({"text": {"format": {"type": "yaml"}}}, 400, "text.format"),
        ({"text": {"format": {"type": "json_schema", "schema": {}}}}, 400, "text.format"),
        ({"tools": [{"type": "web_search"}]}, 400, "tools[0].type"),
        ({"tools": [{"type": "function"}]}, 400, "tools[0]"),
        ({"tool_choice": "required"}, 400, "tool_choice"),
        ({"tool_choice": {"type": "function", "name": "f"}}, 400, "tool_choice"),
        ({"tool_choice": {"type": "custom"}}, 400, "tool_choice"),
        ({"truncation": "sometimes"}, 400, "truncation"),
    ],
)
async def test_what_is_wrong_is_named(change: dict[str, Any], status: int, param: str) -> None:
    """In the API's shape, with a sentence and the field, whichever way the answer is asked for."""
    async with served() as at:
        for stream in (False, True):
            answer = await at.client.post(PATH, json=ASK | change | {"stream": stream})
            error = answer.json()["error"]
            assert (answer.status_code, error["param"]) == (status, param), error
            assert error["message"]
            assert error["type"] == "invalid_request_error"


@pytest.mark.anyio
@pytest.mark.parametrize(
    "change",
    [
        {"include": ["web_search_call.action.sources", "reasoning.encrypted_content"]},  # as the Agents SDK does
        {"reasoning": {"effort": "max"}},
        {"service_tier": "fast"},
        {"prompt_cache_retention": "24h"},
    ],
)
async def test_words_of_clients_that_change_nothing_here(change: dict[str, Any]) -> None:
    """They are known, and the answer is what it is without."""
    async with served() as at:
        check((await at.client.post(PATH, json=ASK | change)).json())


@pytest.mark.anyio
async def test_what_is_written_to_the_cache_is_of_the_input() -> None:
    """A reply is saved too, but clients add these counts up to the input."""
    async with served() as at:
        for _ in range(2):
            took = (await at.client.post(PATH, json=ASK | {"max_output_tokens": 64})).json()["usage"]
            details = took["input_tokens_details"]
            assert details["cached_tokens"] + details["cache_write_tokens"] <= took["input_tokens"]


@pytest.mark.anyio
async def test_an_image_is_told_to_the_model_in_words_where_the_server_says_so() -> None:
    """No model here sees it; its bytes are not kept."""
    image = {"type": "input_image", "image_url": "data:image/png;base64,AAAA"}
    asked = ASK | {"input": [{"role": "user", "content": [{"type": "input_text", "text": "what is it?"}, image]}]}
    async with served(settings={"images": "note"}) as at:
        answer = check((await at.client.post(PATH, json=asked)).json())
        listed = (await at.client.get(f"{PATH}/{answer['id']}/input_items")).json()
        check(listed["data"][0], "ItemField")
        assert listed["data"][0]["content"][1] == {"type": "input_image", "image_url": None, "detail": "auto"}


@pytest.mark.anyio
async def test_a_model_that_fails_under_way_ends_the_stream_with_its_error() -> None:
    """As `response.failed`, which is not stored."""
    config = {"stub": {"fail_decode_after": 3}}
    async with served(config) as at:
        answer = await at.client.post(PATH, json=ASK | {"stream": True})
        events = read_stream(answer.text)
        response = events[-1]["response"]
        assert response["status"] == "failed"
        assert response["error"]["code"]
        assert (await at.client.get(f"{PATH}/{response['id']}")).status_code == 404
