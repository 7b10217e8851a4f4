"""A reply as the message that goes back into the conversation."""

from __future__ import annotations

import json
from typing import Any

import erllama_py as erllama


def completion(**fields: Any) -> erllama.Completion:
    stats = erllama.Stats(
        queued_seconds=0.0, prefill_seconds=0.0, decode_seconds=0.0, lookup_seconds=0.0, restore_seconds=0.0,
        first_token_seconds=0.0, prefill_tokens=1, restored_bytes=0, decodes=0, tokens_per_second=0.0, seed=0,
        tier=None, miss_reason=None,
    )  # fmt: skip
    return erllama.Completion(
        generated=[], prompt_tokens=1, context_tokens=1, committed_tokens=1, finish_key=None, cache_hit_kind="cold",
        finish_reason="stop", stop_sequence=None, cache_delta=erllama.CacheDelta(0, 0), stats=stats, **fields,
    )  # fmt: skip


def test_a_plain_reply_is_its_text() -> None:
    """Nothing else is in the message, so that any template takes it."""
    assert completion(reply="Hi.").message == {"role": "assistant", "content": "Hi."}


def test_thoughts_and_calls_are_in_openais_form() -> None:
    """Each call keeps its id, and its arguments are a JSON text; a malformed call has an id to answer, too."""
    calls = (
        erllama.ToolCall(id="a", name="find", arguments={"é": [1]}, text="<tool_call>…"),
        erllama.ToolCall(id="b", name="", arguments={}, text="<tool_call>{", problem="no JSON"),
    )
    message = completion(reply="", thinking="hm", tool_calls=calls).message
    assert (message["content"], message["reasoning_content"]) == ("", "hm")
    assert [call["id"] for call in message["tool_calls"]] == ["a", "b"]
    assert [call["type"] for call in message["tool_calls"]] == ["function", "function"]
    assert message["tool_calls"][0]["function"]["name"] == "find"
    assert json.loads(message["tool_calls"][0]["function"]["arguments"]) == {"é": [1]}
