"""A server from its configuration to its end: the port first, then the models, then requests.

The port is taken before anything is loaded, so that a server that is there already costs no minutes. It listens when
all models can answer.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence

import uvicorn
from rich.markup import escape

import erllama_py as erllama
from erllama_py.serve.app import create_app
from erllama_py.serve.cli import screen
from erllama_py.serve.cli.ending import DONE
from erllama_py.serve.cli.model_options import load
from erllama_py.serve.config import Config, SizedModel

BACKLOG = 2048  # connections that wait to be accepted; uvicorn's own default


class PortTaken(erllama.ErllamaError):
    """The server cannot listen where it is to."""

    host: str
    port: int
    problem: str

    text = "cannot listen on {host} port {port}: {problem}"


def host(config: Config, sized: Sequence[SizedModel]) -> int:
    """Serve until the process is told to end; the exit code. Raises `PortTaken`, and what loads raise."""
    with listen(config.server.host, config.server.port) as listening:
        asyncio.run(_serve(config, sized, listening))
    return DONE


def listen(host: str, port: int) -> socket.socket:
    """A socket that is bound. Raises `PortTaken`."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind, protocol)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(address)
            return bound
        except BaseException:
            bound.close()
            raise
    except (OSError, UnicodeError) as error:
        problem = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise PortTaken(host, port, problem) from error


async def _serve(config: Config, sized: Sequence[SizedModel], listening: socket.socket) -> None:
    async with erllama.Runtime(**config.runtime_options()) as runtime:
        app = create_app(runtime, settings=config.server, aliases=config.aliases())
        for one in sized:
            await load(runtime, one.model)
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False, backlog=BACKLOG, lifespan="off"))
        announce(config, sized, listening)
        await server.serve(sockets=[listening])


def announce(config: Config, sized: Sequence[SizedModel], listening: socket.socket) -> None:
    """What is served, and where."""
    console = screen.aside()
    for one in sized:
        context = one.model.options.get("context_opts", {})
        also = f" ({', '.join(one.model.aliases)})" if one.model.aliases else ""
        size = f"{context['n_ctx']:,} tokens for {context['n_seq_max']} sequences" if "n_seq_max" in context else ""
        facts = "; ".join(filter(None, (one.file.description if one.file else "stub", size)))
        console.print(f"[bold]{escape(one.model.name)}[/bold]{escape(also)}: {escape(facts)}")
    for name, tier in config.tiers.items():
        console.print(f"{escape(name)}: up to {screen.amount(tier.quota_bytes)} in {escape(str(tier.root))}")
    console.print(f"serving on [bold]{address(config.server.host, listening)}[/bold]; Ctrl-C ends it")


def address(host: str, listening: socket.socket) -> str:
    """The URL at which clients find the server."""
    port = listening.getsockname()[1]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
