"""A live reply beside a batch, against the same reply alone: through the application, with SmolLM2.

Eight lines of a batch are at work, which never ends by itself. Replies alternate: in the background, where lines of
batches are, and as the same work would be with the priority of live requests.
"""

from __future__ import annotations

import asyncio
import itertools
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import httpx
import msgspec
from http_stream import free_port, listening
from opened import N_THREADS
from report import publish, table

import erllama_py as erllama
from erllama_py.serve.app import create_app
from erllama_py.serve.batches import asking
from erllama_py.serve.core.settings import ServerOpts
from erllama_py.serve.models import fetch

WIDTH, TOKENS, ROUNDS = 8, 100, 3
LINE_TOKENS = 2000
WARM_SECONDS = 2.0  # their prompts are read, and they generate
CHAT = "/v1/chat/completions"


class Reply(NamedTuple):
    """How a live reply came."""

    seconds: float
    first: float
    longest: float  # between two pieces


def body(text: str, tokens: int) -> dict[str, Any]:
    """A request for so many tokens."""
    asked = [{"role": "user", "content": text}]
    return {"model": "m", "messages": asked, "max_tokens": tokens, "ignore_eos": True, "temperature": 0}


async def reply(client: httpx.AsyncClient, number: int) -> Reply:
    """A live one."""
    began = time.perf_counter()
    moments = list[float]()
    question = {**body(f"Tell story {number} of the sea.", TOKENS), "stream": True}
    async with client.stream("POST", CHAT, json=question) as response:
        async for line in response.aiter_lines():
            if line.startswith("data: {"):
                moments.append(time.perf_counter())
    gaps = [after - before for before, after in itertools.pairwise(moments)]
    told = Reply(moments[-1] - began, moments[0] - began, max(gaps))
    print(told, flush=True)
    return told


@asynccontextmanager
async def batch(client: httpx.AsyncClient, priority: int) -> AsyncIterator[None]:
    """Lines at work."""
    asking.BACKGROUND = priority
    lines = [
        {"custom_id": str(at), "method": "POST", "url": CHAT, "body": body(f"Count from {at} on.", LINE_TOKENS)}
        for at in range(WIDTH)
    ]
    data = b"".join(msgspec.json.encode(line) + b"\n" for line in lines)
    file = await client.post("/v1/files", data={"purpose": "batch"}, files={"file": ("in.jsonl", data)})
    ask = {"input_file_id": file.json()["id"], "endpoint": CHAT, "completion_window": "24h"}
    made = (await client.post("/v1/batches", json=ask)).json()
    await asyncio.sleep(WARM_SECONDS)
    yield
    await client.post(f"/v1/batches/{made['id']}/cancel")


async def main() -> None:
    """Measure, and write the table."""
    context = {"n_ctx": 20_000, "n_seq_max": 2 * WIDTH, "n_threads": N_THREADS}
    rows: dict[str, list[Reply]] = {"alone": [], "beside a batch": [], "beside eight requests of the same priority": []}
    async with erllama.Runtime() as runtime:
        config: Any = {"model_path": fetch("smollm2"), "context_opts": context}
        await runtime.load_model("m", config)
        app = create_app(runtime, settings=ServerOpts(batch_concurrency=WIDTH))
        port = free_port()
        url = f"http://127.0.0.1:{port}"
        async with listening(app, port), httpx.AsyncClient(base_url=url, timeout=600) as to:
            await reply(to, 0)
            for number in range(1, ROUNDS + 1):
                rows["alone"].append(await reply(to, 10 * number))
                for name, priority in (("beside a batch", -1000), ("beside eight requests of the same priority", 0)):
                    async with batch(to, priority):
                        rows[name].append(await reply(to, 10 * number + 1 - priority))
    publish("batches", shown(rows))


def shown(rows: dict[str, list[Reply]]) -> str:
    """The table; ratios are of the rounds', one by one."""
    alone = rows["alone"]
    told = []
    for name, replies in rows.items():
        ratio = statistics.median(one.seconds / base.seconds for one, base in zip(replies, alone, strict=True))
        told.append(
            [
                name,
                *(f"{statistics.median(getattr(one, what) for one in replies):.2f} s" for what in Reply._fields),
                f"{ratio:.2f}",
            ]
        )
    return table(["a reply of 100 tokens", "time", "first token", "longest gap", "time, against alone"], told)


if __name__ == "__main__":
    asyncio.run(main())
