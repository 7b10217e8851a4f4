"""Two hundred clients of a server over sockets, a fifth of whom leave at random, for two minutes or the seconds given.

Every answer is whole, or says that the server is busy; when all have gone, no request, task, sequence, cell, file or
thread of theirs is left; and memory is flat: after the first quarter of the time it grows by at most `GROWTH` bytes.
Whatever else is found ends it. The tests do the same for a moment; their helper does the work, on a model of a few
layers that llama.cpp computes.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
from report import publish, table

SECONDS = 120.0
CLIENTS = 200
GROWTH = 16 << 20
ROUNDS = 8


def before(end: float) -> Callable[[], bool]:
    """Whether a moment is still to come."""
    return lambda: time.monotonic() < end


async def main() -> None:
    sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
    from helpers.http_soak import HttpSoak, soaked

    seconds = float(sys.argv[1] if len(sys.argv) > 1 else SECONDS)
    memory, held = list[int](), list[object]()
    with TemporaryDirectory() as folder:
        soak: HttpSoak
        async with soaked(Path(folder)) as soak:
            for _ in range(ROUNDS):
                await soak.round(CLIENTS, before(time.monotonic() + seconds / ROUNDS))
                held.append(await soak.at_rest())
                memory.append(psutil.Process().memory_info().rss)
                print(f"{held[-1]}, {memory[-1] >> 20} MiB, {dict(soak.done)}", flush=True)
            counters = soak.model.counters
    assert soak.problems == [], soak.problems[:5]
    warm = ROUNDS // 4
    assert len(set(held[warm:])) == 1, held
    growth = memory[-1] - memory[warm - 1]
    assert growth <= GROWTH, memory
    done, cancelled = soak.done, counters.finished.get("cancelled", 0)
    rows = [
        ["clients, seconds", f"{CLIENTS}, {seconds:.0f}"],
        ["answers that were whole, streams among them", f"{done['200']:,}, {done['streams']:,}"],
        ["429, and 529 as Anthropic's API says it", f"{done['429']:,}, {done['529']:,}"],
        ["wrong requests, refused as such", f"{done['400']:,}"],
        ["clients that left", f"{done['left']:,}"],
        ["other answers, or streams cut short", f"{len(soak.problems)}"],
        ["requests that the model saw, cancelled among them", f"{counters.requests:,}, {cancelled:,}"],
        ["MiB of memory after a quarter, at the end", f"{memory[warm - 1] >> 20}, {memory[-1] >> 20}"],
    ]
    publish("soak-http", table(["", ""], rows))


if __name__ == "__main__":
    asyncio.run(main())
