"""A completion as an Anthropic message."""

from __future__ import annotations

from typing import Any

import msgspec

import erllama_py as erllama
from erllama_py.serve.anthropic.usage import usage
from erllama_py.serve.core.arguments import arguments_text


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What an answer says of its request."""

    message_id: str
    model: str
    """As the client has named it."""
    max_tokens: int
    """Most tokens that it could have got, of the request and of the server."""
    shows_thinking: bool = True


def message(asked: Asked, completion: erllama.Completion) -> dict[str, Any]:
    """A whole `message`."""
    return {
        **head(asked), "content": content(asked, completion), **end(asked, completion),
        "usage": usage(completion),
    }  # fmt: skip


def head(asked: Asked) -> dict[str, Any]:
    """What is known of a message before there is anything of it."""
    return {
        "id": asked.message_id, "type": "message", "role": "assistant", "model": asked.model, "container": None,
    }  # fmt: skip


def content(asked: Asked, completion: erllama.Completion) -> list[dict[str, Any]]:
    """Its blocks: what was thought, the text, the calls; none that is empty."""
    blocks: list[dict[str, Any]] = []
    if completion.thinking:
        thinking = completion.thinking if asked.shows_thinking else ""
        blocks.append({"type": "thinking", "thinking": thinking, "signature": completion.thinking_signature})
    if completion.reply.strip():
        blocks.append(text_block(completion.reply))
    blocks += [call_block(call.id, call.name, call.arguments) for call in completion.tool_calls if call.name]
    return blocks


def text_block(text: str) -> dict[str, Any]:
    """A block of text."""
    return {"type": "text", "text": text, "citations": None}


def call_block(call_id: str, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """A `tool_use`."""
    given = msgspec.Raw(arguments_text(arguments).encode())
    return {"type": "tool_use", "id": call_id, "name": name, "input": given, "caller": {"type": "direct"}}


def end(asked: Asked, completion: erllama.Completion) -> dict[str, Any]:
    """Why it ended. What was cut short by time is told as if by length."""
    return {
        "stop_reason": _reason(asked, completion), "stop_sequence": completion.stop_sequence, "stop_details": None,
    }  # fmt: skip


def _reason(asked: Asked, completion: erllama.Completion) -> str:
    match completion.finish_reason:
        case "length" if len(completion.generated) < asked.max_tokens:
            return "model_context_window_exceeded"
        case "length" | "cancelled" | "deadline":
            return "max_tokens"
    if any(call.name for call in completion.tool_calls):
        return "tool_use"
    return "end_turn" if completion.stop_sequence is None else "stop_sequence"
