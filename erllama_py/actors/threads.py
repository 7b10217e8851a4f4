"""Threads for work that blocks or takes long, private to their owner. The only file that may hand work to a thread.

The default threads of anyio and of the event loop belong to the application. If the application's calls used them all
up waiting for something here, and that needed such a thread, both would wait for ever.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future, wait
from contextlib import suppress
from functools import partial
from queue import SimpleQueue
from typing import ParamSpec, TypeVar

import anyio

from erllama_py.actors.exits import describe
from erllama_py.stacks import begin_thread

T = TypeVar("T")
P = ParamSpec("P")
Tasks = SimpleQueue[Callable[[], None] | None]


# Seconds between two looks. The system gives a signal to any thread, and Python handles it once the main one goes on.
LOOK = 0.2


class ThreadsClosed(RuntimeError):
    """Work was handed to threads whose owner has closed them."""


class Threads:
    """At most `count` threads, begun when they are needed, or by `begin`."""

    def __init__(self, name: str, count: int) -> None:
        self._count = count
        self._pool = _Pool(name, count)

    @property
    def executor(self) -> Executor:
        """The threads, for libraries that take an executor."""
        return self._pool

    async def begin(self, count: int | None = None) -> None:
        """Begin `count` threads now, by default all, before work waits for them.

        Starting a thread holds up the starter until it runs: up to 37 ms on the loop beside busy engine threads. So
        the loop begins one, and that one the others.
        """
        await self.run(self._begin_others, (count or self._count) - 1)

    def _begin_others(self, others: int) -> None:
        all_there = threading.Barrier(max(1, others))  # no thread is idle until all are there, so each task begins one
        with suppress(RuntimeError):  # they were closed meanwhile
            for _ in range(others):
                self._pool.submit(all_there.wait)
        if self._pool.begun <= others:  # also where the system has no thread left: those that are there must do
            all_there.abort()

    async def run(self, function: Callable[..., T], *args: object) -> T:
        """Call `function` on a thread. Once begun it runs to its end, and a cancellation takes effect after that: so
        its arguments are not reused meanwhile, and its outcome is known. A second cancellation does not wait."""
        work = self._pool.submit(_call, function, *args)
        future = asyncio.wrap_future(work)
        try:
            await asyncio.wait((future,))
        except asyncio.CancelledError:
            if not work.cancel():
                await _end(future)
                future.exception()  # retrieved: the loop would complain of an error that a cancellation has overtaken
            raise
        return future.result()

    def call(self, function: Callable[..., T], *args: object, leave: Callable[[], None] = lambda: None) -> T:
        """Call `function` on a thread and wait for it, outside of an event loop. What a signal raises meanwhile comes
        when it is done, after `leave` has told it so; a second signal does not wait."""
        work = self._pool.submit(function, *args)
        try:
            while not wait((work,), LOOK).done:
                pass
            return work.result()
        except BaseException:
            leave()
            wait((work,))
            raise

    async def abandon(self, function: Callable[..., T], *args: object) -> T:
        """Call `function` on a thread; a cancelled caller does not wait for it, and its result is dropped."""
        return await asyncio.wrap_future(self._pool.submit(_call, function, *args))

    async def finish(self, function: Callable[..., T], *args: object) -> T:
        """Call `function` on a thread; one cancellation is ignored: for work that, once begun, must be done and
        reported. A second cancellation does not wait."""
        future = asyncio.get_running_loop().run_in_executor(self._pool, _call, function, *args)
        future.add_done_callback(lambda done: done.cancelled() or done.exception())  # retrieved
        task = asyncio.current_task()
        if task is not None and task.cancelling() > 1:
            raise asyncio.CancelledError
        try:
            await asyncio.wait((future,))
        except asyncio.CancelledError:
            await _end(future)
        return future.result()

    def close(self) -> None:
        """Let the threads end when they are idle; what was asked for before is still done, unless the process ends."""
        self._pool.close()


class _Pool(Executor):
    """As `ThreadPoolExecutor`, but the interpreter's end does not wait for its threads: where a disk hangs, the process
    would never end."""

    def __init__(self, name: str, count: int) -> None:
        self._name, self._count, self.begun, self._closed = name, count, 0, False
        self._lock, self._tasks, self._idle = threading.Lock(), Tasks(), threading.Semaphore(0)

    def submit(self, function: Callable[P, T], /, *args: P.args, **options: P.kwargs) -> Future[T]:
        future = Future[T]()
        with self._lock:
            if self._closed:
                raise ThreadsClosed("these threads were closed")
            if self.begun < self._count and not self._idle.acquire(blocking=False):
                name = f"{self._name}_{self.begun}"
                try:
                    begin_thread(threading.Thread(target=_work, args=(self._tasks, self._idle), name=name, daemon=True))
                    self.begun += 1
                except RuntimeError:  # the system has no thread left
                    if not self.begun:
                        raise
            self._tasks.put(partial(_fulfil, future, partial(function, *args, **options)))
        return future

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._tasks.put(None)

    def __del__(self) -> None:  # no thread refers to its pool
        self.close()


def _work(tasks: Tasks, idle: threading.Semaphore) -> None:
    while (task := tasks.get()) is not None:
        task()
        del task  # release its arguments before waiting for the next one
        idle.release()
    tasks.put(None)  # for the other threads


def _fulfil(future: Future[T], function: Callable[[], T]) -> None:
    if future.set_running_or_notify_cancel():
        try:
            future.set_result(function())
        except BaseException as error:
            future.set_exception(error)
            del future  # which holds the error, and that this frame


async def _end(future: asyncio.Future[T]) -> None:
    """Wait for what a thread does for a caller that was cancelled. A second cancellation ends that: where a disk hangs,
    an event loop that is being closed must not wait for ever."""
    with anyio.CancelScope(shield=True):  # else a scope that is cancelled does it again and again
        await asyncio.wait((future,))


def _call(function: Callable[..., T], *args: object) -> T:
    """An exception that no future can hold, or that would end the loop when raised there, becomes a `RuntimeError`."""
    try:
        return function(*args)
    except BaseException as error:
        if isinstance(error, Exception) and not isinstance(error, StopIteration):
            raise
        raise RuntimeError(f"a function on a thread raised {describe(error)}") from error
