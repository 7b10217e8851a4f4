"""How long a look-up takes among many rows, and how long a disk tier with many rows takes to open.

The look-ups are of prompts of 131,072 tokens in an index of 100,000 rows: long conversations and short ones that share
a system prompt. Their floor is one pass of SHA-256 over the prompt, without which no key is known. The tier's floor is
a loop that reads the same headers, unchecked.
"""

from __future__ import annotations

import asyncio
import hashlib
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
from erllama_py.cache.index import Index
from erllama_py.cache.keys import TOKEN_BYTES, Identity, prefix_keys
from erllama_py.cache.walk import Hit, walk
from erllama_py.options.tiers import DiskTier
from erllama_py.tiers import row_file
from erllama_py.tiers.messages import RowMeta, StoredRow

SPAN = 256
SHARED = 1024  # tokens of the system prompt
LONG = 131_072
LONG_CHATS = 100
ROWS = 100_000
FILES = 10_000
PAYLOAD = bytes(1000)
LOOK_UPS = 9
IDENTITY = Identity(b"f" * 32, 4, b"c" * 32)


def row_metas(tokens: bytes, first: int = 0, nbytes: int = len(PAYLOAD)) -> Iterator[RowMeta]:
    """The rows of a prompt from position `first` on."""
    n_tokens = len(tokens) // TOKEN_BYTES
    ends = list(range(first, n_tokens + 1, SPAN))
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


async def main() -> None:
    publish("cache_index", look_ups() + "\n\n" + await opening())


if __name__ == "__main__":
    asyncio.run(main())
