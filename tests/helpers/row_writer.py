"""A process that does nothing but put rows into a directory, and the harness that kills it.

The child (`python -m helpers.row_writer ROOT FIRST`) opens the directory, writes `open` to its output, and then the
number of each row as soon as it is stored. `kill_rounds` starts it again and again, kills it at a random moment, every
second time in the middle of a row, and looks at what it has left; a benchmark may ask for many more rounds than a test.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from erllama_py.buffers import BufferPool
from erllama_py.options.tiers import DiskTier
from erllama_py.tiers.directory import DirectoryTier
from erllama_py.tiers.messages import BadFiles, Get
from helpers.fake_cache import key_of, meta_of, payload_of, put_of, temp_files, tier_running

QUOTA = 4 << 30
# Long enough that writing and syncing take most of the time, so that most kills come in the middle of one.
PAYLOAD_BYTES = 300_000
# Rows that a child stores before it may be killed, and seconds after the last of them: about as long as a row takes.
MOST_ROWS = 6
MOST_SECONDS = 0.01


@dataclass
class Killed:
    """What the rounds have come to."""

    rounds: int = 0
    announced: int = 0
    kept: int = 0  # rows found at the end, each of them whole
    with_temp_files: int = 0  # rounds that were killed in the middle of a row


def tier_at(root: Path) -> DirectoryTier:
    """The tier that both sides open."""
    return DirectoryTier("d", DiskTier(str(root), QUOTA), BufferPool(16 << 20))


def start_writer(root: Path, first: int = 0) -> subprocess.Popen[str]:
    """A child that opens the directory and puts rows `first`, `first + 1` …"""
    # It finds this package and the library where this process finds them.
    paths = os.pathsep.join(path for path in sys.path if path)
    return subprocess.Popen(
        [sys.executable, "-m", "helpers.row_writer", str(root), str(first)],
        stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": paths},
    )  # fmt: skip


def said(child: subprocess.Popen[str]) -> str:
    """The next line of the child; it must still be there to say it."""
    assert child.stdout is not None
    line = child.stdout.readline().strip()
    assert line, f"the writer ended with {child.wait()}"
    return line


def stop_in_a_row(child: subprocess.Popen[str], root: Path) -> None:
    """Stop it at some moment at which it is in the middle of a row. Blocks."""
    while True:
        child.send_signal(signal.SIGSTOP)
        state = os.waitid(os.P_PID, child.pid, os.WSTOPPED | os.WEXITED)
        assert state is not None
        assert state.si_code == os.CLD_STOPPED, "the writer has ended"
        if temp_files(root):
            return
        child.send_signal(signal.SIGCONT)


def kill(child: subprocess.Popen[str]) -> list[str]:
    """End it as a crash would; what it had still said."""
    child.kill()
    child.wait()
    assert child.stdout is not None
    with child.stdout:
        # The last line may be cut off; what is not a whole line was not said.
        return [line.strip() for line in child.stdout.read().splitlines(keepends=True) if line.endswith("\n")]


async def kill_rounds(root: Path, rounds: int, seed: int) -> Killed:
    """Kill a writer `rounds` times and check all that it left after each."""
    chance = random.Random(seed)
    result = Killed()
    announced: set[int] = set()
    for number in range(rounds):
        child = await asyncio.to_thread(start_writer, root, max(announced, default=-1) + 1)
        assert await asyncio.to_thread(said, child) == "open"
        for _ in range(chance.randrange(MOST_ROWS)):
            announced.add(int(await asyncio.to_thread(said, child)))
        # Not a wait for anything: the moment of the kill is what is drawn.
        await asyncio.sleep(chance.uniform(0, MOST_SECONDS))
        if number % 2:  # how much of the time writing takes is a matter of the machine
            await asyncio.to_thread(stop_in_a_row, child, root)
        announced.update(int(line) for line in await asyncio.to_thread(kill, child))
        result.rounds += 1
        result.with_temp_files += bool(temp_files(root))
        result.kept = await check(root, announced)
    result.announced = len(announced)
    return result


async def check(root: Path, announced: set[int]) -> int:
    """Open the directory: no temp files, no bad files, all announced rows, every row whole; how many there are."""
    async with tier_running(lambda: tier_at(root)) as bench:
        rows = await bench.cache.opened()
        found = {row.meta.key for row in rows}
        assert temp_files(root) == []
        assert bench.cache.told(BadFiles) == []
        assert {key_of(number) for number in announced} <= found
        for key in found:
            row = await bench.ref.call(Get(key))
            assert row.payload == payload_of(key, PAYLOAD_BYTES)
        return len(found)


async def write(root: Path, first: int) -> None:
    """What the child does."""
    async with tier_running(lambda: tier_at(root)) as bench:
        print("open", flush=True)
        number = first
        while True:
            await bench.ref.call(put_of(meta_of(number, PAYLOAD_BYTES)))
            print(number, flush=True)
            number += 1


if __name__ == "__main__":
    asyncio.run(write(Path(sys.argv[1]), int(sys.argv[2])))
