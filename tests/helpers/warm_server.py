"""A server in a process of its own that begins at once: it is forked from one that has imported what it needs.

For tests that begin many and kill them. It does not end as an interpreter does: see `server_process` for that. Its
batches come to so many answers and wait then: however late a test looks, there is something left of them.
"""

from __future__ import annotations

import asyncio
import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from helpers.server_process import PATIENCE, STUB

if TYPE_CHECKING:
    from erllama_py.serve.app import App

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["erllama_py.serve.app", "erllama_py.serve.config", "erllama_py.serve.running"])
MOMENT = 0.002  # seconds; a line of a batch takes about as long


class WarmServer:
    """The process, and a client of it."""

    def __init__(self, tables: dict[str, Any], folder: Path, most: int | None) -> None:
        self._told, tells = CONTEXT.Pipe(duplex=False)
        self.process = CONTEXT.Process(target=_serve, args=(tables, folder, most, tells), daemon=True)
        self.process.start()
        tells.close()
        self.client = httpx.Client(base_url=self._hear(), timeout=PATIENCE)
        assert self._hear() == "ready"

    def _hear(self) -> str:
        assert self._told.poll(PATIENCE)
        word: str = self._told.recv()
        return word

    def goes_on(self) -> None:
        """Let it have the CPU for a moment, in which it does not end."""
        self.process.join(MOMENT)
        assert self.process.is_alive()

    def ended(self) -> int | None:
        """Its exit code, once it has ended."""
        self.process.join(PATIENCE)
        return self.process.exitcode

    def close(self) -> None:
        """Allowed at any time."""
        self.client.close()
        self._told.close()
        self.process.kill()
        self.process.join()
        self.process.close()


@contextmanager
def warm_server(folder: Path, *, most: int | None = None, **tables: Any) -> Iterator[WarmServer]:
    """A server with one stub that answers; `tables` are those of its configuration. With `most` answers a batch goes on
    only when the server is told to end."""
    server = {"isolation": "thread", **tables.pop("server", {})}  # a process more is not the point
    one = WarmServer({"models": [STUB], "server": server, **tables}, folder, most)
    try:
        yield one
    finally:
        one.close()


def _serve(tables: dict[str, Any], folder: Path, most: int | None, tells: Connection) -> None:
    from erllama_py.serve.app import create_app
    from erllama_py.serve.config import check_tables
    from erllama_py.serve.running import listen, run, serve
    from erllama_py.serve.running.listening import url_of

    config = check_tables(tables, folder / "server.toml")
    with listen(config.server, config.access) as listening:
        tells.send(url_of(config.server, listening))
        app = create_app(config)
        if most is not None:
            _wait_at(most, app)
        run(serve(app, listening, config.server, ready=lambda: tells.send("ready")))


def _wait_at(most: int, app: App) -> None:
    from erllama_py.serve.batches.outputs import Outputs

    add, ends = Outputs.add, asyncio.Event()
    app.service.open.drained.add(ends.set)

    async def waits(self: Outputs, line: int, data: bytes, *, well: bool) -> None:
        if self.completed >= most:
            await ends.wait()
        await add(self, line, data, well=well)

    Outputs.add = waits  # type: ignore[method-assign]  # of a process that is forked for one test
