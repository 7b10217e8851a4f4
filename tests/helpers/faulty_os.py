"""An operating system whose calls fail at random for the threads of one tier, and the attack that is made with it.

`attack` saves, reads and evicts rows through a real cache while calls fail, then lets all of them work, and looks at
what is left: what was served was right, what the cache knows is what lies there, the books are right, and rows are
saved at once.
"""

from __future__ import annotations

import asyncio
import errno
import os
import random
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import erllama_py as erllama
from erllama_py.cache.keys import Identity
from erllama_py.tiers import row_file
from erllama_py.tiers.directory import DirectoryTier
from erllama_py.tiers.ledger import on_disk

CALLS = (
    "open", "close", "unlink", "rename", "replace", "link", "fsync", "fdatasync", "posix_fallocate", "pwritev",
    "pwrite", "pread", "preadv", "stat", "fstat", "listdir", "scandir", "mkdir", "fchmod", "ftruncate", "write",
)  # fmt: skip
ERRORS = (
    errno.EIO, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EMFILE, errno.ENOMEM, errno.EINTR,
    errno.ESTALE, errno.EBUSY,
)  # fmt: skip
TIER = "d"
IDENTITY = Identity(b"f" * 32, 4, b"c" * 32)
QUOTA = 1 << 20
SIZES = (0, 3000, 20_000, 60_000)
STEPS = 60


class FaultyOs:
    """Each of `CALLS` fails with the odds `odds` on the tier's threads; `failed` counts which."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, chance: random.Random) -> None:
        self.odds, self.only, self.error = 0.0, frozenset(CALLS), 0
        self.failed: Counter[str] = Counter()
        self._chance = chance
        for name in CALLS:
            monkeypatch.setattr(os, name, self._faulty(name, getattr(os, name)))

    def _faulty(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def faulty(*args: Any, **options: Any) -> Any:
            mine = threading.current_thread().name.startswith(f"{TIER}-")
            if mine and self.odds and name in self.only and self._chance.random() < self.odds:
                self.failed[name] += 1
                error = self.error or self._chance.choice(ERRORS)
                if name == "close":  # as the kernel does: it is closed all the same
                    call(*args, **options)
                raise OSError(error, os.strerror(error))
            return call(*args, **options)

        return faulty


def payload(number: int) -> bytes:
    """The only right bytes of a row."""
    return random.Random(number).randbytes(SIZES[number % len(SIZES)])


class Rows:
    """Rows of one runtime, some of which extend others."""

    def __init__(self, runtime: erllama.Runtime) -> None:
        self.cache = runtime.cache

    def tokens(self, number: int) -> list[int]:
        """Every third row extends the one before it."""
        return [*(self.tokens(number - 1) if number % 3 else ()), number, 1]

    async def put(self, number: int) -> None:
        """Save a row."""
        tokens = self.tokens(number)
        await self.cache.put(IDENTITY, tokens, len(tokens) - 2, payload(number), tier=TIER)
        await self.cache.flush()

    async def found(self, number: int) -> bool:
        """Whether a row is found and read; what is read is right."""
        tokens = self.tokens(number)
        hit = await self.cache.find(IDENTITY, tokens)
        if hit.tokens < len(tokens):
            return False
        try:
            row = await self.cache.read(*hit.rows[-1])
        except (erllama.TierError, erllama.RowUnavailable):
            return False
        assert row.payload == payload(number), number
        return True


def damage(root: Path, chance: random.Random) -> None:
    """Something happens to one file of a row."""
    paths = sorted(path for path in (root / "rows").iterdir() if path.is_file())
    if not paths:
        return
    path, data = chance.choice(paths), bytearray()
    kind = chance.choice(["flip", "cut", "directory", "gone", "other"])
    if kind == "flip":
        data += path.read_bytes()
        data[chance.randrange(len(data))] ^= 1
    elif kind == "cut":
        data += path.read_bytes()[: chance.randrange(5000)]
    elif kind == "other":
        data += chance.choice(paths).read_bytes()
    path.unlink()
    if kind == "directory":
        (path / "below").mkdir(parents=True)
    elif kind != "gone":
        path.write_bytes(data)


async def attack(root: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> Counter[str]:
    """One round; which calls failed how often."""
    errors: list[dict[str, Any]] = []  # of tasks that nobody waits for
    asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
    chance = random.Random(seed)
    system = FaultyOs(monkeypatch, random.Random(seed))
    tiers: list[DirectoryTier] = []
    init = DirectoryTier.init

    async def noted(tier: DirectoryTier) -> None:
        tiers.append(tier)
        await init(tier)

    monkeypatch.setattr(DirectoryTier, "init", noted)
    spec = erllama.DiskTier(root, QUOTA)
    async with erllama.Runtime(tiers={TIER: spec}) as runtime:
        rows = Rows(runtime)
        for number in range(12):
            await rows.put(number)
        await _play(rows, root, system, chance)
        system.odds = 0.0
        await _check(rows, root, tiers[-1], chance)
        there = [number for number in range(1000) if await rows.found(number)]
    async with erllama.Runtime(tiers={TIER: spec}) as runtime:
        rows = Rows(runtime)
        while not all(tier.opened == 1.0 for tier in await rows.cache.tiers() if tier.name == TIER):
            await rows.cache.flush()
        assert [number for number in there if not await rows.found(number)] == []
    asyncio.get_running_loop().set_exception_handler(None)
    assert errors == []
    return system.failed


async def _play(rows: Rows, root: Path, system: FaultyOs, chance: random.Random) -> None:
    """Change and read rows while calls fail."""
    system.odds = chance.choice([0.02, 0.1, 0.5, 1.0])
    system.error = chance.choice([0, *ERRORS])
    if chance.random() < 0.5:
        system.only = frozenset(chance.sample(CALLS, chance.choice([1, 2, 5])))
    for _ in range(STEPS):
        step = chance.random()
        if step < 0.6:
            await rows.put(chance.randrange(60))
        elif step < 0.9:
            await rows.found(chance.randrange(60))
        elif step < 0.94:
            await rows.cache.evict_bytes(chance.choice([1, 100_000, 1 << 40]), [TIER])
        elif step < 0.97:
            damage(root, chance)
        else:
            await rows.cache.gc()


async def _check(rows: Rows, root: Path, tier: DirectoryTier, chance: random.Random) -> None:
    """All calls work again."""
    await rows.put(900)
    await rows.put(903)
    assert await rows.found(903)
    for number in range(60):
        await rows.found(number)  # what is damaged is found out
    await rows.cache.gc()
    while tier._opening._scanning:  # what could not be read is looked at again
        await rows.cache.flush()
    known = {row_file.file_name(bytes.fromhex(row.key)) for row in await rows.cache.rows() if row.tier == TIER}
    files = sizes(root / "rows")
    assert known <= set(files)
    assert set(files) - known <= tier._opening.names()
    assert {name: files[name] for name in known} == {name: tier.store.ledger.rows[name] for name in known}
    assert set(tier.store.ledger.rows) - known <= tier._opening.names()
    assert set(tier.store.ledger.aside) == set(sizes(root / "aside"))


def sizes(folder: Path) -> dict[str, int]:
    """What its files take, in blocks, by name."""
    return {path.name: on_disk(path.stat().st_size) for path in folder.iterdir() if path.is_file()}
