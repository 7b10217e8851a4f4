"""The answer as an object: what was asked for, how it ended, what it took."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import erllama_py as erllama
from erllama_py.serve.core.problems import Problem
from erllama_py.serve.responses.output import Output
from erllama_py.serve.responses.protocol import ResponseRequest

TOLD = {"minimal": "low", "max": "xhigh"}  # efforts that the specification has no word for, by the next one
_DEFAULTS = erllama.RequestOptions()


def now() -> int:
    """Unix time in seconds, as answers have it."""
    return int(time.time())


def begun(response_id: str, model: str, request: ResponseRequest, options: Mapping[str, Any]) -> dict[str, Any]:
    """An answer that is in progress. `options` are those that the model is given."""
    reasoning, store = request.reasoning, request.store is not False
    effort = None if reasoning is None or reasoning.effort is None else TOLD.get(reasoning.effort, reasoning.effort)
    parallel = options.get("parallel_tool_calls", request.parallel_tool_calls is not False)
    return {
        "id": response_id, "object": "response", "created_at": now(), "completed_at": None, "status": "in_progress",
        "background": False, "error": None, "incomplete_details": None, "instructions": request.instructions,
        "max_output_tokens": request.max_output_tokens, "max_tool_calls": request.max_tool_calls, "model": model,
        "output": [], "parallel_tool_calls": parallel,
        "previous_response_id": request.previous_response_id, "prompt_cache_key": request.prompt_cache_key,
        "reasoning": {"effort": effort, "summary": None if reasoning is None else reasoning.summary},
        "safety_identifier": request.safety_identifier, "service_tier": "default", "store": store,
        "temperature": _asked(request, "temperature"), "top_p": _asked(request, "top_p"),
        "presence_penalty": _asked(request, "presence_penalty"),
        "frequency_penalty": _asked(request, "frequency_penalty"),
        "text": _text(request), "tool_choice": request.tool_choice or "auto",
        "tools": [_tool(tool) for tool in request.tools or ()], "top_logprobs": request.top_logprobs or 0,
        "truncation": request.truncation or "disabled", "usage": None, "metadata": request.metadata or {},
    }  # fmt: skip


def ended(response: Mapping[str, Any], output: Output, completion: erllama.Completion) -> dict[str, Any]:
    """The answer, complete or cut; what was cut by time is so by length, as in the other APIs."""
    reasons = {"length": "max_output_tokens", "deadline": "max_output_tokens", "cancelled": "cancelled"}
    reason = reasons.get(completion.finish_reason)
    return {
        **response, "output": output.items, "usage": usage(completion, output.reasoning_tokens),
        "status": "incomplete" if reason else "completed", "completed_at": None if reason else now(),
        "incomplete_details": {"reason": reason} if reason else None,
    }  # fmt: skip


def failed(response: Mapping[str, Any], output: Output, problem: Problem) -> dict[str, Any]:
    """The answer that an error has ended."""
    error = {"code": problem.code or "server_error", "message": problem.message}
    return {**response, "output": output.items, "status": "failed", "error": error, "store": False}


def usage(completion: erllama.Completion, reasoning_tokens: int) -> dict[str, Any]:
    """What a reply took, in tokens, by the engine's counts.

    Of the input `cached_tokens` were read from cells or rows instead of computed, `cache_write_tokens` were computed
    and saved: clients that add both up never get more than the input.
    """
    generated, delta = len(completion.generated), completion.cache_delta
    return {
        "input_tokens": completion.prompt_tokens,
        "input_tokens_details": {
            "cached_tokens": delta.read,
            "cache_write_tokens": min(delta.created, completion.prompt_tokens - delta.read),  # more are of the reply
        },
        "output_tokens": generated,
        "output_tokens_details": {"reasoning_tokens": reasoning_tokens},
        "total_tokens": completion.prompt_tokens + generated,
    }  # fmt: skip


def _asked(request: ResponseRequest, name: str) -> float:
    value = getattr(request, name)
    return float(getattr(_DEFAULTS, name)) if value is None else value


def _text(request: ResponseRequest) -> dict[str, Any]:
    given = request.text
    shape: dict[str, Any] = {"type": "text"}
    if given is not None and given.format is not None:
        shape = dict(given.format)
        if shape.get("type") == "json_schema":
            shape = {"description": None, **shape, "strict": shape.get("strict") is not False}
    return {"format": shape} | ({"verbosity": given.verbosity} if given is not None and given.verbosity else {})


def _tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "type": "function", "name": tool["name"], "description": tool.get("description"),
        "parameters": tool.get("parameters"), "strict": tool.get("strict"),
    }  # fmt: skip
