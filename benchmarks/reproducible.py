"""What `reproducible=True` is worth and what it costs, with SmolLM2 and Gemma 3.

**Worth**: of 200 prompts, how many replies are those that a new model gives when it is asked for nothing else. Asked
among streams, cold, then in another process of work over the same disk tier, also among streams; and the same as plain
requests. **Cost**: tokens a second of a prompt and of a reply, alone and beside streams, the streams' gaps meanwhile,
and the memory of the second context.

`python benchmarks/reproducible.py worth` or `cost` measures one of the two.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from report import publish, table

import erllama_py as erllama
from erllama_py.serve.models import fetch

NAMES = {"smollm2": "SmolLM2", "gemma3": "Gemma 3"}
TOPICS = ("lighthouse", "harbour", "glacier", "orchard", "railway", "volcano", "library", "market", "desert", "river")
ASPECTS = ("age", "colour", "keeper", "sound", "size", "price", "history", "future", "enemy", "smell")
REPLY = 8
STREAMS = 2
PREFILL, DECODE = 640, 96  # tokens of a prompt, and of a reply, whose speed is measured
BESIDE = (0, 1, 8)
ROUNDS = 3  # the median counts; of gaps, those of all rounds


def config(name: str, **more: Any) -> Any:
    """A model for eight streams and one more request."""
    return {"model_path": fetch(name), "context_opts": {"n_ctx": 8192, "n_seq_max": 9}, **more}


@asynccontextmanager
async def streams(model: erllama.Model, count: int, gaps: list[float] | None = None) -> AsyncIterator[None]:
    """So many streams that write on; the seconds between two of their tokens go to `gaps`."""

    async def write(seed: int) -> None:
        while True:
            prompt = f"{TOPICS[seed % 10]}: a story about its {ASPECTS[seed % 7]}. "
            async with model.stream(prompt, response_tokens=400, ignore_eos=True, seed=seed) as events:
                last = None
                async for _ in events.text:
                    now = time.perf_counter()
                    if gaps is not None and last is not None:
                        gaps.append(now - last)
                    last = now

    tasks = [asyncio.create_task(write(seed)) for seed in range(count)]
    await asyncio.sleep(1.0 if count else 0.0)
    if gaps is not None:
        gaps.clear()
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


# --- worth -----------------------------------------------------------------------------------------------------------


def questions() -> list[str]:
    """Ten texts with ten questions each."""
    texts = [
        f"The {topic} of our town is known far beyond it. People come from all sides to see it, and whoever has seen "
        f"it once comes back. In the morning the light falls on the {topic} from the east, in the evening from the "
        f"west; at noon there are no shadows at all. Nobody remembers who built the {topic}, nor what it has cost, but "
        f"each family has its own story of it, and no two of these stories agree. Children learn them early. "
        for topic in TOPICS
    ]
    return [f"{text}\nWhat is the {aspect} of it? Answer:" for text in texts for aspect in ASPECTS]


async def replies(model: erllama.Model, prompts: Sequence[str], **options: Any) -> list[list[int]]:
    """One after the other."""
    given = {"temperature": 0.0, "response_tokens": REPLY, "ignore_eos": True} | options
    return [(await model.complete(prompt, **given)).generated for prompt in prompts]


async def equal(name: str, *, reproducible: bool) -> list[str]:
    """A row of the table: how many replies are those of a model that was asked alone and has saved nothing."""
    prompts, found = questions(), list[str]()
    async with erllama.Runtime(policy={"min_tokens": None}) as runtime:
        expected = await replies(await runtime.load_model(config(name)), prompts, reproducible=reproducible)
    shuffled = random.Random(1).sample(range(len(prompts)), len(prompts))
    with tempfile.TemporaryDirectory() as root:
        tiers = {"d": erllama.DiskTier(root, quota_bytes=4 << 30)}
        saved = config(name, tier="disk", tier_srv="d", policy={"min_tokens": 64, "boundary_align_tokens": 64})
        for _ in range(2):  # what the first leaves is restored by the second
            async with erllama.Runtime(tiers=tiers) as runtime:
                model = await runtime.load_model(saved)
                async with streams(model, STREAMS):
                    got = await replies(model, [prompts[index] for index in shuffled], reproducible=reproducible)
            same = sum(reply == expected[index] for reply, index in zip(got, shuffled, strict=True))
            found.append(f"{same} of {len(prompts)}")
    return [NAMES[name], "`reproducible=True`" if reproducible else "plain", *found]


async def worth() -> None:
    rows = [await equal(name, reproducible=value) for name in NAMES for value in (True, False)]
    head = ["model", "requests", f"among {STREAMS} streams", "restored after a restart, among streams"]
    publish("reproducible-worth", table(head, rows))


# --- cost ------------------------------------------------------------------------------------------------------------


async def cost() -> None:
    rows = []
    for name in NAMES:
        async with erllama.Runtime(policy={"min_tokens": None}) as runtime:
            model = await runtime.load_model(config(name))
            await model.complete("Hello", response_tokens=2, reproducible=True)
            for beside in BESIDE:
                for reproducible in (False, True):
                    rows.append([NAMES[name], str(beside), *await speeds(model, beside, reproducible=reproducible)])
            print(NAMES[name], "second context:", model.info.reproducible_bytes >> 20, "MiB of cells")
    head = ["model", "streams beside it", "request", "prompt, tokens/s", "reply, tokens/s",
            "gap of a stream: median", "99 of 100 below"]  # fmt: skip
    publish("reproducible-cost", table(head, rows))


async def speeds(model: erllama.Model, beside: int, *, reproducible: bool) -> list[str]:
    """One request's speeds, and the gaps of the streams while it is served."""
    dice, gaps, found = random.Random(beside), list[float](), list[erllama.Stats]()
    async with streams(model, beside, gaps):
        for _ in range(ROUNDS):
            prompt = [dice.randrange(1000, 20000) for _ in range(PREFILL)]
            done = await model.complete(
                prompt, response_tokens=DECODE, ignore_eos=True, temperature=0.0, reproducible=reproducible
            )
            found.append(done.stats)
        shown = ["–", "–"]
        if beside:
            shown = [f"{1000 * statistics.median(gaps):.0f} ms", f"{1000 * sorted(gaps)[99 * len(gaps) // 100]:.0f} ms"]
    prefill = statistics.median(stats.prefill_tokens / stats.prefill_seconds for stats in found)
    decode = statistics.median(stats.tokens_per_second for stats in found)
    return ["`reproducible=True`" if reproducible else "plain", f"{prefill:.0f}", f"{decode:.0f}", *shown]


if __name__ == "__main__":
    for part in sys.argv[1:] or ("worth", "cost"):
        asyncio.run({"worth": worth, "cost": cost}[part]())
