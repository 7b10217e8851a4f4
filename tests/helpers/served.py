"""An application over stub models, asked by httpx in this process."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import httpx
import msgspec

import erllama_py as erllama
from erllama_py.engine.stub import CHAT_TEMPLATE
from erllama_py.serve.app import App, create_app
from erllama_py.serve.core.settings import ServerOpts
from helpers.scripted import Reply, Script

STUB: Any = {"backend": "stub", "context_opts": {"n_ctx": 2048, "n_seq_max": 4}}


class Served(NamedTuple):
    """What a test asks."""

    client: httpx.AsyncClient
    app: App
    runtime: erllama.Runtime
    model: erllama.Model


@asynccontextmanager
async def served(
    config: Any = None, *, settings: Any = None, script: Script | None = None, make: Any = None, **given: Any
) -> AsyncIterator[Served]:
    """An application with one model, `tiny`; its model's configuration over the stub's, and `settings` as a mapping.

    With a `script` the model says what that says; `make` is what makes backends in place of the stub.
    """
    make = make if script is None else script.backend
    making: Any = {} if make is None else {"backend_factory": make}
    async with erllama.Runtime(**making) as runtime:
        model = await runtime.load_model("tiny", STUB | (config or {}))
        app = create_app(runtime, settings=msgspec.convert(settings or {}, ServerOpts), **given)
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=30) as client:
            yield Served(client, app, runtime, model)


class Scripted(NamedTuple):
    """What a test asks where the replies are given."""

    client: httpx.AsyncClient
    app: App
    script: Script


@asynccontextmanager
async def served_script(
    *replies: Reply, controls: Sequence[str] = (), template: str = CHAT_TEMPLATE, **given: Any
) -> AsyncIterator[Scripted]:
    """An application with one model, `tiny`, that says the replies in their order."""
    script = Script(*replies, controls=controls, template=template)
    async with served(script=script, **given) as at:
        yield Scripted(at.client, at.app, script)


def lines(text: str) -> list[Any]:
    """The objects of NDJSON."""
    return [msgspec.json.decode(line) for line in text.splitlines()]


def events(text: str) -> list[Any]:
    """The data of server-sent events, parsed; `[DONE]` as it is."""
    lines = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    return [line if line == "[DONE]" else msgspec.json.decode(line) for line in lines]
