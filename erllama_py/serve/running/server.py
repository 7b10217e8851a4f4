"""A server from its socket to its end.

It listens from the beginning: until all models are loaded requests get 503, and `/health` says why. Told to end, it
lets no request in, gives those that are open their time, has all saved that is not yet, and returns. Told twice, it
ends them with what they have. Told to, by SIGHUP, it reads its configuration again, where it has one.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from typing import Any

import uvicorn

import erllama_py as erllama
from erllama_py.serve.app import App
from erllama_py.serve.core.logs import NAME
from erllama_py.serve.core.open_requests import Open
from erllama_py.serve.core.problems import Problem
from erllama_py.serve.core.service import Service
from erllama_py.serve.core.settings import ListenOpts
from erllama_py.serve.demand import Load
from erllama_py.serve.running.notify import Systemd
from erllama_py.serve.running.protocol import bounded
from erllama_py.serve.running.sockets import bounded_socket
from erllama_py.serve.running.told import Told, unless
from erllama_py.watch.log import get_logger

BACKLOG = 2048  # connections that wait to be accepted; uvicorn's own default
HURRY_SECONDS = 3  # for requests that were told to end with what they have, and again for what is sent of them


def run(coroutine: Coroutine[Any, Any, None]) -> None:
    """Run a server's coroutine to its end, on uvloop where that is there."""
    with asyncio.Runner(loop_factory=uvicorn.Config("", log_config=None).get_loop_factory()) as runner:
        runner.run(coroutine)


async def serve(
    app: App, listening: socket.socket, options: ListenOpts, *, load: Load | None = None,
    ready: Callable[[], object] = lambda: None,
) -> None:  # fmt: skip
    """Serve an application until the process is told to end, see the module; in the main thread.

    `load` loads a model of its configuration in place of `Runtime.load_model`; `ready` is called when all are loaded.
    Raises what `App.running` raises.
    """
    told, server = Told(), Server(config_of(app, options))
    phase = Phase(app.service.open)
    with told.listening(reloads=app.service.reload is not None):
        async with _heard(phase) as systemd:
            answering = asyncio.create_task(server.serve([listening]))
            try:
                async with AsyncExitStack() as stack:
                    if not await _opened(stack, app, told, load):
                        return
                    phase.now = "serving"
                    systemd.tell("READY=1")
                    ready()
                    await _first(told.to_end.wait(), answering, reloads(app.service, told.to_reload, systemd))
                    phase.now = "ending"
                    systemd.tell("STOPPING=1")
                    await drain(app.service.open, told, app.service.settings.drain_seconds)
                    server.should_exit = True
                    await answering
            finally:
                phase.now = "ending"
                server.should_exit = True
                await answering


async def _opened(stack: AsyncExitStack, app: App, told: Told, load: Load | None) -> bool:
    """Open the application and load its models; False where the process is told to end meanwhile."""
    loop = asyncio.get_running_loop()
    try:
        # No cancel scope: what is opened inside stays open beyond it.
        async with asyncio.timeout(None) as loading:
            watch = asyncio.create_task(unless(told.to_end, lambda: loading.reschedule(loop.time())))
            try:
                await stack.enter_async_context(app.running(load))
            finally:
                watch.cancel()
    except TimeoutError:
        if not loading.expired():
            raise
        return False
    return True


async def drain(requests: Open, told: Told, seconds: float) -> None:
    """Let no request in, and wait for those that are open, until the time is over or the process is told to hurry."""
    await _first(requests.drain(seconds), told.to_hurry.wait())
    requests.hurry()
    with suppress(TimeoutError):
        async with asyncio.timeout(HURRY_SECONDS):
            await requests.over()


async def reloads(service: Service, wanted: asyncio.Event, systemd: Systemd) -> None:
    """Until cancelled: read the configuration again whenever that is wanted. What is wrong with it is in the log."""
    while True:
        await wanted.wait()
        wanted.clear()
        systemd.tell("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
        try:
            if service.reload is None:
                get_logger(NAME).warning("there is no configuration file to read again")
            else:
                await service.reload()
        except erllama.ErllamaError:
            pass  # it is in the log
        except Problem as error:
            get_logger(NAME).error("nothing was reloaded", problem=str(error))
        except Exception as error:  # whatever reading runs into: the server goes on as it is
            get_logger(NAME).error("nothing was reloaded", exc_info=error)
        systemd.tell("READY=1")


async def _first(*work: Coroutine[Any, Any, Any] | asyncio.Task[Any]) -> None:
    """Wait for the first of several; what was begun here for the others is cancelled."""
    tasks = [one if isinstance(one, asyncio.Task) else asyncio.create_task(one) for one in work]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for one, task in zip(work, tasks, strict=True):
            if one is not task:
                task.cancel()


class Phase:
    """What a server is doing, in a sentence."""

    def __init__(self, requests: Open) -> None:
        self.now = "loading"
        self._requests = requests

    def __call__(self) -> tuple[str, bool]:
        """The sentence, and whether it may take long."""
        return f"{self.now}, {len(self._requests)} requests are open", self.now != "serving"


@asynccontextmanager
async def _heard(phase: Phase) -> AsyncIterator[Systemd]:
    systemd = Systemd()
    beating = asyncio.create_task(systemd.beat(phase))
    try:
        yield systemd
    finally:
        beating.cancel()
        systemd.close()


class Server(uvicorn.Server):
    """uvicorn's, which leaves signals alone."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Nothing: see `Told`."""
        with contextlib.nullcontext():
            yield


def config_of(app: App, options: ListenOpts) -> uvicorn.Config:
    """uvicorn's settings."""
    return uvicorn.Config(
        app, lifespan="off", http=bounded(options), ws=bounded_socket(options), ws_max_size=options.max_body_bytes,
        ws_ping_interval=options.heartbeat_seconds, ws_ping_timeout=options.send_seconds,
        ws_per_message_deflate=False, log_config=None, access_log=False, server_header=False,
        backlog=BACKLOG, timeout_keep_alive=options.keep_alive_seconds, timeout_graceful_shutdown=HURRY_SECONDS,
        proxy_headers=bool(options.trusted_proxies), forwarded_allow_ips=list(options.trusted_proxies),
        root_path=options.root_path, ssl_certfile=options.tls_cert, ssl_keyfile=options.tls_key,
        ssl_keyfile_password=options.tls_key_password,
    )  # fmt: skip
