"""`/api/version`, `/api/tags`, `/api/show`, `/api/ps`: what is served, and by what."""

from __future__ import annotations

from starlette.types import ASGIApp

import erllama_py as erllama
from erllama_py.serve.core.api import json_response
from erllama_py.serve.core.exchange import Exchange
from erllama_py.serve.ollama.details import listed, running, shown
from erllama_py.serve.ollama.lines import timestamp
from erllama_py.serve.ollama.protocol import NameRequest

# Of Ollama's API: what is here is as that version has it. Clients compare it with the least that they work with, and
# read numbers alone.
VERSION = "0.33.4"


async def version(exchange: Exchange) -> ASGIApp:
    """Which version of Ollama's API this is, and what serves it."""
    return json_response({"version": VERSION, "erllama_py": erllama.__version__})


async def tags(exchange: Exchange) -> ASGIApp:
    """All models by each of their names."""
    since = timestamp(exchange.service.started_at)
    return json_response({"models": [listed(name, info, since) for name, info in exchange.models().items()]})


async def ps(exchange: Exchange) -> ASGIApp:
    """Those that are in memory, and until when unless a request comes."""
    states = {one.name: one for one in exchange.service.states().models if one.state in ("loaded", "unloading")}
    served = [(name, info, states[info.id]) for name, info in exchange.models().items() if info.id in states]
    return json_response({"models": [running(name, info, state.expires_at) for name, info, state in served]})


async def show(exchange: Exchange) -> ASGIApp:
    """One model."""
    request = await exchange.body(NameRequest)
    name = request.model or request.name
    info = exchange.info(name)
    if (form := exchange.service.served.chat_format(info.id)) is None:
        form = await exchange.answer((await exchange.model(name)).chat_format())
    return json_response(shown(name or info.id, info, form, timestamp(exchange.service.started_at)))
