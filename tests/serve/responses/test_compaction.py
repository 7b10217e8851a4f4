"""`POST /v1/responses/compact` and `/input_tokens`."""

from __future__ import annotations

from typing import Any

import pytest
from helpers.open_responses import check
from helpers.scripted import Script
from helpers.served import served

from erllama_py.serve.responses.messages import SUMMARY_REQUEST

PATH = "/v1/responses"
COMPACT = f"{PATH}/compact"
ASK: dict[str, Any] = {"model": "tiny", "input": "hello", "max_output_tokens": 8, "temperature": 0}
SAID: list[dict[str, Any]] = [
    {"role": "developer", "content": "be brief"},
    {"role": "user", "content": "launch on Tuesday"},
    {"role": "assistant", "content": "noted"},
    {"role": "user", "content": "and tell support"},
    {"role": "assistant", "content": "told"},
]


@pytest.mark.anyio
async def test_a_conversation_becomes_a_summary_of_the_models() -> None:
    """What users and developers said stays; for the rest stands one item, which the model reads as its own words."""
    says = Script("Tuesday; support knows.", "Yes.")
    async with served(script=says) as at:
        asked = {"model": "tiny", "input": SAID, "instructions": "you plan"}
        compacted = check((await at.client.post(COMPACT, json=asked)).json(), "CompactResource")
        assert says.prompts[0].endswith(f"{SUMMARY_REQUEST}<|im_end|>\n<|im_start|>assistant\n")
        assert says.prompts[0].startswith("<|im_start|>system\nyou plan\n\nbe brief<|im_end|>")
        assert [item["type"] for item in compacted["output"]] == ["message"] * 3 + ["compaction"]
        assert [item["role"] for item in compacted["output"][:3]] == ["developer", "user", "user"]
        assert compacted["usage"]["output_tokens"] == len("Tuesday; support knows.")
        again = [*compacted["output"], {"role": "user", "content": "so?"}]
        check((await at.client.post(PATH, json=ASK | {"input": again})).json())
        assert says.prompts[1] == (
            "<|im_start|>system\nbe brief<|im_end|>\n"
            f"<|im_start|>user\nlaunch on Tuesday\n\nand tell support\n\n{SUMMARY_REQUEST}<|im_end|>\n"
            "<|im_start|>assistant\nTuesday; support knows.<|im_end|>\n"
            "<|im_start|>user\nso?<|im_end|>\n<|im_start|>assistant\n"
        )


@pytest.mark.anyio
async def test_a_stored_conversation_is_read_once() -> None:
    """A summary of it computes its own question only."""
    async with served() as at:
        given = (await at.client.post(PATH, json=ASK | {"input": "hello " * 30})).json()
        asked = {"model": "tiny", "previous_response_id": given["id"]}
        compacted = check((await at.client.post(COMPACT, json=asked)).json(), "CompactResource")
        told = compacted["usage"]["input_tokens_details"]
        assert told["cached_tokens"] >= given["usage"]["total_tokens"] - 1


@pytest.mark.anyio
async def test_a_conversation_longer_than_the_context_is_read_in_parts() -> None:
    """Each with the summary of what came before; a turn that is too long by itself is an error."""
    turns = [{"role": role, "content": "x" * 250} for _ in range(6) for role in ("user", "assistant")]
    says = Script("first", "second", "third", "fourth")
    async with served(script=says) as at:
        asked = {"model": "tiny", "input": turns}
        compacted = check((await at.client.post(COMPACT, json=asked)).json(), "CompactResource")
        assert len(says.prompts) > 1
        assert "<|im_start|>assistant\nfirst<|im_end|>" in says.prompts[1]
        assert compacted["usage"]["input_tokens"] == sum([await tokens(at.model, one) for one in says.prompts])
        asked = {"model": "tiny", "input": "x" * 4000}
        answer = await at.client.post(COMPACT, json=asked)
        assert answer.status_code == 400
        assert answer.json()["error"]["code"] == "context_length_exceeded"


async def tokens(model: Any, prompt: str) -> int:
    """Of a prompt as it was rendered."""
    return len(await model.tokenize(prompt, add_bos=False))


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({"input": "x"}, 400, "model"),
        ({"model": "tiny"}, 400, "input"),
        ({"model": "tiny", "input": []}, 400, "input"),
        ({"model": "tiny", "previous_response_id": "resp_1"}, 400, "previous_response_id"),
        ({"model": "other", "input": "x"}, 404, "model"),
    ],
)
async def test_what_is_wrong_is_named(body: dict[str, Any], status: int, param: str) -> None:
    """By both endpoints."""
    async with served() as at:
        for path in (COMPACT, f"{PATH}/input_tokens"):
            answer = await at.client.post(path, json=body)
            assert (answer.status_code, answer.json()["error"]["param"]) == (status, param)


@pytest.mark.anyio
async def test_tokens_are_counted_as_they_would_be_read() -> None:
    """With tools and instructions, and after an answer with its very tokens."""
    tool = {"type": "function", "name": "f", "parameters": {"type": "object", "properties": {}}}
    asked = {"model": "tiny", "input": "hello", "instructions": "be brief", "tools": [tool]}
    async with served() as at:
        counted = (await at.client.post(f"{PATH}/input_tokens", json=asked)).json()
        assert counted["object"] == "response.input_tokens"
        given = (await at.client.post(PATH, json=ASK | asked)).json()
        assert counted["input_tokens"] == given["usage"]["input_tokens"]
        more = asked | {"previous_response_id": given["id"], "input": "more"}
        counted = (await at.client.post(f"{PATH}/input_tokens", json=more)).json()
        given = (await at.client.post(PATH, json=ASK | more)).json()
        assert counted["input_tokens"] == given["usage"]["input_tokens"]
