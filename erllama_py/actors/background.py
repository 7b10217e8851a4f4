"""Work that an actor does beside its messages: tasks of its own, and threads for what blocks.

`Background` owns the tasks that `handle` starts so that no message waits for another one's work; the actor's
`terminate` stops them. `Threads` owns a few threads that run blocking functions. A function that has begun runs to its
end, and whoever waits for it waits until then, also when cancelled: so nothing that it was given is reused under its
hands, and what it did is known.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeVar

from erllama_py.actors.replies import Reply
from erllama_py.actors.running import settle

T = TypeVar("T")


class Background:
    """The tasks of one actor. An error that nobody waits for goes to the loop's exception handler."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, work: Coroutine[Any, Any, object]) -> asyncio.Task[None]:
        """Run `work`, for nobody."""
        return self.answer(None, work)

    def answer(self, reply: Reply[Any] | None, work: Coroutine[Any, Any, object]) -> asyncio.Task[None]:
        """Run `work` and settle `reply` with its result or error. Abandoning the reply cancels the work."""
        task = asyncio.ensure_future(self._run(reply, work))
        self._tasks.add(task)

        def ended(_: object) -> None:
            self._tasks.discard(task)
            work.close()  # where a cancellation came before its first step

        def abandoned() -> None:
            task.cancel()

        task.add_done_callback(ended)
        if reply is not None:
            reply.on_abandoned(abandoned)
        return task

    async def stop(self) -> None:
        """Cancel all tasks and return when they have ended. The calls have failed by then: their actor ends."""
        while self._tasks:
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(tuple(self._tasks))

    def __len__(self) -> int:
        return len(self._tasks)

    def __repr__(self) -> str:
        return f"<Background of {self.name!r}: {len(self)} tasks>"

    async def _run(self, reply: Reply[Any] | None, work: Coroutine[Any, Any, object]) -> None:
        try:
            value = await work
        except Exception as error:
            if reply is not None:
                reply.fail(error)
                return
            context = {"message": f"background work of {self.name!r} failed", "exception": error}
            asyncio.get_running_loop().call_exception_handler(context)
        else:
            if reply is not None:
                reply.send(value)


class Threads:
    """At most `count` threads, begun when they are needed, or by `begin`."""

    def __init__(self, name: str, count: int) -> None:
        self._count = count
        self._pool = ThreadPoolExecutor(count, thread_name_prefix=name)

    async def begin(self) -> None:
        """Begin all threads now, while nobody waits for them.

        Who begins a thread is held up until it runs; beside busy engine threads the loop was, for up to 37 ms. So it
        begins one, and that one the others.
        """
        await self.run(self._begin_others)

    def _begin_others(self) -> None:
        others = self._count - 1
        all_there = threading.Barrier(max(1, others))  # none is idle before, and so each task begins a thread
        for _ in range(others):
            self._pool.submit(all_there.wait)

    async def run(self, function: Callable[..., T], *args: object) -> T:
        """Call `function` on a thread. A cancellation takes effect once the function has returned."""
        future = asyncio.get_running_loop().run_in_executor(self._pool, function, *args)
        try:
            await settle(future)
        finally:
            # Retrieved, so that an error that a cancellation has overtaken is no complaint of the loop's.
            future.exception()
        return future.result()

    async def finish(self, function: Callable[..., T], *args: object) -> T:
        """Call `function` on a thread; a cancellation is dropped: for what must be done, and made known, once begun."""
        future = asyncio.get_running_loop().run_in_executor(self._pool, function, *args)
        with suppress(asyncio.CancelledError):
            await settle(future)
        return future.result()

    def close(self) -> None:
        """Let the idle threads end; nothing may be running or asked for any more."""
        self._pool.shutdown(wait=False)
