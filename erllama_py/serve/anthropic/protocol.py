"""What Anthropic's Messages API takes, as structs. Source: Anthropic's API reference.

Fields that no model here can heed (`metadata`, `service_tier`, `container`, `context_management`, `mcp_servers`,
`output_config.effort`, …) and betas are taken and ignored; so are fields that nobody knows.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from erllama_py.serve.anthropic.blocks import Block, CacheControl, Text
from erllama_py.serve.core.api import Api
from erllama_py.serve.core.problems import Kind, Problem

TYPES: dict[Kind, str] = {
    "invalid": "invalid_request_error", "unauthenticated": "authentication_error", "forbidden": "permission_error",
    "not_found": "not_found_error", "conflict": "conflict_error", "too_large": "request_too_large",
    "rate_limited": "rate_limit_error", "overloaded": "overloaded_error", "unavailable": "api_error",
    "internal": "api_error",
}  # fmt: skip
OVERLOADED = 529  # of Anthropic's own: the model is busy, where 429 is about the budget of a key


def error_body(problem: Problem, request_id: str) -> dict[str, Any]:
    """An error as Anthropic's clients read it; it has no field for what is at fault, so the sentence begins with it."""
    message, param = problem.message, problem.param
    if param and not message.startswith(param):
        message = f"{param}: {message}"
    return {
        "type": "error",
        "error": {"type": TYPES[problem.kind], "message": message},
        "request_id": request_id or None,
    }


API = Api(
    "anthropic",
    error_body,
    {
        "response_tokens": "max_tokens", "json_schema": "output_config.format.schema", "parallel_tool_calls":
        "tool_choice.disable_parallel_tool_use", "thinking_budget_tokens": "thinking.budget_tokens",
    },
    b"request-id",
    {"overloaded": OVERLOADED},
)  # fmt: skip
VERSION = "anthropic-version"  # the header that all of its clients send


class Message(msgspec.Struct, frozen=True):
    """A turn; `system` ones may stand among the others."""

    role: Literal["user", "assistant", "system"]
    content: str | list[Block]


class Tool(msgspec.Struct, frozen=True, kw_only=True):
    """A tool of the client's. Those that Anthropic runs or knows by their `type` have no schema, and are refused."""

    name: str
    type: str | None = None
    description: str | None = None
    input_schema: dict[str, Any] | None = None
    strict: bool | None = None
    cache_control: CacheControl | None = None


class Auto(msgspec.Struct, frozen=True, tag="auto"):
    """Calls as the model sees fit."""

    disable_parallel_tool_use: bool | None = None


class AnyTool(msgspec.Struct, frozen=True, tag="any"):
    """At least one call."""

    disable_parallel_tool_use: bool | None = None


class OneTool(msgspec.Struct, frozen=True, tag="tool"):
    """A call of this tool."""

    name: str
    disable_parallel_tool_use: bool | None = None


class NoTool(msgspec.Struct, frozen=True, tag="none"):
    """No call."""


Display = Literal["summarized", "omitted"]


class Enabled(msgspec.Struct, frozen=True, tag="enabled"):
    """Think, at most so many tokens."""

    budget_tokens: Annotated[int, Meta(ge=1)]
    display: Display | None = None


class Adaptive(msgspec.Struct, frozen=True, tag="adaptive"):
    """Think as the model sees fit."""

    display: Display | None = None


class BetweenTools(msgspec.Struct, frozen=True, tag="between_tools"):
    """The same here."""

    display: Display | None = None


class Disabled(msgspec.Struct, frozen=True, tag="disabled"):
    """Do not think."""


class Format(msgspec.Struct, frozen=True, kw_only=True):
    """What the reply is: JSON of a schema."""

    type: Literal["json_schema"]
    schema: dict[str, Any]


class OutputConfig(msgspec.Struct, frozen=True):
    """What is said of the reply."""

    format: Format | None = None


class Prompt(msgspec.Struct, frozen=True, kw_only=True):
    """What a reply is asked to: the body of `POST /v1/messages/count_tokens`."""

    messages: list[Message]
    model: str | None = None
    system: str | list[Text] | None = None
    tools: list[Tool] | None = None
    tool_choice: Auto | AnyTool | OneTool | NoTool | None = None
    thinking: Enabled | Adaptive | BetweenTools | Disabled | None = None
    output_config: OutputConfig | None = None
    output_format: Format | None = None  # as it was called in a beta
    cache_control: CacheControl | None = None


class MessagesRequest(Prompt, frozen=True, kw_only=True):
    """The body of `POST /v1/messages`."""

    max_tokens: Annotated[int, Meta(ge=0)]
    stream: bool | None = None
    stop_sequences: list[str] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: Annotated[int, Meta(ge=0)] | None = None
