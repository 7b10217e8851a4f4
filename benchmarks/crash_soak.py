"""A model whose process is killed every twenty seconds on average, for half an hour or the seconds given: nothing
leaks, nothing hangs, nothing is answered otherwise.

`python benchmarks/crash_soak.py [SECONDS [SECONDS_BETWEEN]]`. Arrivals, cancellations, sessions, deadlines, vectors,
schemas and reproducible requests on a tiny model of each kind of memory, one after the other. The tests do the same for
a moment; their helper does the work. After each round the books are looked at, after each model what its runtime has
left: processes, descriptors, segments and threads. Whatever is wrong ends it.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pytest
from report import publish, table

import erllama_py as erllama

if TYPE_CHECKING:
    from helpers.crash_soak import CrashSoak

SECONDS, BETWEEN = 1800.0, 20.0
A_MODEL = 60.0  # seconds for each, then the next
REQUESTS = 200  # a round
COUNTED = {
    "requests": "requests", "crashes": "crashes",
    "by SIGSEGV": "crashed by SIGSEGV", "by SIGKILL": "crashed by SIGKILL", "by SIGABRT": "crashed by SIGABRT",
    "by SIGILL": "crashed by SIGILL", "stopped, and ended by the watchdog": "crashed by SIGSTOP",
    "end of text or a stop sequence": "stop", "all tokens asked for": "length", "cancelled": "cancelled",
    "past their deadline": "deadline", "their task cancelled": "gave up", "stream left": "left",
    "with a schema": "with a schema", "reproducible": "reproducible", "vectors": "embedded", "parked": "parks",
    "restored from rows": "restored", "from the cells of their session": "sticky",
}  # fmt: skip


async def main() -> None:
    sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
    from helpers.leftovers import belongings, same_as
    from helpers.tiny_gguf import KINDS

    given = [float(word) for word in sys.argv[1:]]
    until, between = time.monotonic() + (given[0] if given else SECONDS), given[1] if len(given) > 1 else BETWEEN
    done = {kind: Counter[str]() for kind in KINDS}
    seed, before = 0, None
    with TemporaryDirectory() as folder:
        while time.monotonic() < until:
            kind = KINDS[seed % len(KINDS)]
            done[kind] += await life(kind, Path(folder), seed, min(until, time.monotonic() + A_MODEL), between)
            if before is not None:  # after the first life all is there that is made once
                await same_as(before)
            before = before or belongings()
            seed += 1
    lines = [[label, *(f"{done[kind][what]:,}" for kind in KINDS)] for label, what in COUNTED.items()]
    publish("crash-soak", table(["", *KINDS], lines))


async def life(kind: str, folder: Path, seed: int, until: float, between: float) -> Counter[str]:
    """One runtime and its model; what was done."""
    from helpers.crash_soak import crash_soaked
    from helpers.watched import Watch

    chance = random.Random(seed)

    async def moments(_: CrashSoak) -> AsyncIterator[None]:
        while True:
            await asyncio.sleep(chance.expovariate(1 / between))
            yield

    with pytest.MonkeyPatch.context() as patch:
        async with erllama.Runtime() as runtime:
            soak = await crash_soaked(runtime, "process", kind, folder, Watch(patch), seed)  # type: ignore[arg-type]  # one of KINDS
            async with soak.crashing(moments):
                while time.monotonic() < until:
                    await soak.round(REQUESTS)
            await soak.end()
    print(f"{kind}: {dict(soak.done)}", file=sys.stderr, flush=True)
    return soak.done


if __name__ == "__main__":
    asyncio.run(main())
