"""The events of a stream."""

from __future__ import annotations

from typing import Any

from erllama_py.results.completion import Completion, TokenLogprob, ToolCall
from erllama_py.results.plain import Result


class _Delta(Result, frozen=True):
    """New text of a reply."""

    text: str
    """The text that was added."""
    token_ids: list[int]
    """The tokens that made it."""
    logprobs: list[TokenLogprob] | None = None
    """How likely each of them was; `None` unless it was asked for."""
    index: int = 0
    """Which of `n` replies they are of."""


class TextDelta(_Delta, frozen=True, tag="text"):
    """New text: whole characters, never a part of a stop sequence. `token_ids` are its tokens."""


class Progress(Result, frozen=True, tag="progress"):
    """The prompt is being read: `done` of `total` tokens are in, reused ones included."""

    done: int
    """Tokens that are in the cells."""
    total: int
    """Tokens of the prompt."""
    index: int = 0
    """For which of `n` replies."""


class Done(Result, frozen=True, tag="done"):
    """The last event of every stream, also of a cancelled one."""

    completion: Completion
    """What `complete` would have returned."""


class ThinkingDelta(_Delta, frozen=True, tag="thinking"):
    """New text of what the model thinks, without markers. `token_ids` are its tokens."""


class ThinkingEnd(Result, frozen=True, tag="thinking_end"):
    """A block of thinking is over."""

    signature: str = ""
    """HMAC-SHA256 of the block under the model's `thinking_signing_key`, in hex; empty without a key."""
    index: int = 0
    """Which of `n` replies it is of."""


class ToolCallDelta(Result, frozen=True, tag="tool_call"):
    """More of a call that is being written."""

    id: str
    """The call's."""
    name: str
    """The tool's name; empty as long as it is not known."""
    arguments: dict[str, Any]
    """What is known of them by now; the last text may be incomplete."""
    text: str
    """The text that was added, as the model wrote it."""
    token_ids: list[int]
    """The tokens that made it."""
    logprobs: list[TokenLogprob] | None = None
    """How likely each of them was; `None` unless it was asked for."""
    index: int = 0
    """Which of `n` replies they are of."""


class ToolCallEnd(Result, frozen=True, tag="tool_call_end"):
    """A call is complete."""

    call: ToolCall
    """As it is in `Completion.tool_calls`."""
    index: int = 0
    """Which of `n` replies it is of."""


class CallText(Result, frozen=True, tag="call_text"):
    """What an engine knows of a call: its text. Never handed out; `ToolCallDelta` and `ToolCallEnd` are made of it."""

    text: str
    token_ids: list[int]
    logprobs: list[TokenLogprob] | None = None
    closed: bool = False
    index: int = 0


Event = TextDelta | ThinkingDelta | ThinkingEnd | ToolCallDelta | ToolCallEnd | Progress | Done
"""What a stream yields."""

EngineEvent = Event | CallText
"""What comes of an engine."""
