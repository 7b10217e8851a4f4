"""The directory of a tier with rows in it, written by a runtime that has ended, and what may be wrong in one."""

from __future__ import annotations

import asyncio
from pathlib import Path

import erllama_py as erllama
from erllama_py.tiers.row_file import file_name

IDENTITY = erllama.Identity(b"f" * 32, 16, b"c" * 32)
OTHER = erllama.Identity(b"e" * 32, 16, b"c" * 32)
TOKENS = 10  # of each row
PAYLOAD = 3000


def fill(root: Path, *, chats: int = 2, rows: int = 3) -> list[list[str]]:
    """Chats of so many rows each, that extend each other; the last chat is another model's. Their keys."""
    return asyncio.run(_fill(root, chats, rows))


async def _fill(root: Path, chats: int, rows: int) -> list[list[str]]:
    keys: list[list[str]] = []
    async with erllama.Runtime(tiers={"d": erllama.DiskTier(str(root))}) as runtime:
        for chat in range(chats):
            identity = OTHER if chat == chats - 1 else IDENTITY
            tokens = [1000 * chat + number for number in range(TOKENS * rows)]
            keys.append([])
            for row in range(rows):
                payload = bytes([chat, row]) * (PAYLOAD // 2)
                end = TOKENS * (row + 1)
                key = await runtime.cache.put(identity, tokens[:end], TOKENS * row, payload, tier="d", build="b1")
                keys[-1].append(key)
        await runtime.cache.flush()
    return keys


def file_of(root: Path, key: str) -> Path:
    """Where the row with this key lies."""
    return root / "rows" / file_name(bytes.fromhex(key))


def flip(path: Path, at: int) -> None:
    """Turn a bit over."""
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def listing(root: Path) -> dict[str, bytes]:
    """Every file below a directory but the lock, whose content is the number of a process."""
    files = (path for path in sorted(root.rglob("*")) if path.is_file() and path.name != "lock")
    return {str(path.relative_to(root)): path.read_bytes() for path in files}
