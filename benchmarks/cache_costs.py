"""What a row costs to save, to keep and to bring back, by its length and by its tier: the reasons for the gates.

First: short prompts, computed and restored, which says below which length saving does not pay (`min_tokens`). Second:
the same prompt cut into rows of several lengths (`boundary_align_tokens`). Third: a row of 256 tokens written to and
read from each kind of tier, which says what promoting it to a faster one could spare.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from fresh import Answer, peer
from opened import MODELS, QUOTA, identity_of, opened, prompt
from report import publish, table

from erllama_py import Model, Runtime
from erllama_py.options.tiers import RamFileTier
from erllama_py.tiers import row_file

SHORT = (24, 32, 64, 128, 256)
SHORT_ROUNDS = 7
ALIGNS = (64, 128, 256, 512)
ALIGN_TOKENS = 1024
ALIGN_ROUNDS = 3
TIER_ROUNDS = 15
MEMORY = Path("/dev/shm")


class Gate(NamedTuple):
    """One short prompt. Times are in seconds."""

    computed: float
    saved: float  # until it was on the device, after the answer
    restored: float
    read: int
    nbytes: int


class Cut(NamedTuple):
    """One prompt cut into rows."""

    rows: int
    nbytes: int
    packed: float  # decoding stopped for so long
    saved: float  # until all was on the device, after the answer
    restored: float


async def timed(work: Awaitable[object]) -> float:
    """Seconds that it takes."""
    began = time.perf_counter()
    await work
    return time.perf_counter() - began


async def used(runtime: Runtime) -> int:
    """Bytes in the disk tier."""
    return sum(tier.used_bytes for tier in await runtime.cache.tiers() if tier.name == "disk")


@asynccontextmanager
async def measuring(name: str, root: Path, align: int, least: int) -> AsyncIterator[Answer]:
    """A part: computes, saves and restores prompt `number`."""
    policy = {"min_tokens": least, "boundary_align_tokens": align, "boundary_trim_tokens": 0}
    async with opened(name, root, policy=policy) as (runtime, model):

        async def ask(tokens: Sequence[int]) -> float:
            return await timed(model.complete(tokens, response_tokens=1, temperature=0.0))

        async def gate(number: int, length: int) -> Gate:
            await runtime.cache.flush()
            tokens, before = await prompt(model, number, length), await used(runtime)
            computed = await ask(tokens)
            saved = await timed(runtime.cache.flush())
            nbytes = await used(runtime) - before
            await ask(await prompt(model, number + 1, least))  # takes the cells
            began = time.perf_counter()
            done = await model.complete([*tokens, 100], response_tokens=1, temperature=0.0)
            return Gate(computed, saved, time.perf_counter() - began, done.cache_delta.read, nbytes)

        async def cut(number: int) -> Cut:
            await runtime.cache.flush()
            tokens, before = await prompt(model, number, ALIGN_TOKENS), await runtime.cache.counters()
            await ask(tokens)
            saved = await timed(runtime.cache.flush())
            after = await runtime.cache.counters()
            await ask(await prompt(model, number + 1, least))
            restored = await ask([*tokens, 100])
            rows = sum(after.get(f"saves.{one}", 0) - before.get(f"saves.{one}", 0) for one in ("cold", "finish"))
            grew = [after.get(one, 0) - before.get(one, 0) for one in ("saves.bytes.disk", "seconds.pack")]
            return Cut(int(rows), int(grew[0]), grew[1], saved, restored)

        async def answer(number: int, length: int | None = None) -> Gate | Cut:
            return await (cut(number) if length is None else gate(number, length))

        yield answer


def gates(name: str) -> list[list[str]]:
    """The lines of short prompts."""
    lines = []
    with TemporaryDirectory() as folder, peer(measuring, name, Path(folder), 256, 16) as part:
        part.ask(1, 64)  # the first prompt of a process is slow
        for length in SHORT:
            seen: list[Gate] = [part.ask(1000 * length + 2 * number, length) for number in range(SHORT_ROUNDS)]
            computed, saved, restored = (statistics.median(one[i] for one in seen) for i in range(3))
            spared = f"{(computed - restored) * 1000:.0f}" if seen[0].read >= length - 1 else "not restored"
            lines.append(
                [
                    MODELS[name], str(length), ms(computed), ms(restored), spared, ms(saved),
                    f"{seen[0].nbytes / 1e6:.2f}",
                ]
            )  # fmt: skip
    return lines


def cuts(name: str) -> list[list[str]]:
    """The lines of one prompt in rows of several lengths."""
    lines = []
    for align in ALIGNS:
        with TemporaryDirectory() as folder, peer(measuring, name, Path(folder), align, 64) as part:
            part.ask(2)  # buffers are made
            seen: list[Cut] = [part.ask(100 + 2 * number) for number in range(ALIGN_ROUNDS)]
        packed, saved, restored = (statistics.median(one[i] for one in seen) for i in range(2, 5))
        size = f"{seen[0].nbytes / 1e6:.2f}"
        lines.append([MODELS[name], str(align), str(seen[0].rows), size, ms(packed), ms(saved), ms(restored)])
    return lines


@asynccontextmanager
async def moving(name: str, root: Path, memory: Path) -> AsyncIterator[Answer]:
    """A part: milliseconds to write and to read the row of a prompt's first 256 tokens, by tier."""
    async with opened(name, root) as (runtime, model):
        await runtime.start_tier("ram_file", RamFileTier(str(memory), QUOTA))

        async def answer() -> list[list[str]]:
            payload = await one_row(runtime, model)
            return [
                [MODELS[name], tier, *await write_and_read(runtime, model, tier, payload, root)]
                for tier in ("disk", "ram_file", "ram")
            ]

        yield answer


async def one_row(runtime: Runtime, model: Model) -> bytes:
    """The bytes of a row of 256 tokens."""
    tokens = await prompt(model, 1, 256)
    await model.complete(tokens, response_tokens=1)
    await runtime.cache.flush()
    ((key, tier),) = (await runtime.cache.find(identity_of(model), tokens)).rows
    return bytes((await runtime.cache.read(key, tier)).payload)


async def write_and_read(runtime: Runtime, model: Model, tier: str, payload: bytes, root: Path) -> list[str]:
    """Medians: written, read, and for files on a disk read without the page cache."""
    cache, keys = runtime.cache, []
    writes = []
    for number in range(TIER_ROUNDS):
        tokens = [number, *range(1000, 1255)]
        began = time.perf_counter()
        keys.append(await cache.put(identity_of(model), tokens, 0, payload, tier=tier))
        await cache.flush()
        writes.append(time.perf_counter() - began)
    reads = [await timed(cache.read(key, tier)) for key in keys]
    dropped = "–"
    if tier == "disk":
        for key in keys:
            drop_pages(root / "rows" / row_file.file_name(bytes.fromhex(key)))
        dropped = ms(statistics.median([await timed(cache.read(key, tier)) for key in keys]))
    await cache.evict_bytes(QUOTA, (tier,))
    return [ms(statistics.median(writes)), ms(statistics.median(reads)), dropped, f"{len(payload) / 1e6:.1f}"]


def drop_pages(path: Path) -> None:
    """Let the page cache forget a file."""
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)


def moves(name: str) -> list[list[str]]:
    """The lines of tiers."""
    place = MEMORY if MEMORY.is_dir() else None
    with (
        TemporaryDirectory() as folder,
        TemporaryDirectory(dir=place) as memory,
        peer(moving, name, Path(folder) / "disk", Path(memory) / "rows") as part,
    ):
        lines: list[list[str]] = part.ask()
    return lines


def ms(seconds: float) -> str:
    """Milliseconds."""
    return f"{seconds * 1000:.1f}"


def main() -> None:
    short = table(
        [
            "a short prompt; ms", "tokens", "computed", "restored from disk, and one token more", "spared by a hit",
            "until it was saved", "MB",
        ],
        [line for name in MODELS for line in gates(name)],
    )  # fmt: skip
    rows = table(
        [
            f"{ALIGN_TOKENS:,} tokens in rows of", "tokens", "rows", "MB", "decoding stopped, ms in total",
            "last row saved, ms after the answer", "restored, and one token more, ms",
        ],
        cuts("smollm2"),
    )  # fmt: skip
    tiers = table(
        ["a row of 256 tokens; ms", "tier", "written", "read", "read, not in the page cache", "MB"],
        [line for name in MODELS for line in moves(name)],
    )
    publish("cache_costs", "\n\n".join((short, rows, tiers)))


if __name__ == "__main__":
    main()
