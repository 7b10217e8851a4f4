"""Processes of their own for the parts of a benchmark: a restart is a new process, and so is the floor.

A part is an async context manager at the top of a module: it sets something up and yields an async function, its
`answer`. `peer` runs it in a new process and asks it; between two questions it sleeps, so that nobody who is measured
shares the CPUs. Two models that decode in one process share one OpenMP runtime, which spins less once there are more
threads than CPUs: that alone would be a reason to keep parts apart.
"""

from __future__ import annotations

import asyncio
import multiprocessing
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from multiprocessing.connection import Connection
from typing import Any

Answer = Callable[..., Awaitable[Any]]
Part = Callable[..., AbstractAsyncContextManager[Answer]]


class Peer:
    """A part that runs elsewhere."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def ask(self, *question: Any) -> Any:
        """What the part's `answer` returns for these arguments; raises what it raises."""
        self._connection.send(question)
        failed, answer = self._connection.recv()
        if failed:
            raise answer
        return answer


@contextmanager
def peer(part: Part, *args: Any, **options: Any) -> Iterator[Peer]:
    """Start a part in a new process, and end it with the block. It is set up when the block begins."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_run, args=(theirs, part, args, options))
    process.start()
    theirs.close()
    try:
        ours.recv()
        yield Peer(ours)
    finally:
        ours.close()
        process.join()


def _run(connection: Connection, part: Part, args: tuple[Any, ...], options: dict[str, Any]) -> None:
    asyncio.run(_serve(connection, part(*args, **options)))


async def _serve(connection: Connection, setting: AbstractAsyncContextManager[Answer]) -> None:
    async with setting as answer:
        connection.send("ready")
        while True:
            try:
                question = await asyncio.to_thread(connection.recv)
            except EOFError:
                return
            try:
                said = False, await answer(*question)
            except Exception as error:
                said = True, error
            connection.send(said)
