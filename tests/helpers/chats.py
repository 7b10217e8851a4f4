"""A model whose replies are given, with the calls in them: for what becomes of calls, whatever their format."""

from __future__ import annotations

import itertools
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec

import erllama_py as erllama
from erllama_py.handle.tool_run import Chats, ToolRun
from helpers.runtime import stub_runtime

Reply = str | list[erllama.ToolCall] | BaseException
_numbers = itertools.count(1)


def call(name: str, problem: str | None = None, **arguments: Any) -> erllama.ToolCall:
    """A call with an id of its own."""
    text = json.dumps(arguments)
    return erllama.ToolCall(id=f"call_{next(_numbers)}", name=name, arguments=arguments, text=text, problem=problem)


class ScriptedChats:
    """Replies in order; the last one comes again. `asked` is what it was given each time."""

    def __init__(self, model: erllama.Model, blank: erllama.Completion, replies: tuple[Reply, ...]) -> None:
        self.model = model
        self.asked: list[tuple[list[Any], dict[str, Any]]] = []
        self._blank, self._replies = blank, replies

    def _next(self, messages: list[Any], given: dict[str, Any]) -> erllama.Completion:
        self.asked.append((messages, given))
        reply = self._replies[min(len(self.asked), len(self._replies)) - 1]
        if isinstance(reply, BaseException):
            raise reply
        if isinstance(reply, str):
            return msgspec.structs.replace(self._blank, reply=reply)
        return msgspec.structs.replace(self._blank, reply="", tool_calls=tuple(reply))

    async def chat(self, messages: list[Any], **given: Any) -> erllama.Completion:
        """As `Model.chat`."""
        return self._next(messages, given)

    @asynccontextmanager
    async def stream_chat(self, messages: list[Any], **given: Any) -> AsyncIterator[AsyncIterator[erllama.Event]]:
        """As `Model.stream_chat`."""
        completion = self._next(messages, given)

        async def events() -> AsyncIterator[erllama.Event]:
            if completion.reply:
                yield erllama.TextDelta(completion.reply, [1])
            for one in completion.tool_calls:
                yield erllama.ToolCallEnd(one)
            yield erllama.Done(completion)

        yield events()

    def run(self, messages: Any, tools: Any, limits: Any = None, **given: Any) -> ToolRun:
        """As `Model.run_tools`."""
        stream: Callable[..., Any] = self.stream_chat
        chats = Chats(self.chat, stream)
        return ToolRun(self.model._caller, chats, messages, {"tools": tools, **given}, limits or {})


@asynccontextmanager
async def chats(*replies: Reply) -> AsyncIterator[ScriptedChats]:
    """A model that replies so, in a runtime of its own."""
    async with stub_runtime() as (_, model):
        yield ScriptedChats(model, await model.complete("x", response_tokens=1), replies)


def question() -> list[Any]:
    """How a conversation begins."""
    return [{"role": "user", "content": "what is 1 and 2?"}]


def double(x: int) -> dict[str, int]:
    """Doubles."""
    return {"twice": 2 * x}


def said(messages: list[Any]) -> list[tuple[str, str]]:
    """Who said what."""
    return [(message["role"], message["content"]) for message in messages]
