"""Anthropic's own client on an application in this process, and its types for what comes back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anthropic
import httpx2
import msgspec
from anthropic.types import Message, RawMessageStreamEvent
from pydantic import TypeAdapter

import erllama_py as erllama
from erllama_py.serve.app import App, create_app
from erllama_py.serve.core.settings import ServerOpts
from helpers.scripted import scripted
from helpers.served import served

VERSION = {"anthropic-version": "2023-06-01"}
EVENT: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)


def client(app: App, **given: Any) -> anthropic.AsyncAnthropic:
    """The client, whose requests go to the application."""
    transport = httpx2.ASGITransport(app=app, raise_app_exceptions=False)
    options: dict[str, Any] = {"base_url": "http://localhost", "api_key": "any", "max_retries": 0} | given
    return anthropic.AsyncAnthropic(http_client=httpx2.AsyncClient(transport=transport), **options)


@asynccontextmanager
async def asked(config: Any = None, **given: Any) -> AsyncIterator[anthropic.AsyncAnthropic]:
    """A client of a stub model, `tiny`."""
    async with served(config, **given) as at, client(at.app) as one:
        yield one


@asynccontextmanager
async def says(*replies: Any, settings: Any = None, **given: Any) -> AsyncIterator[tuple[Any, Any, erllama.Model]]:
    """A client of a model, `m`, that says this; what it was asked; the model. `given` are as of `scripted`."""
    async with scripted(*replies, **given) as (runtime, model, script):
        app = create_app(runtime, settings=msgspec.convert(settings or {}, ServerOpts))
        async with client(app) as one:
            yield one, script, model


def checked(body: Any) -> Message:
    """A message, as strictly as the client's own type takes it."""
    return Message.model_validate(body, strict=True)


def named_events(text: str) -> list[Any]:
    """The events of a stream by the client's own types; each has the name that its data has as a type. Pings and
    errors, which the client has no types for, as they are."""
    read: list[Any] = []
    for block in text.split("\n\n"):
        lines = block.splitlines()
        if not lines:
            continue
        assert len(lines) == 2
        name, data = lines[0].removeprefix("event: "), msgspec.json.decode(lines[1].removeprefix("data: "))
        assert data["type"] == name
        read.append(data if name in ("ping", "error") else EVENT.validate_python(data))
    return read


def blocks(message: Any) -> list[Any]:
    """The content of a message, whether it was streamed or not."""
    return [block.to_dict() for block in message.content]


def total(usage: Any) -> int:
    """All tokens of the input, as clients add them."""
    return int(usage.input_tokens + usage.cache_read_input_tokens + usage.cache_creation_input_tokens)


def computed(usage: Any) -> int:
    """Tokens of the input that were not in the cache."""
    return int(usage.input_tokens + usage.cache_creation_input_tokens)
