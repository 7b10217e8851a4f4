"""The application in others: Starlette, FastAPI, Litestar, and alone; its life in theirs, its paths under a prefix."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import fastapi
import httpx
import litestar
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

import erllama_py as erllama
from erllama_py.serve.access import AccessOpts
from erllama_py.serve.app import App, create_app
from erllama_py.serve.config import check_tables

pytestmark = pytest.mark.anyio
CHAT = "/v1/chat/completions"
ASK: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 4}
TABLES = {"models": [{"name": "tiny", "backend": "stub", "aliases": ["other"]}]}


def alone(**given: Any) -> App:
    """One that has its runtime from a configuration."""
    return create_app(check_tables(TABLES, Path("/nonexistent/server.toml")), **given)


def in_starlette(app: App, lifespan: Callable[..., Any]) -> Any:
    """Mounted in Starlette."""
    return Starlette(routes=[Mount("/llm", app)], lifespan=lifespan)


def in_fastapi(app: App, lifespan: Callable[..., Any]) -> Any:
    """Mounted in FastAPI."""
    host = fastapi.FastAPI(lifespan=lifespan)
    host.mount("/llm", app)
    return host


def in_litestar(app: App, lifespan: Callable[..., Any]) -> Any:
    """Mounted in Litestar."""
    handler = litestar.asgi("/llm", is_mount=True, copy_scope=True)(app)
    return litestar.Litestar([handler], lifespan=[lifespan], logging_config=None)  # the tests' own stays as it is


HOSTS = [in_starlette, in_fastapi, in_litestar]


@asynccontextmanager
async def lived(host: Any) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a host whose lifespan runs, by the messages that servers send."""
    to_host, from_host = asyncio.Queue[Any](), asyncio.Queue[Any]()
    scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": {}}
    living = asyncio.create_task(host(scope, to_host.get, from_host.put))
    await to_host.put({"type": "lifespan.startup"})
    assert (await from_host.get())["type"] == "lifespan.startup.complete"
    transport = httpx.ASGITransport(app=host, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=30) as client:
        yield client
    await to_host.put({"type": "lifespan.shutdown"})
    assert (await from_host.get())["type"] == "lifespan.shutdown.complete"
    await living


async def all_answers(client: httpx.AsyncClient, prefix: str) -> None:
    """Whole, streamed, refused, and not found, with and without what browsers send."""
    assert (await client.get(f"{prefix}/health")).json()["status"] == "ok"
    assert [one["id"] for one in (await client.get(f"{prefix}/v1/models")).json()["data"]] == ["tiny", "other"]
    assert (await client.post(prefix + CHAT, json=ASK)).status_code == 200
    streamed = await client.post(prefix + CHAT, json=ASK | {"stream": True, "model": "other"})
    assert streamed.text.endswith("data: [DONE]\n\n")
    assert (await client.post(prefix + CHAT, json=ASK | {"temperature": -1})).status_code == 400
    assert (await client.get(f"{prefix}/v1/nothing")).json()["error"]["code"] == "unknown_endpoint"
    assert (await client.get(f"{prefix}/v1/models", headers={"host": "evil.com"})).status_code == 403
    assert (await client.get(f"{prefix}/v1/models", headers={"origin": "https://evil.com"})).status_code == 403
    page = {"origin": "https://good.com", "access-control-request-method": "POST"}
    asked = await client.options(prefix + CHAT, headers=page)
    assert asked.headers["access-control-allow-origin"] == "https://good.com"


@pytest.mark.parametrize("mounted", HOSTS)
async def test_a_host_runs_it(mounted: Callable[..., Any]) -> None:
    """It enters `running()` in its lifespan, since no host runs the lifespan of what is mounted in it."""
    app = alone(access=AccessOpts(origins=("https://good.com",)))

    @asynccontextmanager
    async def lifespan(host: Any) -> AsyncIterator[None]:
        async with app.running():
            yield

    async with lived(mounted(app, lifespan)) as client:
        await all_answers(client, "/llm")
    assert app.service.open.draining


@pytest.mark.parametrize("mounted", HOSTS)
async def test_a_host_has_the_runtime(mounted: Callable[..., Any]) -> None:
    """And uses it beside the application."""
    runtime = erllama.Runtime()
    app = create_app(runtime, aliases={"other": "tiny"}, access=AccessOpts(origins=("https://good.com",)))

    @asynccontextmanager
    async def lifespan(host: Any) -> AsyncIterator[None]:
        async with runtime, AsyncExitStack() as stack:
            await runtime.load_model("tiny", {"backend": "stub"})
            await stack.enter_async_context(app.running())
            yield

    async with lived(mounted(app, lifespan)) as client:
        await all_answers(client, "/llm")


async def test_it_runs_alone() -> None:
    """By any server that runs lifespans."""
    async with lived(alone(access=AccessOpts(origins=("https://good.com",)))) as client:
        await all_answers(client, "")


async def test_before_it_runs() -> None:
    """Requests are told that it is not ready, and a probe too."""
    transport = httpx.ASGITransport(app=alone())
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        for answer in (await client.post(CHAT, json=ASK), await client.get("/health")):
            assert answer.status_code == 503
            assert int(answer.headers["retry-after"]) > 0


async def test_a_host_that_fails_ends_it() -> None:
    """Its error is the one that is seen, and the runtime is closed."""
    app = alone()
    with pytest.raises(RuntimeError, match="the host"):
        async with app.running():
            raise RuntimeError("the host")
    with pytest.raises(erllama.RuntimeClosed):
        app.service.runtime.list_models()


@pytest.mark.parametrize(
    ("asked", "meant"),
    [
        ("/chat/completions", "/v1/chat/completions"),
        ("/v1/v1/messages", "/v1/messages"),
        ("/v1/health", "/health"),
        ("/v1/chat", None),
        ("/v1", None),
    ],
)
async def test_a_base_url_with_the_wrong_end_is_answered_with_the_right_path(asked: str, meant: str | None) -> None:
    """SDKs of OpenAI want `/v1` in it, those of Anthropic do not."""
    async with httpx.AsyncClient(transport=httpx.ASGITransport(alone()), base_url="http://localhost") as client:
        told = (await client.post(asked, json={})).json()["error"]["message"]
    hint = f"; did you mean {meant}?" if meant else ""
    assert told == f"POST {asked} is not served here{hint}"
