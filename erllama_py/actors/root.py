"""The root of a tree, and the border between it and the code that uses it.

Owns the root supervisor's task. Protocol: `start` and `stop`, from any tasks of one event loop, or `async with`. In a
block, a root that gives up cancels the task that entered it the way `asyncio.TaskGroup` does, and leaving the block
raises the failure, once and as it is. An error of the block itself goes through unchanged; a failure of the tree at the
same time is noted on it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType

import anyio

from erllama_py.actors.child import AnySupervisor, TreeNode
from erllama_py.actors.errors import ActorEnded, SupervisorClosed
from erllama_py.actors.exits import Exit, Raised, describe
from erllama_py.actors.running import Run, call_listener, settle


class Tree:
    """See the module's text. It runs once. `failure` is why the root ends by itself, None while it does not;
    `on_failure` gets it before anything below the root is stopped."""

    def __init__(
        self, root: AnySupervisor, on_failure: Callable[[BaseException], object] = lambda failure: None
    ) -> None:
        self.failure: BaseException | None = None
        self._root = root
        self._on_failure = on_failure
        self._run: Run | None = None
        self._stopping = False
        self._body: asyncio.Task[object] | None = None
        self._body_cancelled = False

    async def start(self) -> None:
        """Start the tree and return when all of it is ready.

        Raises the first error of a child that could not start, as it is, after stopping those that could. Cancelling
        the caller undoes the start; `SupervisorClosed` means that `stop` ended it.
        """
        if self._run is not None:
            raise RuntimeError(f"the tree {self._root.name!r} was started already")
        anyio.current_time()  # it imports the rest of itself when it is used: not when no descriptor is left for that
        run = self._run = Run(self._root.name, lambda: self._root, self._ends)
        try:
            await asyncio.wait((run.ready, run.task), return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            self._stopping = True
            run.request_stop()
            await settle(run.task)
            raise
        if not run.ready.done() or self._stopping:
            if isinstance(run.exit, Raised):
                raise run.exit.error
            raise SupervisorClosed(self._root.name)
        run.task.add_done_callback(self._on_end)

    async def stop(self) -> None:
        """End the tree and return when it has ended; its deadlines bound that. Allowed twice, and before a start.

        A cancellation is held back until then. A failure of the tree is not raised here: see `failure`.
        """
        self._stopping = True
        if self._run is not None:
            self._run.request_stop()
            await settle(self._run.task)

    def snapshot(self) -> TreeNode:
        """The whole tree, to look at or print; also after it has ended."""
        return self._root.snapshot()

    async def __aenter__(self) -> Tree:
        await self.start()
        self._body = asyncio.current_task()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        body, self._body = self._body, None
        ours = self._body_cancelled and body is asyncio.current_task()
        if ours and body is not None:
            body.uncancel()
            if not isinstance(error, asyncio.CancelledError):
                await _absorb_cancel()
        cancelled: asyncio.CancelledError | None = None
        try:
            await self.stop()
        except asyncio.CancelledError as held_back:
            cancelled = held_back
        real = error is not None and not isinstance(error, asyncio.CancelledError)
        if real and self.failure is not None and error is not None:
            error.add_note(f"the supervision tree failed as well: {describe(self.failure)}")
        if real:
            return
        if self.failure is not None:
            raise self.failure
        if cancelled is not None and error is None:
            raise cancelled

    def _ends(self, exit: Exit) -> bool:
        """The root is about to end; whether it failed to start is known to the caller of `start`."""
        ready = self._run is not None and self._run.ready.done()
        if ready and self.failure is None and (isinstance(exit, Raised) or not self._stopping):
            self.failure = exit.error if isinstance(exit, Raised) else ActorEnded(self._root.name, exit)
            call_listener(self._on_failure, self.failure)
        return True

    def _on_end(self, task: asyncio.Task[Exit]) -> None:
        exit = self._run.exit if self._run is not None else None
        if exit is not None:
            self._ends(exit)
        if self.failure is not None and not self._stopping and self._body is not None and not self._body.done():
            self._body_cancelled = True
            self._body.cancel()


async def _absorb_cancel() -> None:
    """Consume the cancellation that was requested but not delivered, because the block ended first."""
    try:
        await asyncio.sleep(0)
    except asyncio.CancelledError:
        return
