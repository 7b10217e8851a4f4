"""`/api/version`, `/api/tags`, `/api/show`, `/api/ps`: what is served, and by what."""

from __future__ import annotations

import os
from datetime import UTC, datetime

import anyio.to_thread
from starlette.types import ASGIApp

import erllama_py as erllama
from erllama_py.serve.core.exchange import Exchange, json_response
from erllama_py.serve.ollama.details import listed, running, shown
from erllama_py.serve.ollama.protocol import NameRequest

# Of Ollama's API: what is here is as that version has it. Clients compare it with the least that they work with, and
# read numbers alone.
VERSION = "0.33.4"


async def version(exchange: Exchange) -> ASGIApp:
    """Which version of Ollama's API this is, and what serves it."""
    return json_response({"version": VERSION, "erllama_py": erllama.__version__})


async def tags(exchange: Exchange) -> ASGIApp:
    """All models by each of their names."""
    served = exchange.models()
    paths = {info.model_path for info in served.values()}
    times = await anyio.to_thread.run_sync(lambda: {path: modified(path) for path in paths})
    return json_response({"models": [listed(name, info, times[info.model_path]) for name, info in served.items()]})


async def ps(exchange: Exchange) -> ASGIApp:
    """The same: all of them are in memory."""
    return json_response({"models": [running(name, info) for name, info in exchange.models().items()]})


async def show(exchange: Exchange) -> ASGIApp:
    """One model."""
    request = await exchange.body(NameRequest)
    name = request.model or request.name
    model = await exchange.model(name)
    form = await exchange.answer(model.chat_format())
    time = await anyio.to_thread.run_sync(modified, model.info.model_path)
    return json_response(shown(name or model.id, model.info, form, time))


def modified(path: str | None) -> str:
    """When a file was written; it blocks. The beginning of time where there is none."""
    try:
        seconds = 0.0 if path is None else os.stat(path).st_mtime
    except OSError:
        seconds = 0.0
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
