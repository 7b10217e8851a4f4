"""What a supervisor can run, and one run of it in a task of its own.

`Runnable` is the protocol between supervisors and everything below them. `Run` owns one task: it knows when the
runnable said it was ready, how it ended, and how to end it: ask, wait, cancel, wait, abandon it. The waiting
helpers are here too; they wait on futures without ever cancelling them.
"""

from __future__ import annotations

import asyncio
import inspect
import math
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any, Protocol, TypeVar

import anyio

from erllama_py.actors.clock import Clock
from erllama_py.actors.errors import UnexpectedCancel
from erllama_py.actors.exits import Exit, Raised, Returned, Stopped

T = TypeVar("T")
Future = asyncio.Future[Any]

# A task that is cancelled before its first step does nothing at all. Whatever cancels all tasks of a process also hits
# those just made to clean up: they are made again, at most this many times.
SWEEPS = 100


class Runnable(Protocol):
    """Something that gets ready, runs and ends, once. A restart makes a new one."""

    @property
    def kind(self) -> str:
        """One or two words for the tree: `actor`, `supervisor` …"""

    async def run(self, ready: Callable[[], None], ending: Callable[[Exit], bool]) -> Exit:
        """Run in a task of its own, calling `ready` once when it is.

        An error before `ready` belongs to the caller that asked for the start. One that has work to do after its end is
        decided announces the exit with `ending`: its stop deadlines count from there, and the answer says whether this
        was the last run. Being cancelled means: end now; a second cancellation means: wait for nothing more.
        """

    def request_stop(self) -> None:
        """Ask it to end, soon and in good order. Only after `run` has begun; more than once; never raises."""


class Run:
    """One run of what `make` makes.

    `ready`, `ending` (with the exit that is coming) and `task` are futures to wait on, done in this order; `ready` may
    never be done, the others always are. `is_last` is called once with the coming exit: will no run follow?
    """

    def __init__(
        self, name: str, make: Callable[[], Runnable], is_last: Callable[[Exit], bool] = lambda exit: False
    ) -> None:
        self.name = name
        self._is_last = is_last
        self._last = False
        self.runnable: Runnable | None = None
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.ending: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()
        self.task = asyncio.create_task(self._main(make), name=name)
        self.task.add_done_callback(self._on_done)

    @property
    def exit(self) -> Exit | None:
        """How it ended."""
        if not self.task.done():
            return None
        if self.task.cancelled():
            return Stopped()
        error = self.task.exception()
        if error is not None:
            return Raised(error)
        return self.task.result()

    def request_stop(self) -> None:
        """Ask it to end; before its first step, cancel it."""
        if self.runnable is None:
            self.task.cancel()
        elif not self.task.done():
            self.runnable.request_stop()

    async def stop(self, seconds: float, clock: Clock, hurry: Future) -> bool:
        """End it; returns whether it ended. Ask, wait `seconds` or until `hurry` is done, cancel, wait `seconds`."""
        self.request_stop()
        await wait_any(self.task, hurry, clock=clock, seconds=seconds)
        if not self.task.done():
            self.task.cancel()
            await wait_any(self.task, clock=clock, seconds=seconds)
        return self.task.done()

    async def _main(self, make: Callable[[], Runnable]) -> Exit:
        self.runnable = make()
        return await self.runnable.run(self._set_ready, self._set_ending)

    def _set_ready(self) -> None:
        if not self.ready.done():
            self.ready.set_result(None)

    def _set_ending(self, exit: Exit) -> bool:
        if not self.ending.done():
            self._last = self._is_last(exit)
            self.ending.set_result(exit)
        return self._last

    def _on_done(self, task: asyncio.Task[Exit]) -> None:
        _mark_retrieved(task)
        if self.exit is not None:
            self._set_ending(self.exit)


class FunctionRun:
    """One run of a coroutine function without arguments, as a `Runnable`: ready at once, stopped by cancelling it."""

    def __init__(self, function: Callable[[], Awaitable[Any]], *, kind: str = "function") -> None:
        self.kind = kind
        self._function = function
        self._task: asyncio.Task[Any] | None = None
        self._stop_requested = False

    async def run(self, ready: Callable[[], None], ending: Callable[[Exit], bool]) -> Exit:
        """Await the function. The exit is `Returned`, `Raised`, or `Stopped`, whatever it returned once stopped."""
        self._task = asyncio.current_task()
        ready()
        try:
            awaited: object = self._function()
            if not inspect.isawaitable(awaited):
                found = type(awaited).__name__
                raise TypeError(f"the function returned {found}, which cannot be awaited: make it `async def`")
            value = await awaited
        except asyncio.CancelledError as error:
            return ended_by_cancel(error)
        return Stopped() if self._stop_requested else Returned(value)

    def request_stop(self) -> None:
        """Cancel it, once: its clean-up is not cut short before the deadline."""
        if self._task is not None and not self._stop_requested:
            self._stop_requested = True
            self._task.cancel()


def ended_by_cancel(error: asyncio.CancelledError) -> Exit:
    """What a `CancelledError` in the current task means: it was cancelled, or it awaited something that was."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        return Stopped()
    failure = UnexpectedCancel()
    failure.__cause__ = error
    return Raised(failure)


async def wait_any(*futures: Future, clock: Clock | None = None, seconds: float = math.inf) -> None:
    """Return when one of `futures` is done, or after `seconds` by `clock`."""
    if clock is None or seconds == math.inf:
        await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)
        return
    if any(future.done() for future in futures):
        return
    sleeper = asyncio.ensure_future(clock.sleep(seconds))
    try:
        await asyncio.wait((*futures, sleeper), return_when=asyncio.FIRST_COMPLETED)
    finally:
        sleeper.cancel()


async def settle(future: Future, on_cancel: Callable[[], object] | None = None) -> None:
    """Return when `future` is done. A cancellation is held back until then, and raised; each calls `on_cancel`."""
    held_back: asyncio.CancelledError | None = None
    with anyio.CancelScope(shield=True):
        while not future.done():
            try:
                await asyncio.wait((future,))
            except asyncio.CancelledError as error:
                held_back = error
                if on_cancel is not None:
                    on_cancel()
    if held_back is not None:
        try:
            raise held_back
        finally:
            # Otherwise the error and this frame keep each other alive, and all that the callers hold.
            del held_back


async def outlast(work: Coroutine[Any, Any, T], on_cancel: Callable[[], None] | None = None) -> T:
    """Run `work` to its end in a task of its own, even if the current one is cancelled, and return its result.

    Each cancellation calls `on_cancel`. From the second on (those that came before this are counted in) they are
    passed on to `work`, at its first await or later: it has had its time, and an event loop that is being closed must
    not wait for ever.
    """
    current = asyncio.current_task()
    begun = overdue = False

    async def begin() -> T:
        nonlocal begun
        begun = True
        if overdue:
            task.cancel()
        return await work

    try:
        for _ in range(SWEEPS):
            task = asyncio.ensure_future(begin())
            task.add_done_callback(_mark_retrieved)
            while not task.done():
                with suppress(asyncio.CancelledError):
                    await asyncio.wait((task,))
                    break
                if on_cancel is not None:
                    on_cancel()
                overdue = current is not None and current.cancelling() > 1
                if overdue and begun:
                    task.cancel()
            if begun:
                break
        return task.result()
    finally:
        work.close()


def call_listener(listener: Callable[..., object], *args: object) -> None:
    """Call it; an error in it goes to the loop's exception handler, and is not passed on."""
    try:
        listener(*args)
    except Exception as error:
        context = {"message": f"listener {listener!r} failed", "exception": error}
        asyncio.get_running_loop().call_exception_handler(context)


def _mark_retrieved(task: asyncio.Future[Any]) -> None:
    # Without this the event loop would print errors that the kit has read, or will, from the task's exit.
    if not task.cancelled():
        task.exception()
