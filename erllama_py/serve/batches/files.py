"""The files of all tenants in one directory, which one process uses at a time.

    DIRECTORY/lock
    DIRECTORY/TENANT/FILE.json       what is known of a file; without it there is none
    DIRECTORY/TENANT/FILE.data       its bytes
    DIRECTORY/TENANT/BATCH.journal   see `journal`
    DIRECTORY/TENANT/BATCH.index     see `checking`

Names are digests of tenants and ids that the server has made. An id that a client names is looked up among those that
are known, and no path is made of it.
"""

from __future__ import annotations

import asyncio
import math
import os
import re
import shutil
import stat
import tempfile
import uuid
import weakref
from collections.abc import AsyncIterator, Callable, Container
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiofiles
import msgspec

from erllama_py.serve.batches import journal
from erllama_py.serve.batches.disk import Disk, Growing, lock, write_whole
from erllama_py.serve.batches.journal import State
from erllama_py.serve.batches.shelf import FileFacts, Quota, Shelf
from erllama_py.serve.core.directories import PRIVATE, is_ours, own_directory
from erllama_py.serve.core.service import Tenant
from erllama_py.watch.log import get_logger

_FILE = re.compile(r"^file-[0-9a-f]{32}$")
_BATCH = re.compile(r"^batch_[0-9a-f]{32}$")
_TENANT = re.compile(r"^[0-9a-f]{32}$")
CHUNK = 1 << 16
LOG = "erllama_py.batches"


class Found(msgspec.Struct, frozen=True):
    """A batch that an earlier process has left."""

    tenant: str
    id: str
    state: State
    size: int
    """Bytes of its journal that are whole."""


def new_file_id() -> str:
    """The id of a file, which nobody can guess."""
    return f"file-{uuid.uuid4().hex}"


class Files:
    """Files by tenant. Without a directory they are in a temporary one, which ends with the process."""

    def __init__(self, directory: Path | None, quota: Callable[[], Quota], disk: Disk) -> None:
        self.quota = quota
        self._given, self._disk = directory, disk
        self._temporary: weakref.finalize[..., Files] | None = None
        self._root = directory or Path()
        self._lock: int | None = None
        self._opening = asyncio.Lock()
        self._shelves: dict[str, Shelf] = {}
        self._next_expiry = math.inf

    @property
    def outlives(self) -> bool:
        """Whether there is something of earlier processes to be found."""
        return self._given is not None

    async def open(self) -> list[Found] | None:
        """Look through the directory, once: the batches in it. None where that was done before.

        Raises `OSError`; `BlockingIOError` where another process uses it.
        """
        async with self._opening:
            if self._lock is not None:
                return None
            if self._given is None and self._temporary is None:
                self._root = Path(await self._disk.do(tempfile.mkdtemp, None, "erllama-files-"))
                self._temporary = weakref.finalize(self, shutil.rmtree, self._root, ignore_errors=True)
            opening = asyncio.ensure_future(self._disk.do(_opened, self._root))
            try:
                held, files, batches = await asyncio.shield(opening)
            except asyncio.CancelledError:
                opening.add_done_callback(_let_go)  # else nobody in this process could open it again
                raise
            for tenant, facts in files:
                self._add(tenant, facts)
            self._lock = held
            return batches

    def list(self, tenant: str) -> list[FileFacts]:
        """Those of a tenant, the oldest first."""
        return list(self._shelf(tenant).files.values())

    def get(self, tenant: str, file_id: str) -> FileFacts | None:
        """None where a tenant has none of this id."""
        return self._shelf(tenant).files.get(file_id)

    def path(self, tenant: str, name: str, kind: str = "data") -> Path:
        """Where something of a tenant is, by an id that the server has made."""
        if not (_FILE.match(name) or _BATCH.match(name)) or not _TENANT.match(tenant):
            raise ValueError("no name of a file is made of this")
        return self._root / tenant / f"{name}.{kind}"

    async def delete(self, tenant: str, file_id: str) -> None:
        """It is not there any more. Raises `OSError`, and then it is."""
        await self.remove(self.path(tenant, file_id, "json"), self.path(tenant, file_id))
        self._shelf(tenant).remove(file_id)

    async def remove(self, *paths: Path) -> None:
        """What these are called, is not there any more. Raises `OSError`."""
        await self._disk.do(_removed, paths)

    async def keep(self, tenant: str, facts: FileFacts) -> None:
        """A file whose bytes are there becomes one of the tenant's. Raises `OSError`."""
        await self._disk.do(write_whole, self.path(tenant, facts.id, "json"), msgspec.json.encode(facts))
        self._add(tenant, facts)

    async def expire(self, now: float, but: Container[str]) -> None:
        """Delete those whose time is over, but some. Raises `OSError`, and then some may be there still."""
        if now < self._next_expiry:
            return
        for tenant, shelf in list(self._shelves.items()):
            for file_id in shelf.expired(now):
                if file_id not in but:
                    await self.delete(tenant, file_id)
        self._next_expiry = min((shelf.next_expiry() for shelf in self._shelves.values()), default=math.inf)

    async def make_room(self, tenant: str) -> None:
        """The folder of a tenant. Raises `OSError`."""
        await self._disk.do(own_directory, self._root / tenant)

    @asynccontextmanager
    async def incoming(self, tenant: str) -> AsyncIterator[Incoming]:
        """A file that is being received; gone at the end unless it was kept. Raises `OSError`."""
        await self.make_room(tenant)
        shelf, file_id = self._shelf(tenant), new_file_id()
        path = self.path(tenant, file_id)
        shelf.coming += 1
        one = None
        try:
            one = Incoming(file_id, await Growing.open(self._disk, path, 0), shelf)
            yield one
        finally:
            shelf.coming -= 1
            if one is not None:
                shelf.coming_bytes -= one.size
                await one.close()
            if file_id not in shelf.files:
                with suppress(OSError):  # else the next process does
                    await self.remove(self.path(tenant, file_id, "json"), path)

    @asynccontextmanager
    async def content(self, tenant: str, file_id: str) -> AsyncIterator[AsyncIterator[bytes]]:
        """The bytes of a file, in pieces; all of them although it is deleted meanwhile. Raises `OSError`."""
        file: Any = await aiofiles.open(self.path(tenant, file_id), "rb", executor=self._disk.threads)

        async def pieces() -> AsyncIterator[bytes]:
            while piece := await file.read(CHUNK):
                yield piece

        try:
            yield pieces()
        finally:
            await file.close()

    async def close(self) -> None:
        """Nothing is asked of it any more. Allowed twice."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
        if self._temporary is not None:
            await self._disk.do(self._temporary)
            self._temporary = None

    def _add(self, tenant: str, facts: FileFacts) -> None:
        self._shelf(tenant).add(facts)
        self._next_expiry = min(self._next_expiry, facts.expires_at or math.inf)

    def _shelf(self, tenant: str) -> Shelf:
        return self._shelves.setdefault(tenant, Shelf(self.quota))


def _let_go(opening: asyncio.Future[tuple[int, list[tuple[str, FileFacts]], list[Found]]]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        os.close(opening.result()[0])


class Incoming:
    """A file while it comes."""

    def __init__(self, file_id: str, growing: Growing, shelf: Shelf) -> None:
        self.id, self.size = file_id, 0
        self._growing, self._shelf = growing, shelf

    async def append(self, data: bytes) -> None:
        """More of it. Raises `OSError`."""
        await self._growing.append(data)

    def refusal(self, more: int) -> tuple[str, str] | None:
        """Why so many more bytes are not taken; None where they are, and then they count."""
        self._shelf.coming_bytes += more
        self.size += more
        return self._shelf.refusal(self.size)

    async def close(self) -> None:
        """It outlives a loss of power from now on. Allowed twice."""
        await self._growing.close()

    async def sync(self) -> None:
        """See `Growing`. Raises `OSError`."""
        await self._growing.sync()


# --- on the threads -------------------------------------------------------------------------------------------------


def _opened(root: Path) -> tuple[int, list[tuple[str, FileFacts]], list[Found]]:
    """The lock; the files by tenant, and the batches, both the oldest first. What belongs to neither is removed, and
    what cannot be read is left as it is."""
    own_directory(root)
    held = lock(root / "lock")
    try:
        files, batches = list[tuple[int, str, FileFacts]](), list[tuple[int, Found]]()
        for folder in sorted(root.iterdir()):
            if _TENANT.match(folder.name) and not folder.is_symlink() and is_ours(folder.stat()):
                folder.chmod(PRIVATE)
                _look_through(folder, files, batches)
    except BaseException:
        os.close(held)
        raise
    files.sort(key=lambda one: (one[2].created_at, one[0]))
    batches.sort(key=lambda one: (one[1].state.created.at, one[0]))
    return held, [one[1:] for one in files], [one[1] for one in batches]


def _look_through(folder: Path, files: list[tuple[int, str, FileFacts]], batches: list[tuple[int, Found]]) -> None:
    there = {path.name: path for path in folder.iterdir() if _is_file(path)}
    kept, sure = set[str](), True
    for name, path in there.items():
        try:
            if path.suffix == ".json" and _FILE.match(path.stem) and f"{path.stem}.data" in there:
                kept.add(path.stem)
                facts = msgspec.json.decode(path.read_bytes(), type=FileFacts)
                files.append((path.stat().st_mtime_ns, folder.name, facts))
            elif path.suffix == ".journal" and _BATCH.match(path.stem):
                found = _batch(folder.name, path)
                batches.append((path.stat().st_mtime_ns, found))
                kept |= {found.state.created.output_file_id, found.state.created.error_file_id}
        except (OSError, ValueError, RecursionError) as error:  # damaged, or of another version
            sure = sure and path.suffix != ".journal"  # its answers may be any of the files
            about = f"{folder.name}/{name}"
            get_logger(LOG).error("a file cannot be read, and is left as it is", file=about, error=str(error))
    for path in there.values():
        stray = path.suffix == ".data" and path.stem not in kept and sure
        alone = path.suffix == ".json" and _FILE.match(path.stem) and f"{path.stem}.data" not in there
        if path.suffix == ".part" or stray or alone:
            with suppress(OSError):
                path.unlink()


def _batch(tenant: str, path: Path) -> Found:
    """Raises `OSError`, `ValueError`."""
    state, size = journal.read(path.read_bytes())
    if state is None:
        raise ValueError("its first record is none")
    msgspec.convert(state.created.tenant, Tenant)  # who asked has to be known, too
    return Found(tenant, path.stem, state, size)


def _is_file(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False


def _removed(paths: tuple[Path, ...]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)
