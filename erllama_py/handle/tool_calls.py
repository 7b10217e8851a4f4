"""The calls of tools in one request's replies: the events of a stream, and what a completion has in the end.

An engine knows calls as sections of text; here they are read, in the format of the model. The ids are the same in both,
whichever comes first.
"""

from __future__ import annotations

import secrets
import string
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from erllama_py.chat.arguments import problem_of
from erllama_py.chat.segments import begun
from erllama_py.chat.tool import Tool, no_tool
from erllama_py.chat.tool_formats import Read, ToolFormat
from erllama_py.results import CallText, Completion, EngineEvent, ToolCall, ToolCallDelta, ToolCallEnd
from erllama_py.scheduler.messages import Feed

# A section is read again whenever it grows; from this many characters on, when it has grown by a part of its length,
# so that all readings of a long one together take some milliseconds.
READ_EACH, GROWN = 16_384, 64


class ReplyCalls:
    """The calls of the replies to one request."""

    def __init__(self, form: ToolFormat, tools: Sequence[Tool]) -> None:
        self.form = form
        self._tools = {tool.name: tool for tool in tools}
        self.schemas: Mapping[str, dict[str, Any]] = {name: tool.parameters for name, tool in self._tools.items()}
        self.heads = form.marks(tuple(self._tools)).heads
        self._ids: dict[tuple[int, int], str] = {}

    def id_of(self, index: int, number: int) -> str:
        """The id of a call: which of `n` alternatives it is in, and which of the calls there."""
        if (index, number) not in self._ids:
            self._ids[index, number] = (
                _short_id() if self.form.short_ids else f"call_{secrets.token_hex(12)}"
            )  # as in OpenAI's API
        return self._ids[index, number]

    def events(self, feed: Feed, index: int) -> Feed:
        """What takes the events of one alternative as the engine reports them; calls are read for `feed`."""
        return CallEvents(self, feed, index)

    def finish(self, completion: Completion, index: int) -> Completion:
        """The completion with its calls, which were the texts of sections."""
        sections = [section.text for section in completion.tool_calls]
        return msgspec.structs.replace(completion, tool_calls=self.read(sections, index))

    def read(self, sections: Sequence[str], index: int) -> tuple[ToolCall, ...]:
        """All calls of a reply."""
        calls: list[ToolCall] = []
        for section in sections:
            reads = self.form.read(section, self.schemas, True)
            for one, text in zip(reads, texts_of(reads, section), strict=True):
                calls.append(self.call(one, text, self.id_of(index, len(calls))))
        return tuple(calls)

    def call(self, read: Read, text: str, call_id: str) -> ToolCall:
        """A call that nothing is added to any more."""
        problem = read.problem or self._problem(read)
        return ToolCall(id=call_id, name=read.name, arguments=read.arguments or {}, text=text, problem=problem)

    def _problem(self, read: Read) -> str | None:
        if not read.whole:
            return "the call is not complete"
        tool = self._tools.get(read.name)
        if tool is None:
            return no_tool(read.name, tuple(self._tools.values()))
        return problem_of(read.arguments or {}, tool.parameters)


def _short_id() -> str:
    return "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(9))


def texts_of(reads: Sequence[Read], section: str) -> list[str]:
    """The text of each call; together they are the section."""
    ends = [read.start for read in reads[1:]] + [len(section)]
    return [section[read.start : end] for read, end in zip(reads, ends, strict=True)]


class CallEvents:
    """The events of one alternative, with its calls read. On the event loop."""

    def __init__(self, calls: ReplyCalls, feed: Feed, index: int) -> None:
        self._calls, self._feed, self._index = calls, feed, index
        self._number = 0  # calls of sections that are over
        self._begin()

    def _begin(self) -> None:
        self._section = ""
        self._next_read = 0  # how long it is when it is read again
        self._given = 0  # characters of it that were handed out
        self._ended = 0  # calls of it
        self._held: list[CallText] = []  # whose tokens were not handed out

    def __call__(self, event: EngineEvent) -> None:
        """The next event of the engine's."""
        if not isinstance(event, CallText):
            self._feed(event)
            return
        self._section += event.text
        self._held.append(event)
        if event.closed or len(self._section) >= self._next_read:
            size = len(self._section)
            self._next_read = size + (size // GROWN if size > READ_EACH else 0)
            self._read(event.closed)
        if event.closed:
            self._begin()

    def _read(self, over: bool) -> None:
        section = self._section
        reads = self._calls.form.read(section, self._calls.schemas, over)
        # What may be the beginning of another call is no part of this one yet.
        known = len(section) - (0 if over else begun(section, self._calls.heads))
        ends = [read.start for read in reads[1:]] + [known]
        for number in range(self._ended, len(reads)):
            read, is_last = reads[number], number == len(reads) - 1
            call_id = self._calls.id_of(self._index, self._number + number)
            if ends[number] > self._given:
                self._delta(read, call_id, section[self._given : ends[number]], take=is_last)
                self._given = ends[number]
            if over or not is_last:
                text = section[read.start : ends[number]]
                self._feed(ToolCallEnd(self._calls.call(read, text, call_id), self._index))
                self._ended += 1
        if over:
            self._number += len(reads)

    def _delta(self, read: Read, call_id: str, text: str, *, take: bool) -> None:
        """New text of a call; the tokens that came with it go to the last call that has a part of them."""
        held, self._held = (self._held, []) if take else ([], self._held)
        tokens = [token for event in held for token in event.token_ids]
        logprobs = [one for event in held for one in event.logprobs or ()]
        has_logprobs = any(event.logprobs is not None for event in held)
        self._feed(
            ToolCallDelta(
                call_id, read.name, read.arguments or {}, text, tokens, logprobs if has_logprobs else None, self._index
            )
        )
