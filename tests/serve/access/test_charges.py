"""What requests are charged whose clients leave: in each API what was computed until then, whole or as a stream."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from helpers.cache import text
from helpers.gated import arrived, gated
from helpers.runtime import until
from helpers.served import STUB
from starlette.requests import HTTPConnection

import erllama_py as erllama
from erllama_py.serve.app import App, create_app
from erllama_py.serve.core.service import Tenant

pytestmark = pytest.mark.anyio
SAID = [{"role": "user", "content": "hello"}]
SAME = {"temperature": 0}  # a reply that is drawn may end at once: this one always goes on for a while
REPLIES: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": ("/v1/chat/completions", {"messages": SAID, "max_tokens": 1000, **SAME}),
    "completions": ("/v1/completions", {"prompt": "hello", "max_tokens": 1000, **SAME}),
    "messages": ("/v1/messages", {"messages": SAID, "max_tokens": 1000, **SAME}),
    "responses": ("/v1/responses", {"input": "hello", "store": False, **SAME}),
    "ollama chat": ("/api/chat", {"messages": SAID, "options": SAME}),
    "ollama generate": ("/api/generate", {"prompt": "hello", "options": SAME}),
}
LONG = text(3000)
PROMPTS: dict[str, tuple[str, dict[str, Any]]] = {
    "messages": ("/v1/messages", {"messages": [{"role": "user", "content": LONG}], "max_tokens": 0}),
    "compaction": ("/v1/responses/compact", {"input": LONG[:1500]}),
}
TEXTS = ["the cat sits outside", "a dog runs"] * 50
VECTORS: dict[str, tuple[str, dict[str, Any]]] = {
    "embeddings": ("/v1/embeddings", {"input": TEXTS}),
    "ollama embed": ("/api/embed", {"input": TEXTS}),
    "rerank": ("/v1/rerank", {"query": "cat", "documents": TEXTS, "top_n": 1, "method": "embeddings"}),
}


class Ledger:
    """An `Access` that writes down what is spent."""

    def __init__(self) -> None:
        self.tokens = 0
        self.told: Callable[[], object] = lambda: None

    def admit(self, connection: HTTPConnection) -> Tenant:
        return Tenant(name="me")

    def spent(self, tenant: Tenant, tokens: int) -> None:
        assert tenant.name == "me"
        self.tokens += tokens
        self.told()


class Client:
    """One request by hand, whose client may leave."""

    def __init__(self, app: App, path: str, body: dict[str, Any]) -> None:
        self.leave = asyncio.Event()
        self.status = 0
        asked = [{"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}]

        async def receive() -> Any:
            if asked:
                return asked.pop()
            await self.leave.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            self.status = message.get("status", self.status)

        scope = {
            "type": "http", "method": "POST", "path": path, "raw_path": b"", "query_string": b"",
            "headers": [(b"host", b"localhost")], "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2),
            "scheme": "http",
        }  # fmt: skip
        self.task = asyncio.create_task(app(scope, receive, send))


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize("api", REPLIES)
async def test_a_reply(api: str, stream: bool) -> None:
    """Its prompt, and what there is of it when the model has ended it."""
    path, body = REPLIES[api]
    async with gated(context={"n_ctx": 4096, "n_seq_max": 1}) as (runtime, model, gate):
        ledger = Ledger()
        client = Client(create_app(runtime, access=ledger), path, {"model": "m", "stream": stream, **body})
        await arrived(model, 1)
        await gate.shut(4)
        client.leave.set()
        gate.gate.set()
        await client.task
        await until(lambda: ledger.tokens > 0 and model.queue_depth == 0)
        assert gate.computed <= ledger.tokens <= gate.computed + 1


@pytest.mark.parametrize("api", PROMPTS)
async def test_a_prompt(api: str) -> None:
    """The parts that were read."""
    path, body = PROMPTS[api]
    async with gated(context={"n_ctx": 4096, "n_seq_max": 1, "n_batch": 64}) as (runtime, model, gate):
        ledger = Ledger()
        client = Client(create_app(runtime, access=ledger), path, {"model": "m", **body})
        await arrived(model, 1)
        await gate.shut(3)
        client.leave.set()
        await client.task
        gate.gate.set()
        await until(lambda: ledger.tokens > 0 and model.queue_depth == 0)
        assert gate.computed == ledger.tokens < 3000


@pytest.mark.parametrize("api", VECTORS)
async def test_vectors(api: str) -> None:
    """Decode by decode; a ranking is charged for all documents, however few are shown."""
    path, body = VECTORS[api]
    asked = {"model": "tiny", **body}
    config: Any = STUB | {"context_opts": {"n_ctx": 64, "n_batch": 64}, "stub": {"embeds_only": True}}
    async with erllama.Runtime() as runtime:
        await runtime.load_model("tiny", config)
        ledger = Ledger()
        app = create_app(runtime, access=ledger)
        whole = Client(app, path, asked)
        await whole.task
        assert whole.status == 200
        all_ = ledger.tokens
        assert all_ >= sum(map(len, TEXTS))
        client = Client(app, path, asked)
        ledger.told = client.leave.set
        await client.task
        await until(lambda: not len(app.service.open))
        assert client.status == 0
        assert all_ < ledger.tokens < 2 * all_
