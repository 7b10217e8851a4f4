"""What Ollama's endpoints take, as structs. Source: Ollama's API reference and the types of its clients.

Fields that nothing here can heed are taken and ignored: options of loading such as `num_ctx`, which are said when the
server starts, `truncate`, and those that Ollama itself has given up.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from erllama_py.serve.core.amounts import KeepAlive, seconds_of
from erllama_py.serve.core.api import Api
from erllama_py.serve.core.problems import Problem

LARGEST_SEED = (1 << 32) - 1
Whole = int | float  # Ollama takes 128.0 where it means 128, and so do its clients

# This library's options by the names that they have in a body.
SAMPLING = {
    "response_tokens": "num_predict", "temperature": "temperature", "top_k": "top_k", "top_p": "top_p",
    "min_p": "min_p", "typical_p": "typical_p", "seed": "seed", "stop_sequences": "stop",
    "repetition_penalty": "repeat_penalty", "penalty_last_n": "repeat_last_n", "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty", "mirostat": "mirostat", "mirostat_tau": "mirostat_tau",
    "mirostat_eta": "mirostat_eta",
}  # fmt: skip


def error_body(problem: Problem, request_id: str = "") -> dict[str, Any]:
    """An error as Ollama's clients read it: a sentence, which names the field."""
    named = problem.param is None or problem.param in problem.message
    return {"error": problem.message if named else f"{problem.param}: {problem.message}"}


API = Api(
    "ollama",
    error_body,
    {name: f"options.{theirs}" for name, theirs in SAMPLING.items()}
    | {
        "json_schema": "format", "thinking": "think", "thinking_budget_tokens": "think", "logprobs": "top_logprobs",
        "template_kwargs": "think",
    },
)  # fmt: skip


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """How a reply is drawn. What is not given is this library's default."""

    num_predict: Whole | None = None
    temperature: float | None = None
    top_k: Whole | None = None
    top_p: float | None = None
    min_p: float | None = None
    typical_p: float | None = None
    seed: Whole | None = None
    stop: str | list[str] | None = None
    repeat_penalty: float | None = None
    repeat_last_n: Whole | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    mirostat: Whole | None = None
    mirostat_tau: float | None = None
    mirostat_eta: float | None = None


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What all requests that reach a model have in common."""

    model: str | None = None
    options: Options | None = None
    keep_alive: KeepAlive | None = None


class Replied(Asked, frozen=True, kw_only=True):
    """What requests for a reply have in common. They stream unless told not to."""

    stream: bool | None = None
    format: str | dict[str, Any] | None = None
    think: bool | Literal["", "low", "medium", "high", "max"] | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None


class Function(msgspec.Struct, frozen=True):
    """What a call calls."""

    name: str
    arguments: dict[str, Any] = {}


class Call(msgspec.Struct, frozen=True):
    """A call of a tool, in a message of the assistant."""

    function: Function
    id: str | None = None


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """One message of a conversation."""

    role: str
    content: str | None = None
    thinking: str | None = None
    images: list[Any] | None = None
    tool_calls: list[Call] | None = None
    tool_name: str | None = None
    tool_call_id: str | None = None


class ChatRequest(Replied, frozen=True, kw_only=True):
    """The body of `POST /api/chat`."""

    messages: list[Message] | None = None
    tools: list[dict[str, Any]] | None = None


class GenerateRequest(Replied, frozen=True, kw_only=True):
    """The body of `POST /api/generate`."""

    prompt: str | None = None
    suffix: str | None = None
    system: str | None = None
    template: str | None = None
    context: list[int] | None = None
    raw: bool | None = None
    images: list[Any] | None = None


class EmbedRequest(Asked, frozen=True, kw_only=True):
    """The body of `POST /api/embed`."""

    input: str | list[str] = []
    truncate: bool | None = None
    dimensions: int | None = None


class EmbeddingsRequest(Asked, frozen=True, kw_only=True):
    """The body of `POST /api/embeddings`, which `/api/embed` has replaced."""

    prompt: str | None = None


class NameRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The body of requests that are about a model; older clients say `name`."""

    model: str | None = None
    name: str | None = None
    stream: bool | None = None


def stay_of(keep_alive: KeepAlive | None) -> tuple[float | None] | None:
    """How long a model is to stay from now on: seconds, or None for without end, in a tuple; None where a request does
    not say. Raises `Problem`."""
    if keep_alive is None or keep_alive == "":
        return None
    try:
        return (seconds_of(keep_alive),)
    except ValueError as error:
        raise Problem("invalid", str(error), param="keep_alive") from None


def reply_options(request: Replied) -> dict[str, Any]:
    """A request's options by this library's names; None where it says nothing. Raises `Problem`."""
    logprobs = None if not request.logprobs else request.top_logprobs or 0
    return sampling(request.options or Options()) | {"json_schema": schema_of(request.format), "logprobs": logprobs}


def sampling(options: Options) -> dict[str, Any]:
    """How a reply is drawn, by this library's names. Ollama's ways to say "without bound" become None."""
    given: dict[str, Any] = {name: getattr(options, theirs) for name, theirs in SAMPLING.items()}
    for name in ("response_tokens", "seed", "top_k", "penalty_last_n", "mirostat"):
        given[name] = whole(given[name], f"options.{SAMPLING[name]}")
    if (given["response_tokens"] or 0) <= 0:
        given["response_tokens"] = None
    if given["seed"] is not None:
        given["seed"] = None if given["seed"] < 0 else given["seed"] & LARGEST_SEED
    if given["top_k"] is not None:
        given["top_k"] = max(given["top_k"], 0)
    return given


def whole(number: Whole | None, param: str) -> int | None:
    """A whole number, however it is written. Raises `Problem`."""
    if isinstance(number, float) and not number.is_integer():
        raise Problem("invalid", f"expected a whole number, got {number}", param=param)
    return None if number is None else int(number)


def schema_of(given: str | Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """The schema that a `format` asks for; None for text. Raises `Problem`."""
    if not given and given != {}:
        return None
    if given == "json":
        return {"type": "object"}
    if isinstance(given, Mapping):
        return given
    raise Problem("invalid", "expected 'json' or a JSON schema", param="format")
