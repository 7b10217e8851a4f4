"""One reading at a time from a source that may block, fail or hang, without ever holding anybody up.

What blocks runs on a daemon thread of its own, begun once: one that never returns keeps neither the runtime nor the
process from ending. A reading that takes too long is given up; while it still hangs, no other is begun.
"""

from __future__ import annotations

import asyncio
import inspect
import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from erllama_py.actors import Clock
from erllama_py.watch.pressure_plan import Reading, read_answer
from erllama_py.watch.pressure_sources import system_memory

HANG_SECONDS = 10.0  # readings are meant to take far less than one; see `pressure_sources.NVIDIA_SMI_SECONDS`


class Reader:
    """Calls `source`, async or not."""

    def __init__(self, source: Callable[[], Any], clock: Clock) -> None:
        self._source, self._clock = source, clock
        self._is_async = inspect.iscoroutinefunction(source) or inspect.iscoroutinefunction(type(source).__call__)
        self._task: asyncio.Task[Reading] | None = None
        self._in_thread = False
        self._todo: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    async def read(self) -> Reading:
        """A reading. Raises `TimeoutError`, and whatever the source raises."""
        if self._in_thread or (self._task is not None and not self._task.done()):
            raise TimeoutError("an earlier reading has not ended yet")
        self._task = task = asyncio.ensure_future(self._measure())
        task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())  # retrieved: it may be given up
        timer = asyncio.ensure_future(self._clock.sleep(HANG_SECONDS))
        try:
            await asyncio.wait((task, timer), return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise TimeoutError(f"no answer within {HANG_SECONDS:g} s")
            if task.cancelled():  # by the source itself: raised here, that would look like our own cancellation
                raise RuntimeError("the source was cancelled")
            return task.result()
        finally:
            timer.cancel()
            task.cancel()

    async def _measure(self) -> Reading:
        answer = await self._source() if self._is_async else await self._on_thread(self._source)
        if inspect.isawaitable(answer):  # from a function that is not async, but makes something to await
            answer = await answer
        reading = read_answer(answer)
        if isinstance(reading, Reading):
            return reading
        total = (await self._on_thread(system_memory)).total
        return Reading(int(reading * total), total)

    def close(self) -> None:
        """Let the thread end, once what it does has."""
        self._todo.put(None)

    async def _on_thread(self, function: Callable[[], Any]) -> Any:
        loop = asyncio.get_running_loop()
        returned: asyncio.Future[tuple[Any, Exception | None]] = loop.create_future()

        def finished(value: Any, error: Exception | None) -> None:
            self._in_thread = False
            if not returned.done():
                returned.set_result((value, error))

        def work() -> None:
            value, error = None, None
            try:
                value = function()
            except Exception as raised:
                error = raised
            finally:
                with suppress(RuntimeError):  # the loop may be closed by now
                    loop.call_soon_threadsafe(finished, value, error)

        self._in_thread = True
        if self._thread is None:
            self._thread = threading.Thread(target=_work_off, args=(self._todo,), name="pressure", daemon=True)
            self._thread.start()
        self._todo.put(work)
        value, error = await returned
        if error is not None:
            raise error
        return value


def _work_off(todo: queue.SimpleQueue[Callable[[], None] | None]) -> None:
    while (work := todo.get()) is not None:
        work()
