"""How a row becomes a file that is whole or not there: the stages, as blocking functions.

    create → allocate → write → sync → (recheck, by the actor) → link → unlink → sync the directory

`Files` are the calls of the operating system, one for each stage: tests put their own in, to fail, to wait or to die
there. A `Draft` is one pending row. `prepare` makes the temp file, `publish` gives it its name, `take_back` undoes
whatever was done. The caller keeps the books: it reserves the bytes before `prepare`, and it alone changes the
directory meanwhile.
"""

from __future__ import annotations

import errno
import itertools
import os
import re
from collections.abc import Callable, Sequence
from contextlib import suppress

from erllama_py.tiers import row_file
from erllama_py.tiers.ledger import on_disk
from erllama_py.tiers.lock import PRIVATE_FILE, sync_directory
from erllama_py.tiers.messages import RowBytes, StoredRow

# What file systems answer that have no such call: ZFS and NFS to an allocation, many in user space to a link.
_CANNOT = frozenset({errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENODEV})
_CANNOT_LINK = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS})

TEMP_SUFFIX = ".tmp"
_TEMP_NAME = re.compile(r"\d+-\d+\.tmp", re.ASCII)
_numbers = itertools.count(1)


class Files:
    """One method for each stage. `rows_fd` is the directory, held open."""

    def create(self, rows_fd: int, name: str) -> int:
        """A new file to write, readable by its owner alone; its descriptor."""
        return os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, PRIVATE_FILE, dir_fd=rows_fd)

    def allocate(self, fd: int, nbytes: int) -> None:
        """Take the blocks, so that a full disk shows before anything is written."""
        try:
            os.posix_fallocate(fd, 0, nbytes)
        except (AttributeError, OSError) as error:  # then it shows when it is written
            if isinstance(error, OSError) and error.errno not in _CANNOT:
                raise
            os.ftruncate(fd, nbytes)

    def write(self, fd: int, parts: Sequence[bytes | memoryview], offset: int) -> None:
        """Write `parts` one after the other from `offset` on."""
        left = [memoryview(part).cast("B") for part in parts if len(part)]
        while left:
            written = os.pwritev(fd, left, offset)
            offset += written
            while left and written >= len(left[0]):
                written -= len(left.pop(0))
            if left:
                left[0] = left[0][written:]

    def sync(self, fd: int) -> None:
        """The bytes, and the size, are on the device."""
        getattr(os, "fdatasync", os.fsync)(fd)

    def link(self, rows_fd: int, temp: str, name: str) -> None:
        """Give the file its name; `FileExistsError` when something has it."""
        try:
            os.link(temp, name, src_dir_fd=rows_fd, dst_dir_fd=rows_fd, follow_symlinks=False)
        except OSError as error:
            if error.errno not in _CANNOT_LINK:
                raise
            if is_there(rows_fd, name):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)) from error
            # As good: the directory has one owner, so nothing gets the name in between.
            os.rename(temp, name, src_dir_fd=rows_fd, dst_dir_fd=rows_fd)

    def replace(self, rows_fd: int, temp: str, name: str) -> None:
        """Give the file its name in place of whatever has it."""
        os.replace(temp, name, src_dir_fd=rows_fd, dst_dir_fd=rows_fd)

    def unlink(self, rows_fd: int, name: str) -> None:
        """Take a name away; no error if it is not there."""
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=rows_fd)

    def sync_directory(self, rows_fd: int) -> None:
        """The names are on the device."""
        sync_directory(rows_fd)


class Draft:
    """One row that is to become a file."""

    def __init__(self, row: RowBytes) -> None:
        self.row = row
        self.meta = row.meta
        self.layout = row_file.layout(row.meta)
        self.nbytes = on_disk(self.layout.file_bytes)
        self.name = row_file.file_name(row.meta.key)
        # The process and a number: unique in the directory, which has one owner.
        self.temp = f"{os.getpid()}-{next(_numbers)}{TEMP_SUFFIX}"
        self.checksums = (b"", b"")
        self.named = False  # the target is our file


def is_temp(name: str) -> bool:
    """Whether this is the name of a pending row."""
    return _TEMP_NAME.fullmatch(name) is not None


def prepare(files: Files, rows_fd: int, draft: Draft) -> None:
    """Make the temp file, whole and on the device."""
    fd = files.create(rows_fd, draft.temp)
    try:
        if os.fstat(fd).st_mode & PRIVATE_FILE != PRIVATE_FILE:  # a umask that takes bits from the owner, too
            os.fchmod(fd, PRIVATE_FILE)
        files.allocate(fd, draft.layout.file_bytes)
        payload, logits = draft.row.payload, draft.row.logits
        draft.checksums = row_file.checksum(payload), row_file.checksum(logits)
        header = row_file.encode_header(draft.meta, *draft.checksums, 0, draft.meta.created_at)
        files.write(fd, (header, payload), 0)
        files.write(fd, (logits,), draft.layout.logits_offset)
        files.sync(fd)
    finally:
        os.close(fd)


def publish(files: Files, rows_fd: int, draft: Draft, existing: Callable[[], row_file.Header | None]) -> StoredRow:
    """Give the temp file its name, or find that the row is there already; durable on return.

    `existing` reads and checks whatever has the name; None when that is not a sound row.
    """
    stored = StoredRow(meta=draft.meta, nbytes=draft.nbytes, hits=0, used_at=draft.meta.created_at)
    try:
        files.link(rows_fd, draft.temp, draft.name)
        draft.named = True
    except FileExistsError:
        header = existing()
        if header is not None and _is_same(header, draft):
            stored = StoredRow(meta=header.meta, nbytes=draft.nbytes, hits=header.hits, used_at=header.used_at)
        else:
            files.replace(rows_fd, draft.temp, draft.name)
            draft.named = True
    files.unlink(rows_fd, draft.temp)
    files.sync_directory(rows_fd)
    return stored


def take_back(files: Files, rows_fd: int, draft: Draft) -> list[str]:
    """Remove what the draft has left in the directory; the names that could not be removed. Never raises `OSError`."""
    left = []
    for name in (draft.temp, draft.name) if draft.named else (draft.temp,):
        try:
            files.unlink(rows_fd, name)
        except OSError:
            if is_there(rows_fd, name):
                left.append(name)
    return left


def _is_same(header: row_file.Header, draft: Draft) -> bool:
    return (
        header.meta.key == draft.meta.key
        and header.layout == draft.layout
        and (header.payload_checksum, header.logits_checksum) == draft.checksums
    )


def is_there(rows_fd: int, name: str) -> bool:
    """Whether something has this name; if that cannot be found out, true, so that its bytes stay counted."""
    try:
        os.stat(name, dir_fd=rows_fd, follow_symlinks=False)
    except OSError as error:
        return not isinstance(error, FileNotFoundError)
    return True
