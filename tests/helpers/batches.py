"""Batches of a served application: files uploaded, batches waited for, answers read back."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx
import msgspec

from helpers.checkpoints import turns
from helpers.served import Served, lines, served

CHAT = "/v1/chat/completions"
OVER = ("completed", "failed", "cancelled", "expired")


def line(number: int, *, url: str = CHAT, text: str | None = None, **body: Any) -> dict[str, Any]:
    """A line of a batch: a question, and a short reply."""
    said = {"model": "tiny", "messages": [{"role": "user", "content": text or f"question {number}"}], "max_tokens": 4}
    return {"custom_id": f"line-{number}", "method": "POST", "url": url, "body": {**said, "temperature": 0, **body}}


def jsonl(given: Iterable[Any]) -> bytes:
    """Lines as a file."""
    return b"".join(msgspec.json.encode(one) + b"\n" for one in given)


@asynccontextmanager
async def serving(config: Any = None, **given: Any) -> AsyncIterator[Served]:
    """See `served`, within `App.running`, so that what goes on by itself ends."""
    async with served(config, **given) as at, at.app.running():
        yield at


async def upload(client: httpx.AsyncClient, data: bytes, *, purpose: str = "batch", **how: Any) -> httpx.Response:
    """A file in a form."""
    return await client.post("/v1/files", data={"purpose": purpose}, files={"file": ("in.jsonl", data)}, **how)


async def begin(client: httpx.AsyncClient, data: bytes, *, url: str = CHAT, **more: Any) -> dict[str, Any]:
    """A batch of a file that is uploaded for it."""
    file = (await upload(client, data)).json()
    ask = {"input_file_id": file["id"], "endpoint": url, "completion_window": "24h", **more}
    answer = await client.post("/v1/batches", json=ask)
    assert answer.status_code == 200, answer.text
    made: dict[str, Any] = answer.json()
    return made


async def until(client: httpx.AsyncClient, batch: Mapping[str, Any], *statuses: str) -> dict[str, Any]:
    """The batch once it has one of the statuses; of those that are over, if none is named."""
    async with asyncio.timeout(60):
        while True:
            now: dict[str, Any] = (await client.get(f"/v1/batches/{batch['id']}")).json()
            if now["status"] in (statuses or OVER):
                return now
            await turns(1)


async def some(client: httpx.AsyncClient, batch: Mapping[str, Any]) -> dict[str, Any]:
    """The batch as soon as a line is answered."""
    async with asyncio.timeout(60):
        while True:
            now: dict[str, Any] = (await client.get(f"/v1/batches/{batch['id']}")).json()
            if now["request_counts"]["completed"]:
                return now
            await turns(1)


async def results(client: httpx.AsyncClient, batch: Mapping[str, Any]) -> tuple[list[Any], list[Any]]:
    """The lines of its output and of its errors."""
    found = []
    for file_id in (batch["output_file_id"], batch["error_file_id"]):
        text = (await client.get(f"/v1/files/{file_id}/content")).text if file_id else ""
        found.append(lines(text))
    return found[0], found[1]


def times(*answers: Iterable[Any]) -> Counter[str]:
    """How often each `custom_id` is answered."""
    return Counter(one["custom_id"] for some in answers for one in some)
