"""Answers in a directory, one file each: they outlive the process.

    DIRECTORY/key                      of the seals, 32 bytes
    DIRECTORY/TENANT/RESPONSE.json     an answer

Names of files are made of digests and of ids that the server has made: an id that a client names is looked up among
those that are known, and no path is made of it. A file is written under another name first and then renamed, so that it
is whole or not there; one that cannot be read counts as not there. All work on files is done on threads of this store's
own. One process uses a directory at a time.
"""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import stat
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import msgspec
from aiofiles.os import wrap

from erllama_py.serve.core.directories import PRIVATE, is_ours, own_directory
from erllama_py.serve.responses.sealing import KEY_BYTES
from erllama_py.serve.responses.store import NotKept, Record, Shelf, decode, encode

_NAME = re.compile(r"^resp_[0-9a-f]{32}$")
_TENANT = re.compile(r"^[0-9a-f]{16,64}$")


class DirectoryStore:
    """Keeps answers in files. The directory is looked through when it is first asked."""

    def __init__(self, directory: Path, most: int, most_bytes: int) -> None:
        self._directory = directory
        self._bounds = (most, most_bytes)
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="erllama-responses")
        self._opening = asyncio.Lock()
        self._key: bytes | None = None
        self._shelves: dict[str, Shelf] = {}

    async def key(self) -> bytes:
        """See `Store`. Raises `OSError`."""
        async with self._opening:
            if self._key is None:
                key, found = await _open(self._directory, executor=self._threads)
                for tenant, response_id, size in found:
                    gone = self._shelf(tenant).add(response_id, size)
                    await _remove(self._paths(tenant, gone), executor=self._threads)
                self._key = key
        return self._key

    async def put(self, tenant: str, record: Record) -> None:
        """See `Store`."""
        data, shelf = encode(record), self._shelf(tenant)
        if not shelf.fits(len(data)):
            raise NotKept
        try:
            await self.key()
            await _write(self._path(tenant, record.id), data, executor=self._threads)
        except OSError as error:  # a full disk, mostly
            raise NotKept from error
        gone = shelf.add(record.id, len(data))
        await _remove(self._paths(tenant, gone), executor=self._threads)

    async def chain(self, tenant: str, response_id: str) -> list[Record]:
        """See `Store`."""
        await self.key()
        shelf = self._shelf(tenant)
        if response_id not in shelf:
            return []
        found: list[Record] = await _back(self._path(tenant, response_id), executor=self._threads)
        for record in found[::-1]:
            shelf.use(record.id)
        return found[::-1]

    async def delete(self, tenant: str, response_id: str) -> bool:
        """See `Store`."""
        await self.key()
        if not self._shelf(tenant).remove(response_id):
            return False
        await _remove(self._paths(tenant, [response_id]), executor=self._threads)
        return True

    async def close(self) -> None:
        """See `Store`."""
        self._threads.shutdown(wait=False)

    def _shelf(self, tenant: str) -> Shelf:
        return self._shelves.setdefault(tenant, Shelf(*self._bounds))

    def _path(self, tenant: str, response_id: str) -> Path:
        if not _NAME.match(response_id) or not _TENANT.match(tenant):
            raise ValueError("no name of a file is made of this")
        return self._directory / tenant / f"{response_id}.json"

    def _paths(self, tenant: str, response_ids: list[str]) -> list[Path]:
        return [self._path(tenant, one) for one in response_ids]


# --- on the threads -------------------------------------------------------------------------------------------------


def _opened(directory: Path) -> tuple[bytes, list[tuple[str, str, int]]]:
    """The key, and the answers as tenant, id and size, the oldest first. What was left half-written is removed."""
    own_directory(directory)
    found = list[tuple[float, str, str, int]]()
    for path in directory.glob("*/*"):
        if path.parent.is_symlink() or not is_ours(path.lstat()):  # put there while it was open to others
            continue
        if path.suffix == ".part":
            path.unlink(missing_ok=True)
        elif _NAME.match(path.stem) and path.suffix == ".json" and _TENANT.match(path.parent.name):
            facts = path.stat()
            found.append((facts.st_mtime, path.parent.name, path.stem, facts.st_size))
    return _key_of(directory / "key"), [one[1:] for one in sorted(found)]


def _key_of(path: Path) -> bytes:
    with suppress(FileNotFoundError):
        facts = path.lstat()
        if stat.S_ISREG(facts.st_mode) and is_ours(facts) and len(key := path.read_bytes()) == KEY_BYTES:
            return key
    key = secrets.token_bytes(KEY_BYTES)
    _written(path, key)
    return key


def _written(path: Path, data: bytes) -> None:
    path.parent.mkdir(PRIVATE, exist_ok=True)
    part = path.with_suffix(".part")
    try:
        part.unlink(missing_ok=True)  # of a process that was killed; nothing is written through a link
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(data)
        part.replace(path)
    except OSError:
        part.unlink(missing_ok=True)
        raise


def _read_back(path: Path) -> list[Record]:
    """An answer and those that it goes on from, the newest first, as far as they can be read."""
    found, seen = list[Record](), set[Path]()
    while path not in seen:
        seen.add(path)
        try:
            record = decode(path.read_bytes())
        except (OSError, msgspec.DecodeError):
            break
        found.append(record)
        if record.previous is None or not _NAME.match(record.previous):
            break
        path = path.with_name(f"{record.previous}.json")
    return found


def _removed(paths: list[Path]) -> None:
    for path in paths:
        with suppress(OSError):
            path.unlink()


_open, _write, _back, _remove = wrap(_opened), wrap(_written), wrap(_read_back), wrap(_removed)
