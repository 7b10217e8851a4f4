"""Callers who do everything at random, for ten minutes or the seconds given: nothing leaks, nothing hangs.

Arrivals, cancellations, priorities, sessions, deadlines and overflows on tiny models of every kind of memory, through
llama.cpp and on the stub, in small contexts. At each state of the machine and each tick of the thread the books are
checked, after each round they are compared with the cells. The tests do the same for a moment; their helper does the
work. What was done is counted; whatever is wrong ends it.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from report import publish, table

import erllama_py as erllama

SECONDS = 600.0
REQUESTS = 200  # a round
COUNTED = {
    "requests": "requests", "end of text or a stop sequence": "stop", "all tokens asked for": "length",
    "cancelled": "cancelled", "past their deadline": "deadline", "their task cancelled": "gave up",
    "stream left": "left", "`SessionBusy`": "busy", "`QueueFull`": "queue full", "longer than the context": "too long",
    "parked": "parks",
    "restored from rows": "restored", "from the cells of their session": "sticky", "from the cells of others": "live",
    "`evict` in between": "evicted",
}  # fmt: skip


async def main() -> None:
    sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
    from helpers.soak import SUBJECTS, Soak, soaked
    from helpers.watched import Watch

    until = time.monotonic() + float(sys.argv[1] if len(sys.argv) > 1 else SECONDS)
    done = {subject: Counter[str]() for subject in SUBJECTS}
    seed, ticks = 0, Counter[object]()
    with TemporaryDirectory() as folder:
        while time.monotonic() < until:
            for subject in SUBJECTS:
                with pytest.MonkeyPatch.context() as patch:
                    watch = Watch(patch)
                    async with erllama.Runtime() as runtime:
                        soak: Soak = await soaked(runtime, subject, Path(folder), watch, seed)
                        await soak.round(REQUESTS)
                        await soak.round(REQUESTS)
                        await soak.end()
                done[subject] += soak.done
                ticks[subject] += watch.ticks
            seed += 1
    head = ["", *(f"{'llama.cpp' if backend == 'llama' else backend}, {memory}" for backend, memory in SUBJECTS)]
    lines = [["ticks of the thread", *(f"{ticks[subject]:,}" for subject in SUBJECTS)]]
    lines += [[label, *(f"{done[subject][what]:,}" for subject in SUBJECTS)] for label, what in COUNTED.items()]
    publish("soak", table(head, lines))


if __name__ == "__main__":
    asyncio.run(main())
