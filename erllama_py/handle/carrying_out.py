"""Carrying out the calls of one reply: side by side, each within its time, and whatever goes wrong told to the model.

Coroutine functions run in a task of their own, all others on threads that are kept for them. A thread cannot be
cancelled: what runs there past its time, or for a run that was left, goes on and its result is dropped.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import time
from collections.abc import Callable, MutableSequence, Sequence
from functools import partial
from typing import Any

import anyio
import msgspec

from erllama_py.actors import Home, ThreadsClosed, describe
from erllama_py.chat.functions import Function
from erllama_py.chat.tool import Tool, no_tool
from erllama_py.handle.open_calls import OpenCall, add_result, content_of, error_content
from erllama_py.handle.tracing import tool_span
from erllama_py.options.tool_run import ToolRunOptions
from erllama_py.results import RunEvent, ToolFinished, ToolStarted
from erllama_py.watch.log import get_logger


class Outcome(msgspec.Struct, frozen=True):
    """What a call came to."""

    content: str
    value: object = None
    problem: str | None = None
    cause: BaseException | None = None
    failure: str = "invalid_call"  # what a problem is for a span: a word, or the class of the cause


class Calls:
    """Carries out calls for one run, and puts the results among its `messages` as they come."""

    def __init__(
        self,
        home: Home,
        tools: Sequence[Tool],
        options: ToolRunOptions,
        messages: MutableSequence[Any],
        emit: Callable[[RunEvent], None],
    ) -> None:
        self._home, self._options, self._messages, self._emit = home, options, messages, emit
        self._tools = {tool.name: tool for tool in tools}
        self._places = anyio.Semaphore(options.parallel_calls)

    def is_callers(self, one: OpenCall) -> bool:
        """Whether it is the caller's to carry out: a sound call of a tool without a function."""
        tool = self._tools.get(one.call.name)
        return one.call.problem is None and tool is not None and tool.function is None

    async def carry_out(self, calls: Sequence[OpenCall]) -> None:
        """Carry out these calls. A cancellation ends those under way; results that are there stay."""
        async with anyio.create_task_group() as group:
            for one in calls:
                group.start_soon(self._one, one)

    async def _one(self, one: OpenCall) -> None:
        async with self._places:
            self._emit(ToolStarted(one.call))
            began = time.monotonic()
            try:
                with tool_span(one.call.name if one.call.name in self._tools else None) as span:
                    outcome = await self._outcome(one)
                    if outcome.problem is not None:
                        span.fail(outcome.failure)
            except ThreadsClosed:  # the runtime was closed: the call stays open, and the run's next step raises
                return
            seconds = time.monotonic() - began
        add_result(self._messages, one, outcome.content)
        self._emit(ToolFinished(one.call, outcome.content, seconds, outcome.value, outcome.problem, outcome.cause))

    async def _outcome(self, one: OpenCall) -> Outcome:
        call, limit = one.call, self._options.max_result_characters
        tool = self._tools.get(call.name)
        if call.problem is not None:
            return self._failed(f"the call cannot be carried out: {call.problem}")
        if tool is None or tool.function is None:
            return self._failed(no_tool(call.name, list(self._tools.values())))
        try:
            arguments = tool.function.read(call.arguments)
        except ValueError as error:
            return self._failed(str(error))
        timeout = self._options.tool_timeout
        try:
            with anyio.move_on_after(timeout) as scope:
                value = await self._call(tool.function, arguments)
                text = content_of(value, limit) if isinstance(value, str) else await self._content(value)
                return Outcome(text, value)
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            return self._raised(call.name, error)  # by itself
        except (ThreadsClosed, KeyboardInterrupt, GeneratorExit):
            raise
        except BaseException as error:  # the application's own code; it may be `SystemExit` of a parser of arguments
            return self._raised(call.name, error)
        assert scope.cancelled_caught
        return self._failed(f"it was cancelled after {timeout:g} seconds", failure="timeout")

    async def _call(self, function: Function, arguments: dict[str, object]) -> object:
        call = partial(function.call, **arguments)
        if function.is_async:
            return await call()
        threads = await self._home.tool_threads()
        value = await threads.abandon(contextvars.copy_context().run, call)
        return await value if inspect.isawaitable(value) else value

    async def _content(self, value: object) -> str:
        """How long JSON takes is for the value to say: not on the loop."""
        return await self._home.threads.abandon(content_of, value, self._options.max_result_characters)

    def _raised(self, name: str, error: BaseException) -> Outcome:
        get_logger().info("a tool failed", tool=name, error=describe(error), exc_info=error)
        return self._failed(describe(error), error, failure=type(error).__name__)

    def _failed(self, problem: str, cause: BaseException | None = None, *, failure: str = "invalid_call") -> Outcome:
        return Outcome(error_content(problem, self._options.max_result_characters), None, problem, cause, failure)
