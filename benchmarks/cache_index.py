"""How long a look-up takes among many rows, and how long a disk tier with many rows takes to open.

The look-ups are of prompts of 131,072 tokens in an index of 100,000 rows: long conversations and short ones that share
a system prompt. Their floor is one pass of SHA-256 over the prompt, without which no key is known. The tier's floor is
a loop that reads the same headers, unchecked.

And what holds the event loop longest where an index is as bad as can be: a chain of 10,000 rows, 50,000 that extend one
key, 50,000 of the oldest leaves being read. What the garbage collector takes is told apart.
"""

from __future__ import annotations

import asyncio
import gc
import hashlib
import itertools
import os
import random
import statistics
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

from loop import Heart
from opened import QUOTA, all_known
from report import publish, table

import erllama_py as erllama
from erllama_py.actors import ActorRun, Names
from erllama_py.actors.running import Run
from erllama_py.cache.actor import CacheActor
from erllama_py.cache.index import Index
from erllama_py.cache.keys import TOKEN_BYTES, Identity, prefix_keys
from erllama_py.cache.messages import Find, ReadCounters, RowBytes, Save, Used
from erllama_py.cache.walk import Hit, walk
from erllama_py.options.tiers import DiskTier
from erllama_py.tiers import row_file
from erllama_py.tiers.messages import CACHE, RowMeta, StoredRow

SPAN = 256
SHARED = 1024  # tokens of the system prompt
LONG = 131_072
LONG_CHATS = 100
ROWS = 100_000
FILES = 10_000
PAYLOAD = bytes(1000)
LOOK_UPS = 9
CHAIN, WIDE, SHORT = 10_000, 50_000, 16  # rows of a chain, siblings, and tokens of each
IDENTITY = Identity(b"f" * 32, 4, b"c" * 32)


def row_metas(tokens: bytes, first: int = 0, nbytes: int = len(PAYLOAD), span: int = SPAN) -> Iterator[RowMeta]:
    """The rows of a prompt from position `first` on."""
    n_tokens = len(tokens) // TOKEN_BYTES
    ends = list(range(first, n_tokens + 1, span))
    keys = prefix_keys(IDENTITY, tokens, ends)
    for (start, end), (parent, key) in zip(pairwise(ends), pairwise(keys), strict=True):
        yield RowMeta(
            key=key, parent=parent, start=start, end=end, tokens=tokens[TOKEN_BYTES * start : TOKEN_BYTES * end],
            fingerprint=IDENTITY.fingerprint, quant_bits=4, ctx_params_hash=IDENTITY.ctx_params_hash, build="b",
            payload_bytes=nbytes, logits_bytes=0, reason="cold", created_at=0.0, prefill_seconds=1.0,
        )  # fmt: skip


def filled() -> tuple[Index, bytes]:
    """An index of `ROWS` rows, and a prompt all of which is in it."""
    chance = random.Random(5)
    index = Index()
    index.add_tier("disk", "disk", QUOTA << 10)
    shared = chance.randbytes(TOKEN_BYTES * SHARED)
    prompt = b""
    for number in range(LONG_CHATS):
        prompt = shared + chance.randbytes(TOKEN_BYTES * (LONG - SHARED))
        for meta in row_metas(prompt, SHARED if number else 0):
            index.add("disk", StoredRow(meta=meta, nbytes=6_000_000, hits=0, used_at=0.0))
    while len(index) < ROWS:
        for meta in row_metas(shared + chance.randbytes(TOKEN_BYTES * SPAN), SHARED):
            index.add("disk", StoredRow(meta=meta, nbytes=6_000_000, hits=0, used_at=0.0))
    return index, prompt


def timed(work: Callable[[], object]) -> float:
    """Milliseconds that a call takes: the median of some."""
    seen = []
    for _ in range(LOOK_UPS):
        began = time.perf_counter()
        work()
        seen.append((time.perf_counter() - began) * 1000)
    return statistics.median(seen)


def look_ups() -> str:
    """The table of look-ups."""
    index, prompt = filled()
    middle = len(prompt) // 2 + TOKEN_BYTES * 100
    other = random.Random(6).randbytes(len(prompt))
    cases = {
        "all of it is saved": prompt,
        "it diverges from a saved one in the middle of a row": prompt[:middle] + other[middle:],
        "only the system prompt is saved": prompt[: TOKEN_BYTES * SHARED] + other[TOKEN_BYTES * SHARED :],
        "nothing of it is saved": other,
    }
    floor = timed(lambda: hashlib.sha256(prompt).digest())
    lines = []
    for label, tokens in cases.items():

        def find(tokens: bytes = tokens) -> Hit:
            return walk(index, IDENTITY, tokens, cuttable=True, tier="disk")

        hit = find()
        lines.append([label, f"{timed(find):.2f}", f"{floor:.2f}", f"{hit.length:,}", f"{len(hit.chain):,}"])
    return table(
        [f"a prompt of {LONG:,} tokens among {len(index):,} rows", "ms", "SHA-256 of it, ms", "tokens found", "rows"],
        lines,
    )


def write_rows(root: Path) -> None:
    """Rows as a tier writes them, without waiting for the device."""
    chance = random.Random(7)
    rows = root / "rows"
    nothing, payload_checksum = row_file.checksum(b""), row_file.checksum(PAYLOAD)
    for meta in row_metas(chance.randbytes(TOKEN_BYTES * SPAN * FILES)):
        path = rows / row_file.file_name(meta.key)
        path.write_bytes(row_file.encode_header(meta, payload_checksum, nothing, 0, 0.0) + PAYLOAD)
        path.chmod(0o600)


def read_headers(root: Path) -> float:
    """Seconds to read the headers of all files of a tier."""
    began = time.perf_counter()
    for name in os.listdir(root / "rows"):
        fd = os.open(root / "rows" / name, os.O_RDONLY)
        os.pread(fd, row_file.HEAD_BYTES, 0)
        os.fstat(fd)
        os.close(fd)
    return time.perf_counter() - began


async def opening() -> str:
    """The table of the tier that opens."""
    heart = Heart()
    beating = asyncio.create_task(heart.beat())
    with TemporaryDirectory() as folder:
        root = Path(folder) / "tier"
        async with erllama.Runtime(tiers={"disk": DiskTier(str(root), QUOTA)}):
            pass  # it makes the directory
        write_rows(root)
        floor = read_headers(root)
        lines = []
        for label in ("first", "again"):
            async with erllama.Runtime() as runtime:
                await asyncio.sleep(0.01)  # the heart hears of what was done before without it
                heart.late.clear()
                began = time.perf_counter()
                await runtime.start_tier("disk", DiskTier(str(root), QUOTA))
                usable = time.perf_counter() - began
                await all_known(runtime)
                known = time.perf_counter() - began
                rows = next(tier.rows for tier in await runtime.cache.tiers() if tier.name == "disk")
            late = f"{max(heart.late) * 1000:.1f}"
            lines.append([label, f"{rows:,}", f"{usable:.2f}", f"{known:.2f}", f"{floor:.2f}", late])
    beating.cancel()
    head = [
        "opening a disk tier; seconds", "rows", "until it can be written", "until all rows are known",
        "reading their headers", "longest wait of the event loop, ms",
    ]  # fmt: skip
    return table(head, lines)


# --- the worst of indexes ---------------------------------------------------------------------------------------------


class Longest:
    """The longest turn of the loop since it was asked last: this thread's CPU time, without the garbage collector's,
    and that one's."""

    def __init__(self) -> None:
        self._turn = self._collected = self._collecting = self._since = 0.0
        gc.callbacks.append(self._collects)

    def _collects(self, phase: str, _: object) -> None:
        now = time.thread_time()
        if phase == "start":
            self._since = now
        else:
            self._collecting += now - self._since

    async def watch(self) -> None:
        """Until cancelled."""
        while True:
            began, before = time.thread_time(), self._collecting
            await asyncio.sleep(0)
            collected = self._collecting - before
            self._turn = max(self._turn, time.thread_time() - began - collected)
            self._collected = max(self._collected, collected)

    def take(self) -> list[str]:
        """In milliseconds, and begin anew."""
        said = [f"{1000 * self._turn:.1f}", f"{1000 * self._collected:.1f}"]
        self._turn = self._collected = 0.0
        return said


def question(number: int, tokens: bytes) -> Find:
    """A look-up of a prompt, which pins what it finds."""
    return Find(holder="b", request_id=number, identity=IDENTITY, tokens=tokens, cuttable=True, tier="disk")


async def worst() -> str:
    """The table of the longest turns."""
    chance, longest, lines = random.Random(9), Longest(), list[list[str]]()
    chained = chance.randbytes(TOKEN_BYTES * CHAIN * SHORT)
    alike = [chance.randbytes(TOKEN_BYTES * SHORT) for _ in range(WIDE)]
    names, actor = Names(), CacheActor()
    run = Run(CACHE, lambda: ActorRun(CACHE, lambda: actor, names))
    await run.ready
    actor.index.add_tier("disk", "disk", WIDE * 1000)
    for meta in [*row_metas(chained, span=SHORT), *(next(row_metas(one, span=SHORT)) for one in alike)]:
        actor.index.add("disk", StoredRow(meta=meta, nbytes=1000, hits=0, used_at=0.0))
    actor.index.books["disk"].opened = 1.0
    gc.collect()
    watching = asyncio.create_task(longest.watch())
    await asyncio.sleep(0.01)
    longest.take()
    for label, tokens in (
        (f"all of a chain of {CHAIN:,} rows", chained), (f"one of {WIDE:,} siblings", alike[7]),
        (f"a prompt beside {WIDE:,} siblings", chance.randbytes(TOKEN_BYTES * SHORT)),
    ):  # fmt: skip
        hit = await actor.ref.call(question(1, tokens))
        lines.append([f"look-up of {label}", *longest.take()])
        actor.ref.cast(Used(holder="b", request_id=1, kind="exact", rows=hit.chain, seconds=0.0), bounded=False)
        await actor.ref.call(ReadCounters())
        lines.append([f"use of {label}", *longest.take()])
    for meta in itertools.islice((next(row_metas(one, span=SHORT)) for one in alike), WIDE - 1000):
        actor.index.pin([meta.key], "reader")
    await asyncio.sleep(0)
    longest.take()
    save = Save(row=RowBytes(next(row_metas(chance.randbytes(64), span=SHORT)), memoryview(b"")), tier="disk")
    actor.ref.cast(save, bounded=False)
    await actor.ref.call(ReadCounters())
    lines.append([f"victims for a save, {WIDE - 1000:,} of the oldest rows being read", *longest.take()])
    watching.cancel()
    run.request_stop()
    return table(["longest turn of the event loop, ms", "work", "garbage collector"], lines)


async def main() -> None:
    publish("cache_index", look_ups() + "\n\n" + await worst() + "\n\n" + await opening())


if __name__ == "__main__":
    asyncio.run(main())
