"""A tier of files under test: made, asked for a row, and looked at from outside."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from erllama_py.buffers import BufferPool
from erllama_py.errors import RowUnavailable
from erllama_py.options.tiers import DiskTier
from erllama_py.tiers import row_file
from erllama_py.tiers.directory import DirectoryTier
from erllama_py.tiers.messages import Get
from erllama_py.tiers.publish import Files
from helpers.fake_cache import Bench, bytes_in, key_of, payload_of, temp_files

QUOTA = 1 << 20


def tier_at(root: Path, files: Files | None = None, quota: int = QUOTA) -> DirectoryTier:
    """A tier in `root`, not started."""
    return DirectoryTier("d", DiskTier(str(root), quota), BufferPool(64 << 20), files=files)


def used(bench: Bench) -> int:
    """What the tier's books say."""
    assert isinstance(bench.tier, DirectoryTier)
    return bench.tier.store.ledger.used


def path_of(root: Path, number: int) -> Path:
    """The file of row `number`."""
    return root / "rows" / row_file.file_name(key_of(number))


def hollow(path: Path, payload_bytes: int) -> None:
    """Make the file one whose header, with a right checksum, says that its payload is so large; it is a hole."""
    head = path.read_bytes()
    meta = row_file.decode_header(head, len(head), path.name).meta
    meta = msgspec.structs.replace(meta, payload_bytes=payload_bytes, logits_bytes=0)
    path.write_bytes(row_file.encode_header(meta, bytes(16), row_file.checksum(b""), 0, 0.0))
    os.truncate(path, row_file.layout(meta).file_bytes)


async def served(bench: Bench, number: int) -> bool:
    """Whether row `number` is served; what is served is right."""
    try:
        row = await bench.ref.call(Get(key_of(number)))
    except RowUnavailable:
        return False
    assert row.payload == payload_of(key_of(number), row.meta.payload_bytes)
    return True


async def works(bench: Bench, root: Path, number: int = 99) -> None:
    """The tier takes and serves a new row, and its books are right."""
    await bench.put(number)
    assert await served(bench, number)
    assert temp_files(root) == []
    assert used(bench) == bytes_in(root)
