"""What OpenAI's endpoints take, as structs. Source: OpenAI's API reference; what is not its own is marked.

Fields that nothing here can heed are taken and ignored; `docs/guides/clients.md` lists them.
"""

from __future__ import annotations

import time
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from erllama_py.serve.core.api import Api
from erllama_py.serve.core.errors import error_body
from erllama_py.serve.core.problems import Problem

Count = Annotated[int, Meta(ge=1)]
Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]

API = Api(
    "openai",
    error_body,
    {
        "response_tokens": "max_tokens", "stop_sequences": "stop", "json_schema": "response_format",
        "template_kwargs": "chat_template_kwargs", "penalty_last_n": "repeat_last_n",
    },
)  # fmt: skip


def needed(name: str | None) -> str:
    """The model that a request names. Raises `Problem` where it names none, which OpenAI's API does not allow."""
    if not name:
        raise Problem("invalid", "a model is to be named: /v1/models lists them", param="model")
    return name


class StreamOptions(msgspec.Struct, frozen=True):
    """How a stream ends."""

    include_usage: bool | None = None


class Sampled(msgspec.Struct, frozen=True, kw_only=True):
    """What requests for chat and for plain completions have in common."""

    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None
    """At least 1; -1 is no bound, as llama-server has it."""
    temperature: float | None = None
    top_p: float | None = None
    n: int | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: Literal["in_memory", "in-memory", "24h"] | None = None
    # As llama-server and vLLM have them.
    top_k: int | None = None
    min_p: float | None = None
    typical_p: float | None = None
    top_n_sigma: float | None = None
    repeat_penalty: float | None = None
    repetition_penalty: float | None = None
    repeat_last_n: int | None = None
    dynatemp_range: float | None = None
    dynatemp_exponent: float | None = None
    xtc_probability: float | None = None
    xtc_threshold: float | None = None
    dry_multiplier: float | None = None
    dry_base: float | None = None
    dry_allowed_length: int | None = None
    dry_penalty_last_n: int | None = None
    dry_sequence_breakers: list[str] | None = None
    mirostat: int | None = None
    mirostat_tau: float | None = None
    mirostat_eta: float | None = None
    ignore_eos: bool | None = None
    min_tokens: int | None = None
    stop_token_ids: list[int] | None = None
    grammar: str | None = None
    json_schema: dict[str, Any] | None = None
    return_progress: bool | None = None
    # This library's own.
    reproducible: bool | None = None
    thinking_budget_tokens: int | None = None


class ChatRequest(Sampled, frozen=True, kw_only=True):
    """The body of `POST /v1/chat/completions`."""

    messages: list[dict[str, Any]]
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    functions: list[dict[str, Any]] | None = None
    function_call: str | dict[str, Any] | None = None
    response_format: dict[str, Any] | None = None
    reasoning_effort: Effort | None = None
    # As vLLM and llama-server have them.
    chat_template_kwargs: dict[str, Any] | None = None
    continue_final_message: bool | None = None
    add_generation_prompt: bool | None = None


class CompletionRequest(Sampled, frozen=True, kw_only=True):
    """The body of `POST /v1/completions`."""

    prompt: str | list[str | int | list[int]]
    logprobs: int | None = None
    echo: bool | None = None
    suffix: str | None = None
    best_of: int | None = None


class EmbeddingRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The body of `POST /v1/embeddings`."""

    input: str | list[str | int | list[int]]
    model: str | None = None
    dimensions: Count | None = None
    encoding_format: Literal["float", "base64"] | None = None
    # Others' own.
    truncate: bool | Literal["start", "end", "START", "END", "NONE"] | None = None


class RerankDocument(msgspec.Struct, frozen=True):
    """A document as an object."""

    text: str


class RerankRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The body of `POST /v1/rerank`, as Jina's and Cohere's APIs have it."""

    query: str
    documents: list[str | RerankDocument]
    model: str | None = None
    top_n: Count | None = None
    return_documents: bool | None = None
    method: Literal["model", "embeddings", "score"] | None = None
    """This library's own: what scores a document."""


class TokenizeRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The body of `POST /tokenize`, llama-server's."""

    content: str
    model: str | None = None
    add_special: bool = False
    parse_special: bool = True
    with_pieces: bool = False


class DetokenizeRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The body of `POST /detokenize`, llama-server's."""

    tokens: list[int]
    model: str | None = None


def now() -> int:
    """Unix time, as `created` has it."""
    return int(time.time())
