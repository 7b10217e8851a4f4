"""One file of the hub brought here: whole and checked, or not at all. Blocks.

huggingface_hub itself throws away what has come when a download breaks off, checks no checksum, and cannot be stopped;
so the bytes are fetched here, through its session, into a file that the next try continues. It goes over plain HTTP,
which the hub has for every file, whatever its own storage is: so `hf-xet` is not used.

    lock the file → hash what is there → GET from there on, again where it breaks off → compare the digest → sync → blob
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import msgspec

from erllama_py.errors import ChecksumMismatch, NoRoomToPull
from erllama_py.hub.border import FULL, may_pass
from erllama_py.hub.cache_folder import CacheFolder
from erllama_py.hub.naming import RepoFile
from erllama_py.hub.partial_file import PartialFile
from erllama_py.hub.retrying import failures_after, wait_before
from erllama_py.options.hub_reference import HubReference

LOOK = 0.2  # seconds between two looks at a lock that another process has, and at whether anybody waits still


class Unwanted(Exception):
    """Nobody waits for the download any more."""


class Watch(msgspec.Struct, frozen=True):
    """What a download asks and says of itself while it goes on."""

    wanted: Callable[[], bool]
    """Whether it is still wanted."""
    pause: Callable[[float], object]
    """Waits some seconds, less where it is not wanted any more."""
    report: Callable[[RepoFile, int], None]
    """Gets the file and the bytes of it that are there."""

    def look(self) -> None:
        """Raises `Unwanted`."""
        if not self.wanted():
            raise Unwanted


class Source(msgspec.Struct, frozen=True):
    """Where a file comes from."""

    hub: ModuleType
    reference: HubReference
    commit: str


def bring(source: Source, folder: CacheFolder, file: RepoFile, watch: Watch) -> int:
    """Have a file in the cache; how many bytes were downloaded. Raises what `border.translated` knows,
    `ChecksumMismatch`, `NoRoomToPull` and `Unwanted`."""
    blob = folder.blob(file)
    if _is_there(blob, file):
        return 0
    with _locked(source.hub, folder.lock(file), watch):
        if _is_there(blob, file):  # another process was faster
            return 0
        partial = folder.partial(file)
        with PartialFile(partial, file, watch.look) as out:
            before = out.size
            _check_room(source, partial, file.size - before)
            _fill_or_full(source, file, out, watch, partial)
            if out.digest() != file.digest:
                partial.unlink(missing_ok=True)
                problem = f"{file.path} came with the checksum {out.digest()}, not {file.digest}; it was removed"
                raise ChecksumMismatch(str(source.reference), problem, file.path, file.digest, out.digest())
            out.sync()
        os.replace(partial, blob)
        return max(0, file.size - before)


def _is_there(blob: Path, file: RepoFile) -> bool:
    try:
        return blob.stat().st_size == file.size
    except OSError:
        return False


@contextmanager
def _locked(hub: ModuleType, lock: Path, watch: Watch) -> Iterator[None]:
    """Hold a lock; while another process has it, look whether this is wanted still."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    from filelock import Timeout

    while True:
        watch.look()
        entered = hub.utils.WeakFileLock(lock, timeout=LOOK)
        try:
            entered.__enter__()
            break
        except Timeout:
            continue
    try:
        yield
    finally:
        entered.__exit__(None, None, None)


def _check_room(source: Source, partial: Path, needed: int) -> None:
    available = shutil.disk_usage(partial.parent).free
    if needed > available:
        problem = f"{needed:,} bytes are to come, and the disk of {partial.parent} has {available:,} free"
        raise NoRoomToPull(str(source.reference), problem, needed, available)


def _fill_or_full(source: Source, file: RepoFile, out: PartialFile, watch: Watch, partial: Path) -> None:
    """`_fill`, which finds the disk full where others write to it too."""
    try:
        _fill(source, file, out, watch)
    except OSError as error:
        if error.errno not in FULL:
            raise
        needed, available = file.size - out.size, shutil.disk_usage(partial.parent).free
        problem = f"the disk of {partial.parent} is full: {out.size:,} bytes of {file.path} are there, and kept"
        raise NoRoomToPull(str(source.reference), problem, needed, available) from error


def _fill(source: Source, file: RepoFile, out: PartialFile, watch: Watch) -> None:
    """Bring the bytes that are missing, in as many tries as `retrying` allows."""
    import httpx2

    failures = 0
    watch.report(file, out.size)
    while out.size < file.size:
        before = out.size
        try:
            _receive(source, file, out, watch)
            error: Exception = httpx2.RemoteProtocolError("the answer ended before the file did")
        except (httpx2.TransportError, source.hub.errors.HfHubHTTPError) as broken:
            if not may_pass(source.hub, broken):
                raise
            error = broken
        if out.size >= file.size:
            return
        failures = failures_after(failures, out.size - before)
        if (seconds := wait_before(failures)) is None:
            raise error
        watch.pause(seconds)
        watch.look()


def _receive(source: Source, file: RepoFile, out: PartialFile, watch: Watch) -> None:
    """One answer of the hub, as far as it comes."""
    hub = source.hub
    url = hub.hf_hub_url(source.reference.repo, file.path, revision=source.commit, endpoint=hub.constants.ENDPOINT)
    # What is compressed on the way could not be continued.
    headers = {**hub.utils.build_hf_headers(library_name="erllama_py"), "Accept-Encoding": "identity"}
    if out.size:
        headers["Range"] = f"bytes={out.size}-"
    seconds = hub.constants.HF_HUB_DOWNLOAD_TIMEOUT
    with hub.get_session().stream("GET", url, headers=headers, timeout=seconds) as response:
        if response.status_code >= 400:
            response.read()
        hub.utils.hf_raise_for_status(response)
        if out.size and not _continues(response.status_code, response.headers.get("Content-Range", ""), out.size):
            out.restart()
        for data in response.iter_raw():
            out.append(data)
            watch.look()
            watch.report(file, out.size)


def _continues(status: int, content_range: str, size: int) -> bool:
    """Whether an answer begins where the file ends; servers may ignore what is asked, and give all of it."""
    return status == 206 and content_range.replace(" ", "").startswith((f"bytes{size}-", f"bytes={size}-"))
