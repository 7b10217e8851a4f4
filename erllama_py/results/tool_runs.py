"""What `run_tools` comes to, and its events beside those of the streams in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from erllama_py.results.completion import Completion, ToolCall
from erllama_py.results.events import Event
from erllama_py.results.plain import Result

RunEnd = Literal["answer", "max_rounds", "calls", "deadline", "cancelled"]


class ToolRunResult(Result, frozen=True, kw_only=True):
    """What a run came to."""

    ended: RunEnd
    """`"answer"`: the model answered without a call; `"max_rounds"`: it still calls tools; `"calls"`: it calls tools
    that have no function, which are the caller's to carry out; `"deadline"`; `"cancelled"`."""
    completions: tuple[Completion, ...]
    """The replies of this run, in order. None where the conversation had its answer already."""
    messages: Sequence[Any]
    """The list that was given, with all that was said since."""
    open_calls: tuple[ToolCall, ...] = ()
    """Calls that have no result: the next run with these messages carries them out first."""

    @property
    def completion(self) -> Completion | None:
        """The last reply."""
        return self.completions[-1] if self.completions else None

    @property
    def reply(self) -> str:
        """The text of the answer; empty where the run ended without one."""
        last = self.messages[-1] if self.messages and self.ended == "answer" else {}
        content = last.get("content")
        return content if isinstance(content, str) else ""

    @property
    def rounds(self) -> int:
        """How many replies were asked for."""
        return len(self.completions)


class RoundStarted(Result, frozen=True, tag="round"):
    """The model is asked for its next reply. The events of its stream follow, up to its `Done`."""

    number: int
    """Of the reply in this run, from 1."""
    attempt: int = 1
    """Above 1: the model crashed in the middle of this reply, and what had come of it counts for nothing."""


class ToolStarted(Result, frozen=True, tag="tool_started"):
    """A call is being carried out."""

    call: ToolCall
    """The call."""


class ToolFinished(Result, frozen=True, tag="tool_finished"):
    """A call has its result, which is among the messages now."""

    call: ToolCall
    """The call."""
    content: str
    """What the model is told: the result, or `{"error": …}`."""
    seconds: float
    """How long the function took; 0.0 where none was called."""
    value: Any = None
    """What the function returned."""
    problem: str | None = None
    """Why there is no result: it raised, took too long, or could not be called so."""
    cause: Any = None
    """The exception that the function raised."""


class RunDone(Result, frozen=True, tag="run_done"):
    """The last event of every run."""

    result: ToolRunResult
    """What `await` would have returned."""


RunEvent = Event | RoundStarted | ToolStarted | ToolFinished | RunDone
"""What a run yields."""
