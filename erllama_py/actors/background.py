"""Work that an actor does beside its messages, in tasks of its own.

`Background` owns the tasks that `handle` starts so that no message waits for another one's work; the actor's
`terminate` stops them. For work that blocks there is `Threads`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from erllama_py.actors.replies import Reply


class Background:
    """The tasks of one actor. An error of work that answers no call goes to the loop's exception handler."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, work: Coroutine[Any, Any, object]) -> asyncio.Task[None]:
        """Run `work`, which answers no call."""
        return self.answer(None, work)

    def answer(self, reply: Reply[Any] | None, work: Coroutine[Any, Any, object]) -> asyncio.Task[None]:
        """Run `work` and settle `reply` with its result or error. Abandoning the reply cancels the work."""
        task = asyncio.ensure_future(self._run(reply, work))
        self._tasks.add(task)

        def ended(_: object) -> None:
            self._tasks.discard(task)
            work.close()  # if it was cancelled before its first step

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
