"""Four equal streams in cells for two: how long the longest pause between two tokens of one is.

With turns as shipped, with turns so long that nobody is displaced by an equal, and as shipped where nothing is saved,
so that a parked stream computes all of its cells again. The pause is given in turns too: two streams are parked beside
two, so `docs/internals/scheduler.md` states one turn for it, and what it takes to change places.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from opened import N_THREADS
from report import publish, table

import erllama_py as erllama
from erllama_py.serve.models import fetch

STREAMS, FIT = 4, 2
REPLY_TOKENS = 700
N_CTX = FIT * (REPLY_TOKENS + 140)  # each with its prompt and the cells that are kept free for those at work
ENDLESS = "root ::= [a-z ] root"
NEVER_MS = 3_600_000
CASES: dict[str, dict[str, Any]] = {
    "as shipped": {},
    "without turns": {"scheduler": {"turn_ms": NEVER_MS}},
    "as shipped, nothing saved": {"policy": {"min_tokens": None}},
    "without turns, nothing saved": {"policy": {"min_tokens": None}, "scheduler": {"turn_ms": NEVER_MS}},
}


class Seen(NamedTuple):
    """Of one stream: its longest pause in seconds, and how often it was parked."""

    pause: float
    parks: int


async def read(model: erllama.Model, number: int) -> Seen:
    """One stream, whose reply does not end by itself."""
    before, pause, parks = 0.0, 0.0, 0
    options: dict[str, Any] = {"response_tokens": REPLY_TOKENS, "seed": number, "grammar": ENDLESS}
    async with model.stream(f"{number} stories of the sea and of the land: ", **options) as events:
        async for event in events:
            now = time.perf_counter()
            if isinstance(event, erllama.TextDelta):
                pause = max(pause, now - before if before else 0.0)
                before = now
            elif isinstance(event, erllama.Done):
                parks = event.completion.stats.parks
    return Seen(pause, parks)


async def case(label: str, options: Mapping[str, Any]) -> list[str]:
    """One row of the table."""
    context = {"n_ctx": N_CTX, "n_seq_max": STREAMS, "n_threads": N_THREADS}
    config: Any = {"model_path": fetch("smollm2"), "context_opts": context, **options}
    async with erllama.Runtime() as runtime:
        model = await runtime.load_model("turns", config)
        began = time.perf_counter()
        seen = await asyncio.gather(*(read(model, number) for number in range(STREAMS)))
        seconds = time.perf_counter() - began
    pause, turn = max(one.pause for one in seen), erllama.SchedulerOpts().turn_ms / 1000
    turns = "–" if "scheduler" in options else f"{pause / turn:.1f}"
    parks = ", ".join(str(one.parks) for one in seen)
    return [label, f"{seconds:.1f}", f"{STREAMS * REPLY_TOKENS / seconds:.0f}", parks, f"{pause:.1f}", turns]


async def main() -> None:
    head = [
        f"{STREAMS} streams of {REPLY_TOKENS} tokens in {N_CTX:,} cells", "seconds", "tokens/s in total",
        "parked, times each", "longest pause, s", "in turns",
    ]  # fmt: skip
    publish("concurrency_turns", table(head, [await case(label, options) for label, options in CASES.items()]))


if __name__ == "__main__":
    asyncio.run(main())
