"""A live reply beside a batch, against the same reply alone: through the application.

    python benchmarks/batches.py [stub] [smollm2]

Eight lines of a batch are at work, which does not end by itself. Replies alternate: alone, beside lines in the
background, where batches are, and beside the same lines with the priority of live requests. The stub takes as long for
each token of a decode, so that company costs the most that it can.
"""

from __future__ import annotations

import asyncio
import itertools
import statistics
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
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
CONTEXT = {"n_ctx": 20_000, "n_seq_max": 2 * WIDTH, "n_threads": N_THREADS}
MODELS: dict[str, Callable[[], Any]] = {
    "stub": lambda: {"backend": "stub", "stub": {"seconds_per_token": 0.01}, "context_opts": CONTEXT},
    "smollm2": lambda: {"model_path": fetch("smollm2"), "context_opts": CONTEXT},
}
KINDS = {"alone": None, "beside a batch": -1000, "beside lines of the same priority": 0}


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
    return Reply(moments[-1] - began, moments[0] - began, max(gaps))


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


async def measured(config: Any) -> dict[str, list[Reply]]:
    """The replies of each kind, in rounds."""
    rows: dict[str, list[Reply]] = {name: [] for name in KINDS}
    async with erllama.Runtime() as runtime:
        await runtime.load_model("m", config)
        app, port = create_app(runtime, settings=ServerOpts(batch_concurrency=WIDTH)), free_port()
        url = f"http://127.0.0.1:{port}"
        async with listening(app, port), httpx.AsyncClient(base_url=url, timeout=600) as client:
            await reply(client, 0)
            for number in range(1, ROUNDS + 1):
                for name, priority in KINDS.items():
                    async with AsyncExitStack() as stack:
                        if priority is not None:
                            await stack.enter_async_context(batch(client, priority))
                        rows[name].append(await reply(client, 10_000 * number + (priority or 1)))
    return rows


def shown(what: str, rows: dict[str, list[Reply]]) -> list[list[str]]:
    """Lines of the table; ratios are of the rounds', one by one."""
    told = []
    for name, replies in rows.items():
        medians = [statistics.median(getattr(one, field) for one in replies) for field in Reply._fields]
        pairs = zip(replies, rows["alone"], strict=True)
        ratio = statistics.median(one.seconds / base.seconds for one, base in pairs)
        told.append([what, name, *(f"{seconds:.2f} s" for seconds in medians), f"{ratio:.2f} ×"])
    return told


async def main(names: list[str]) -> None:
    """Measure, and write the table."""
    lines = []
    for name in names or list(MODELS):
        lines += shown(name, await measured(MODELS[name]()))
    head = ["model", f"a reply of {TOKENS} tokens", "time", "first token", "longest gap", "time, against alone"]
    publish("batches", table(head, lines))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
