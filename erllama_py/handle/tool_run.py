"""The loop of an agent: the model replies, its calls are carried out, and it is asked again, until it answers.

    result = await model.run_tools(messages, tools=[search, add])

    async with model.run_tools(messages, tools=[search, add]) as run:
        async for event in run: ...

The list of messages is the whole state. Each step goes into it when it is complete: a reply, a call's result. So a run
that was cut short, whatever by, is taken up by another one with the same list; a call that was under way is then
carried out again. Nothing here outlives its call.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator, Mapping, MutableSequence
from types import TracebackType
from typing import Any, NamedTuple, Self

import anyio

from erllama_py.actors import settle
from erllama_py.errors import InvalidOption, ModelCrashed, StreamMisused
from erllama_py.errors.shown import shown
from erllama_py.handle.caller import Caller
from erllama_py.handle.carrying_out import Calls
from erllama_py.handle.event_queue import EventQueue
from erllama_py.handle.open_calls import OpenCall, follows_result, has_answer, open_calls, stray_result
from erllama_py.handle.stream import Stream
from erllama_py.handle.tool_list import tool_list
from erllama_py.handle.tracing import operation_span
from erllama_py.options.check import convert
from erllama_py.options.names import UNKNOWN, nearest_name, option_names
from erllama_py.options.request import parse_request_options
from erllama_py.options.tool_run import ToolRunOptions
from erllama_py.results import Completion, Done, RoundStarted, RunDone, RunEnd, RunEvent, ToolRunResult
from erllama_py.watch.spans import of_tool_run

ATTEMPTS = 3  # at one reply that is to fail when its model crashes, before the run itself does
OUTSIDE = "a run is read inside its block: async with model.run_tools(…) as run"


class Chats(NamedTuple):
    """How the model is asked."""

    chat: Callable[..., Awaitable[Completion]]
    """`Model.chat`."""
    stream_chat: Callable[..., Stream]
    """`Model.stream_chat`."""


class ToolRun:
    """A run of `run_tools`: awaited for its `ToolRunResult`, or entered and read as events, once."""

    def __init__(
        self,
        caller: Caller,
        model: Chats,
        messages: MutableSequence[Any],
        given: Mapping[str, object],
        limits: Mapping[str, object],
    ) -> None:
        self._caller, self._model, self._messages = caller, model, messages
        self._given, self._limits = given, limits
        self._events: EventQueue[RunEvent] | None = None  # `None` where nobody reads them
        self._begun = self._over = self._left = self._cancelled = False
        self._task: asyncio.Task[ToolRunResult] | None = None
        self._stream: Stream | None = None
        self._scope: anyio.CancelScope | None = None
        self._completions: list[Completion] = []

    # --- for callers -------------------------------------------------------------------------------------------

    def __await__(self) -> Generator[Any, None, ToolRunResult]:
        self._begin()
        return self._run().__await__()

    async def __aenter__(self) -> Self:
        self._begin()
        self._events = events = EventQueue[RunEvent]()
        self._task = asyncio.create_task(self._run())
        self._task.add_done_callback(lambda _: events.wake())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        task = self._task
        assert task is not None
        assert self._events is not None
        self._left = True
        task.cancel()
        try:
            await settle(task, task.cancel)  # from the second one on it waits for no thread
        finally:
            self._events.clear()
            if not task.cancelled():
                task.exception()  # retrieved: its reader has got it, or has left without waiting for it

    def __aiter__(self) -> Self:
        self._entered()
        return self

    async def __anext__(self) -> RunEvent:
        task = self._entered()
        assert self._events is not None
        while not self._over:
            if self._events:
                return self._events.take()
            if task.done():
                self._over = True
                return RunDone(task.result())
            await self._events.changed()
        raise StopAsyncIteration

    @property
    def result(self) -> ToolRunResult:
        """What the run came to, once its events are read to the end. Raises what the run raised."""
        task = self._task
        if task is None or not task.done():
            raise StreamMisused("the run is not over")
        return task.result()

    def cancel(self) -> None:
        """End the run with what there is: the reply or the calls under way are cancelled, and are not among the
        messages. No effect when it is over."""
        self._entered()
        self._cancelled = True
        if self._stream is not None:
            self._stream.cancel()
        if self._scope is not None:
            self._scope.cancel()

    # --- reading -----------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        self._caller.check_loop()
        if self._begun:
            raise StreamMisused("a run is carried out once")
        self._begun = True

    def _entered(self) -> asyncio.Task[ToolRunResult]:
        self._caller.check_loop()
        if self._task is None or self._left:
            raise StreamMisused(OUTSIDE)
        return self._task

    def _emit(self, event: RunEvent) -> None:
        if self._events is not None:
            self._events.put(event)

    # --- the loop ----------------------------------------------------------------------------------------------

    async def _run(self) -> ToolRunResult:
        with operation_span("invoke_agent", self._caller.model_id) as span:
            done = await self._steps()
            span.tell(lambda: of_tool_run(done))
        return done

    async def _steps(self) -> ToolRunResult:
        options = convert(self._limits, ToolRunOptions)
        given: object = self._messages
        if not isinstance(given, MutableSequence):
            found = type(given).__name__
            raise InvalidOption("messages", f"a list is expected, to which the run appends, got {found}")
        if (stray := stray_result(self._messages)) is not None:
            problem = f"the result with tool_call_id={shown(stray)} belongs to none of the calls before it"
            raise InvalidOption("messages", problem)
        deadline = self._check()
        ends_at = None if deadline is None else anyio.current_time() + deadline
        tools = await self._caller.threads.run(tool_list, self._given.get("tools"))
        if not tools:
            raise InvalidOption("tools", "a run needs at least one tool")
        self._given = {**self._given, "tools": tools}
        calls = Calls(self._caller.home, tools, options, self._messages, self._emit)
        while (ended := await self._step(calls, options.max_rounds, ends_at)) is None:
            pass
        left = tuple(one.call for one in self._open_calls())
        return ToolRunResult(
            ended=ended, completions=tuple(self._completions), messages=self._messages, open_calls=left
        )  # fmt: skip

    def _check(self) -> float | None:
        """Hold the options of the requests against what a run can do, before its first step. The deadline, if any."""
        try:
            checked = parse_request_options(self._given)
        except InvalidOption as error:
            if error.nearest or not error.problem.startswith(UNKNOWN):
                raise
            if (nearest := nearest_name(error.option, "", list(option_names(ToolRunOptions)))) is None:
                raise
            raise InvalidOption(error.option, UNKNOWN, nearest) from None  # one of the run itself was meant
        if checked.n > 1:
            raise InvalidOption("n", "a run goes on from one reply")
        if checked.continue_final_message:
            raise InvalidOption("continue_final_message", "a run appends whole messages")
        self._caller.check_generates()
        self._caller.board.check()
        return checked.deadline

    async def _step(self, calls: Calls, max_rounds: int, ends_at: float | None) -> RunEnd | None:
        """Carry out the calls of the last reply, or ask for the next one. How the run has ended, if it has."""
        if self._cancelled:
            return "cancelled"
        if ends_at is not None and anyio.current_time() >= ends_at:
            return "deadline"
        self._caller.board.check()  # where the model is gone for good, no result is of use to it
        open_ = self._open_calls()
        if not open_:
            return "answer" if has_answer(self._messages) else await self._ask(ends_at)
        if len(self._completions) >= max_rounds:
            return "max_rounds"
        ours = [one for one in open_ if not calls.is_callers(one)]
        if not ours:
            return "calls"
        await self._carry_out(calls, ours, ends_at)
        return None

    def _open_calls(self) -> list[OpenCall]:
        """Those of the messages. What a message does not say of a call, such as why it is malformed, the last reply of
        this run does."""
        known = {call.id: call for call in self._completions[-1].tool_calls} if self._completions else {}
        return [OpenCall(one.number, known.get(one.call.id, one.call)) for one in open_calls(self._messages)]

    async def _carry_out(self, calls: Calls, ours: list[OpenCall], ends_at: float | None) -> None:
        """What ends the block early, the next step sees."""
        with anyio.CancelScope(deadline=float("inf") if ends_at is None else ends_at) as self._scope:
            await calls.carry_out(ours)
        self._scope = None

    async def _ask(self, ends_at: float | None) -> RunEnd | None:
        """Ask for the next reply."""
        completion = await self._reply(ends_at)
        self._completions.append(completion)
        match completion.finish_reason:
            case "cancelled" | "deadline" as early:
                return early
        self._messages.append(completion.message)
        return None

    async def _reply(self, ends_at: float | None) -> Completion:
        """The next reply. It goes on where the model crashes in the middle; where it is to fail, it is asked for
        again."""
        given = dict(self._given)
        if follows_result(self._messages) and given.get("tool_choice") != "none":
            given.pop("tool_choice", None)  # it has been followed; for ever, there would be no answer
        attempt = 1
        while True:
            if ends_at is not None:
                given["deadline"] = max(1e-3, ends_at - anyio.current_time())
            self._emit(RoundStarted(len(self._completions) + 1, attempt))
            try:
                return await self._request(given)
            except ModelCrashed as crash:
                if crash.gave_up or crash.by_request or attempt == ATTEMPTS:
                    raise
                attempt += 1

    async def _request(self, given: Mapping[str, Any]) -> Completion:
        said = list(self._messages)
        if self._events is None:
            return await self._model.chat(said, **given)
        try:
            async with self._model.stream_chat(said, **given) as stream:
                self._stream = stream
                if self._cancelled:  # while it was begun
                    stream.cancel()
                async for event in stream:
                    self._emit(event)
                    if isinstance(event, Done):
                        return event.completion
        finally:
            self._stream = None
        raise AssertionError("a stream ends with Done")
