"""A server from its configuration to its end: the port first, then the models, then requests.

The port is taken before anything is loaded, so that a server that is there already costs no minutes. Until all models
are loaded, requests get 503.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Sequence

from rich.markup import escape

from erllama_py.serve.app import create_app
from erllama_py.serve.cli import screen
from erllama_py.serve.cli.ending import DONE
from erllama_py.serve.cli.model_options import load
from erllama_py.serve.config import Config, SizedModel
from erllama_py.serve.operations.logs import Level, Style, configure_logging
from erllama_py.serve.running import listen, run, serve
from erllama_py.serve.running.holding import notes
from erllama_py.serve.running.listening import url_of


def host(
    config: Config, sized: Sequence[SizedModel], *, reread: Callable[[], Config] | None, style: Style, level: Level
) -> int:
    """Serve until the process is told to end; the exit code. `reread` gives what is to hold when it is read again;
    None where there is no file.

    Raises `CannotListen`, `InsecureHost`, `TlsUnusable`, and what loads raise.
    """
    with (
        listen(config.server, config.access) as listening,
        configure_logging(style, level),
        notes() as held,
    ):
        app = create_app(config, reread=reread)

        def ready() -> None:
            url = url_of(config.server, listening)
            address = url if "://" in url else os.path.abspath(url)
            held.write(address, config.tiers)
            app.applied = lambda changed: held.write(address, changed.tiers)
            announce(config, sized, listening)

        run(serve(app, listening, config.server, load=load, ready=ready))
    return DONE


def announce(config: Config, sized: Sequence[SizedModel], listening: socket.socket) -> None:
    """What is served, and where."""
    console = screen.aside()
    for one in sized:
        context = one.model.options.get("context_opts", {})
        also = f" ({', '.join(one.model.aliases)})" if one.model.aliases else ""
        size = ""
        if "n_seq_max" in context:
            size = f"{screen.count(context['n_ctx'], 'token')} for {screen.count(context['n_seq_max'], 'sequence')}"
        when = "loaded on demand" if one.model.load == "demand" else ""
        where = "in a process of its own" if one.model.options.get("isolation") == "process" else ""
        facts = "; ".join(filter(None, (one.file.description if one.file else "stub", size, when, where)))
        console.print(f"[bold]{escape(one.model.name)}[/bold]{escape(also)}: {escape(facts)}")
    for name, tier in config.tiers.items():
        console.print(f"{escape(name)}: up to {screen.amount(tier.quota_bytes)} in {escape(str(tier.root))}")
    if not config.access.keys and config.access.insecure:
        console.print("insecure: whoever reaches this server may use it")
    console.print(f"serving on [bold]{escape(url_of(config.server, listening))}[/bold]; Ctrl-C ends it")
