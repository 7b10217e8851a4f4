"""What OpenAI's endpoints take and give, as structs. Source: OpenAI's API reference; what is not its own is marked.

Fields that no model here can heed (`user`, `store`, `metadata`, `service_tier`, …) are taken and ignored.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from erllama_py.serve.core.exchange import Api
from erllama_py.serve.core.problems import Kind, Problem

Count = Annotated[int, Meta(ge=1)]

TYPES: dict[Kind, str] = {
    "invalid": "invalid_request_error", "too_large": "invalid_request_error", "not_found": "invalid_request_error",
    "conflict": "invalid_request_error", "unauthenticated": "authentication_error", "forbidden": "permission_error",
    "rate_limited": "rate_limit_error", "overloaded": "rate_limit_error", "unavailable": "service_unavailable_error",
    "internal": "server_error",
}  # fmt: skip


def error_body(problem: Problem, request_id: str = "") -> dict[str, Any]:
    """An error as OpenAI's clients read it."""
    return {
        "error": {
            "message": problem.message, "type": TYPES[problem.kind], "param": problem.param, "code": problem.code,
        }
    }  # fmt: skip


API = Api(
    "openai",
    error_body,
    {
        "response_tokens": "max_completion_tokens", "stop_sequences": "stop", "json_schema": "response_format",
        "template_kwargs": "chat_template_kwargs",
    },
)  # fmt: skip


class StreamOptions(msgspec.Struct, frozen=True):
    """How a stream ends."""

    include_usage: bool | None = None


class Sampled(msgspec.Struct, frozen=True, kw_only=True):
    """What requests for chat and for plain completions have in common."""

    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Count | None = None
    temperature: float | None = None
    top_p: float | None = None
    n: int | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    prompt_cache_key: str | None = None
    # As llama-server and others have them.
    top_k: int | None = None
    min_p: float | None = None
    typical_p: float | None = None
    repeat_penalty: float | None = None
    grammar: str | None = None
    return_progress: bool | None = None


class ChatRequest(Sampled, frozen=True, kw_only=True):
    """The body of `POST /v1/chat/completions`."""

    messages: list[dict[str, Any]]
    max_completion_tokens: Count | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    response_format: dict[str, Any] | None = None
    reasoning_effort: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None  # as vLLM and llama-server have it


def sampling(request: Sampled) -> dict[str, Any]:
    """The options of a request that all of OpenAI's endpoints share, by this library's names."""
    biases = None if request.logit_bias is None else {int(key): bias for key, bias in _by_id(request.logit_bias)}
    return {
        "response_tokens": request.max_tokens, "temperature": request.temperature, "top_p": request.top_p,
        "n": request.n, "stop_sequences": request.stop, "seed": request.seed,
        "presence_penalty": request.presence_penalty, "frequency_penalty": request.frequency_penalty,
        "logit_bias": biases, "top_k": request.top_k, "min_p": request.min_p, "typical_p": request.typical_p,
        "repetition_penalty": request.repeat_penalty, "grammar": request.grammar,
    }  # fmt: skip


def _by_id(biases: Mapping[str, float]) -> list[tuple[str, float]]:
    for key in biases:
        if not key.isdecimal():
            raise Problem("invalid", f"a token id is expected, got {key[:40]!r}", param="logit_bias")
    return list(biases.items())


def now() -> int:
    """Unix time, as `created` has it."""
    return int(time.time())
