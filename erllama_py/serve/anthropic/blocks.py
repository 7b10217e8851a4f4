"""The blocks that the content of a message is made of, as structs. Source: Anthropic's API reference."""

from __future__ import annotations

from typing import Any, Literal

import msgspec


class CacheControl(msgspec.Struct, frozen=True, kw_only=True):
    """What precedes is kept for so long."""

    type: Literal["ephemeral"]
    ttl: Literal["5m", "1h"] | None = None  # five minutes


class Text(msgspec.Struct, frozen=True, kw_only=True, tag="text"):
    """Text."""

    text: str
    cache_control: CacheControl | None = None


class Image(msgspec.Struct, frozen=True, kw_only=True, tag="image"):
    """An image, which no model here can see."""

    cache_control: CacheControl | None = None


class Document(msgspec.Struct, frozen=True, kw_only=True, tag="document"):
    """A document; its text is read, where it has one."""

    source: dict[str, Any]
    title: str | None = None
    context: str | None = None
    cache_control: CacheControl | None = None


class SearchResult(msgspec.Struct, frozen=True, kw_only=True, tag="search_result"):
    """What a search of the client's has found."""

    source: str
    title: str
    content: list[Text]
    cache_control: CacheControl | None = None


class Thinking(msgspec.Struct, frozen=True, kw_only=True, tag="thinking"):
    """What the model has thought; empty where it was not shown."""

    thinking: str
    signature: str | None = None
    cache_control: CacheControl | None = None


class RedactedThinking(msgspec.Struct, frozen=True, kw_only=True, tag="redacted_thinking"):
    """What another server's model has thought, in a form that only that server reads."""

    data: str | None = None
    cache_control: CacheControl | None = None


class ToolUse(msgspec.Struct, frozen=True, kw_only=True, tag="tool_use"):
    """A call."""

    id: str
    name: str
    input: dict[str, Any] | None = None
    cache_control: CacheControl | None = None


class ToolResult(msgspec.Struct, frozen=True, kw_only=True, tag="tool_result"):
    """What came of a call."""

    tool_use_id: str
    content: str | list[Text | Image | Document | SearchResult] | None = None
    is_error: bool | None = None
    cache_control: CacheControl | None = None


Block = Text | Image | Document | SearchResult | Thinking | RedactedThinking | ToolUse | ToolResult
