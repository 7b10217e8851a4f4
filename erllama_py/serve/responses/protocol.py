"""What the endpoints of Open Responses take, as structs, and how they say an error.

Fields that change nothing here (`service_tier`, `safety_identifier`, `stream_options`, …) are taken and told again.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from erllama_py.serve.core.api import Api
from erllama_py.serve.core.errors import error_body

Count = Annotated[int, Meta(ge=1)]
ShortText = Annotated[str, Meta(max_length=64)]
Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
Mode = Literal["none", "auto", "required"]
Input = str | list[dict[str, Any]]

API = Api(
    "responses",
    error_body,
    {
        "response_tokens": "max_output_tokens", "logprobs": "top_logprobs", "json_schema": "text.format",
        "thinking": "reasoning.effort", "template_kwargs": "reasoning.effort",
    },
)  # fmt: skip


class Reasoning(msgspec.Struct, frozen=True):
    """How much the model thinks, and how its thinking is told."""

    effort: Effort | None = None
    summary: Literal["auto", "concise", "detailed"] | None = None


class Text(msgspec.Struct, frozen=True):
    """What the reply's text looks like; see `format_of` for what `format` may be."""

    format: dict[str, Any] | None = None
    verbosity: Literal["low", "medium", "high"] | None = None


class Turn(msgspec.Struct, frozen=True, kw_only=True):
    """What the endpoints have in common: which model, and what it reads."""

    model: str | None = None
    input: Input | None = None
    previous_response_id: str | None = None
    instructions: str | None = None
    prompt_cache_key: ShortText | None = None


class TokensRequest(Turn, frozen=True, kw_only=True):
    """The body of `POST /v1/responses/input_tokens`: what shapes the prompt."""

    tools: Annotated[list[dict[str, Any]], Meta(max_length=128)] | None = None
    tool_choice: Mode | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    text: Text | None = None
    reasoning: Reasoning | None = None
    truncation: Literal["auto", "disabled"] | None = None
    conversation: Any = None  # OpenAI's, as the next: refused, since a reply without them would be a wrong one
    prompt: Any = None


class ResponseRequest(TokensRequest, frozen=True, kw_only=True):
    """The body of `POST /v1/responses`."""

    include: list[str] | None = None
    metadata: dict[ShortText, Annotated[str, Meta(max_length=512)]] | None = None
    temperature: Annotated[float, Meta(ge=0.0, le=2.0)] | None = None
    top_p: Annotated[float, Meta(gt=0.0, le=1.0)] | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    stream: bool | None = None
    background: bool | None = None
    max_output_tokens: Count | None = None
    max_tool_calls: Count | None = None
    safety_identifier: ShortText | None = None
    store: bool | None = None
    service_tier: Literal["auto", "default", "flex", "scale", "priority", "fast"] | None = None
    prompt_cache_retention: Literal["in_memory", "in-memory", "24h"] | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    # As llama-server and others have them.
    top_k: int | None = None
    min_p: float | None = None
    seed: int | None = None
    chat_template_kwargs: dict[str, Any] | None = None
