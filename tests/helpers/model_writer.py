"""A process in which SmolLM2 answers prompts and saves what it computes, and the harness that kills it.

The child (`python -m helpers.model_writer ROOT FIRST`) first repeats one of `KNOWN` prompts, which those before it have
saved, and prints its reply; then it answers prompts that are new, and prints the key of each row once it is stored.
`kill_model_rounds` starts it again and again and kills it at a random moment: each reply to a known prompt has to be
the one without a cache, whatever the killed ones have left, and every row that is there has to be whole.
"""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import erllama_py as erllama
from erllama_py.serve.models import fetch
from erllama_py.tiers.messages import BadFiles, Get
from helpers.fake_cache import temp_files, tier_running
from helpers.row_writer import Killed, kill, said, tier_at

QUOTA = 4 << 30
# Said again and again, so that no rounding changes what comes next.
SEEN = (" red green blue", " one two three four", " ship boat", " rain wind snow sun", " a b c d e", " Monday Friday")
KNOWN = len(SEEN)
# Seconds after the first reply until it is killed, at most: some rows are stored by then.
MOST_SECONDS = 1.5
STORY = "The keeper of the lighthouse carried wood up the hill every evening, and counted the ships on the way. "


def config(tier: bool = True) -> Any:
    """Many small rows."""
    gates = {
        "min_tokens": 16, "boundary_align_tokens": 16, "boundary_trim_tokens": 0, "continued_interval": 4,
        "session_resume_wait_ms": 60_000,
    }  # fmt: skip
    where = {"tier": "disk", "tier_srv": "d"} if tier else {}
    return {
        "model_path": fetch("smollm2"), "context_opts": {"n_ctx": 512, "n_seq_max": 1, "n_threads": 1},
        "policy": gates if tier else {"min_tokens": None, "cold_min_tokens": None}, **where,
    }  # fmt: skip


async def reply(model: erllama.Model, number: int) -> str:
    """What it says to prompt `number`."""
    prompt = f"Night {number}. {STORY}" + SEEN[number % KNOWN] * 8
    done = await model.complete(prompt, temperature=0.0, response_tokens=12)
    return " ".join(map(str, done.generated))


async def write(root: Path, first: int) -> None:
    """What the child does."""
    async with erllama.Runtime(tiers={"d": erllama.DiskTier(root, QUOTA)}) as runtime:
        model = await runtime.load_model("m", config())
        print(await reply(model, first % KNOWN), flush=True)
        stored = {row.key for row in await runtime.cache.rows()}
        while True:
            first += 1
            await reply(model, first)
            await runtime.cache.flush()
            for row in await runtime.cache.rows():
                if row.key not in stored:
                    print(row.key, flush=True)
                    stored.add(row.key)


async def cold_replies() -> list[str]:
    """What the model says to the known prompts without a cache."""
    async with erllama.Runtime() as runtime:
        model = await runtime.load_model("m", config(tier=False))
        return [await reply(model, number) for number in range(KNOWN)]


def start(root: Path, first: int) -> subprocess.Popen[str]:
    """A child; it finds this package and the library where this process finds them."""
    paths = os.pathsep.join(path for path in sys.path if path)
    return subprocess.Popen(
        [sys.executable, "-m", "helpers.model_writer", str(root), str(first)],
        stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": paths},
    )  # fmt: skip


async def kill_model_rounds(root: Path, rounds: int, seed: int, cold: list[str]) -> Killed:
    """Kill a child `rounds` times, and check all that it said and left."""
    chance, result, announced = random.Random(seed), Killed(), set[str]()
    for number in range(rounds):
        child = await asyncio.to_thread(start, root, number + (1000 * seed + number) * KNOWN)
        assert await asyncio.to_thread(said, child) == cold[number % KNOWN]
        if number == rounds - 1 and not announced:  # on a busy machine all moments may come before a first row
            announced.add(await asyncio.to_thread(said, child))
        await asyncio.sleep(chance.uniform(0, MOST_SECONDS))  # the moment of the kill is what is drawn
        announced.update(await asyncio.to_thread(kill, child))
        result.rounds += 1
        result.with_temp_files += bool(temp_files(root))
        result.kept = await check(root, announced)
    result.announced = len(announced)
    return result


async def check(root: Path, announced: set[str]) -> int:
    """Open the directory: no temp files, no bad files, all announced rows, every row whole; how many there are."""
    async with tier_running(lambda: tier_at(root)) as bench:
        found = {row.meta.key for row in await bench.cache.opened()}
        assert temp_files(root) == []
        assert bench.cache.told(BadFiles) == []
        assert announced <= {key.hex() for key in found}
        for key in found:
            await bench.ref.call(Get(key))
        return len(found)


if __name__ == "__main__":
    asyncio.run(write(Path(sys.argv[1]), int(sys.argv[2])))
