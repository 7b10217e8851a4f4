"""Callers who do everything at random, for ten minutes or the seconds given: nothing leaks, nothing hangs.

Arrivals, cancellations, priorities, sessions, deadlines and overflows on tiny models of every kind of memory, through
llama.cpp and on the stub, in small contexts. At each state of the machine and each tick of the thread the books are
checked, after each round they are compared with the cells. The tests do the same for a moment; their helper does the
work. What was done is counted and printed; whatever is wrong ends it.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from report import table

import erllama_py as erllama

SECONDS = 600.0
REQUESTS = 200  # a round
COLUMNS = (
    "requests", "stop", "length", "cancelled", "gave up", "left", "parks", "restored", "sticky", "live", "busy",
    "queue full", "too long", "evicted",
)  # fmt: skip


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
    rows = [[*subject, str(ticks[subject]), *(str(done[subject][what]) for what in COLUMNS)] for subject in SUBJECTS]
    print(table(["backend", "memory", "ticks", *COLUMNS], rows))


if __name__ == "__main__":
    asyncio.run(main())
