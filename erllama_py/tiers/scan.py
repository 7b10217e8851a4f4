"""Reading a directory: the names and sizes in it, the headers of its rows, and one row whole.

Blocking functions without state, for worker threads. They change nothing but that `take_census` may remove the temp
files of dead writers. What they find wrong with a file is raised as `BadFile`, or handed back in a `Finding`.
"""

from __future__ import annotations

import errno
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar, get_args

import numpy

from erllama_py.tiers import row_file
from erllama_py.tiers.ledger import on_disk
from erllama_py.tiers.lock import Place
from erllama_py.tiers.messages import StoredRow
from erllama_py.tiers.publish import is_temp

T = TypeVar("T")

# File names have at most 255 bytes. A row's name has 68, and what comes before it in `aside` has less than 50.
KEPT_OF_NAME = 200
_ASIDE_NAME = re.compile(rf"\d+-({'|'.join(get_args(row_file.BadKind))})-", re.ASCII)

# 32 files take half a millisecond, the interpreter's switch interval under a runtime; a tenth of one is enough for
# another thread to wake. This makes opening 10,000 rows 60 ms slower.
BETWEEN_BREATHS = 32
BREATH_SECONDS = 0.0001

# A larger file of which the device holds less than half was never written whole: its holes would be read as zeros, as
# many as its size says. Smaller ones are read, and their checksums show it. KV bytes cannot be packed to half.
HOLLOW_FROM = 256 << 20
BLOCK_BYTES = 512  # the unit of `st_blocks`, whatever the file system's own is
# Parts with data of such a file that are counted: a row is written from its beginning to its end.
MOST_PARTS = 1000

Others = dict[tuple[int, str], int]
FileId = tuple[int, int]  # device and inode: the file itself, whatever its name

# No link is followed and no pipe is waited for: what is not a regular file gives an `OSError` when it is read.
READING = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK

# Shortages of the process or the machine, which say nothing about the file.
PASSING = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EINTR})


class BadFile(Exception):
    """A file under a row's name that is not that row: a `BadRow` kind, in words, and which file."""

    def __init__(self, kind: str, problem: str, file_id: FileId) -> None:
        super().__init__(kind, problem, file_id)
        self.kind, self.problem, self.file_id = kind, problem, file_id


@dataclass(frozen=True)
class Census:
    """Sizes on disk by name; `aside` from the oldest to the newest. `other` is what we have not written, by descriptor
    of its directory and name; so many of its files lie among the rows, as `strangers`. Temp files of dead writers that
    could not be removed are `stale`."""

    rows: dict[str, int]
    aside: dict[str, int]
    other: Others
    strangers: int
    stale: dict[str, int]


@dataclass(frozen=True)
class Finding:
    """What one file turned out to be: a `row`, or `bad`, or not to be read for an `error`; nothing when it vanished."""

    name: str
    row: StoredRow | None = None
    bad: BadFile | None = None
    error: OSError | None = None


def breathing(items: Iterable[T]) -> Iterator[T]:
    """The items, with a moment for other threads now and then.

    A thread that makes one short system call after another gives the interpreter's lock up each time, and has it back
    before one that waits for it is awake: an event loop then stalls for as long as this goes on.
    """
    for count, item in enumerate(items, 1):
        yield item
        if count % BETWEEN_BREATHS == 0:
            time.sleep(BREATH_SECONDS)


def is_passing(error: OSError) -> bool:
    """Whether a file that could not be read may be read in a moment."""
    return error.errno in PASSING


def take_census(place: Place, *, remove_temps: bool = True) -> Census:
    """Look at all names and sizes; temp files are removed, as their writers are dead, or told as `stale`. Other names
    are left alone."""
    rows: dict[str, int] = {}
    stale: dict[str, int] = {}
    other: Others = {}
    with os.scandir(place.rows_fd) as entries:
        for entry in breathing(entries):
            if entry.is_file(follow_symlinks=False):
                try:
                    size = on_disk(entry.stat(follow_symlinks=False).st_size)
                    if is_temp(entry.name):
                        if remove_temps:
                            _remove(place, entry.name, size, stale)
                        else:
                            stale[entry.name] = size
                        continue
                except FileNotFoundError:
                    continue
                if row_file.key_of_file_name(entry.name) is not None:
                    rows[entry.name] = size
                else:
                    other[place.rows_fd, entry.name] = size
    strangers = len(other)
    aside = _sizes(place.aside_fd)
    other |= {(place.root_fd, name): size for name, (size, _) in _sizes(place.root_fd).items()}
    other |= {(place.aside_fd, name): size for name, (size, _) in aside.items() if not _ASIDE_NAME.match(name)}
    oldest_first = sorted(filter(_ASIDE_NAME.match, aside), key=lambda name: aside[name][1])
    return Census(rows, {name: aside[name][0] for name in oldest_first}, other, strangers, stale)


def look_at_others(other: Others) -> Others:
    """What is left of these files, with the sizes that they have now."""
    left: Others = {}
    for (directory, name), size in breathing(other.items()):
        try:
            left[directory, name] = on_disk(os.stat(name, dir_fd=directory, follow_symlinks=False).st_size)
        except FileNotFoundError:
            pass
        except OSError:  # it may be there
            left[directory, name] = size
    return left


def _remove(place: Place, name: str, size: int, stale: dict[str, int]) -> None:
    try:
        os.unlink(name, dir_fd=place.rows_fd)
    except FileNotFoundError:
        pass
    except OSError:  # rows are to be read all the same
        stale[name] = size


def aside_name(number: int, kind: str, name: str) -> str:
    """What a file of this name is called in `aside`."""
    return f"{number}-{kind}-{os.fsdecode(os.fsencode(name)[:KEPT_OF_NAME])}"


def look_at(place: Place, names: Sequence[str]) -> list[Finding]:
    """Read the headers of files in `rows`."""
    return [_look_at(place, name) for name in breathing(names)]


def read_row(
    place: Place, name: str, take: Callable[[int], memoryview | None]
) -> tuple[row_file.Header, memoryview, bytes]:
    """A row whole, checked: its header, payload and logits. `take` lends memory, or none.

    Raises `BadFile`, `OSError` (`FileNotFoundError` when it is not there), and `MemoryError`.
    """
    fd = os.open(name, READING, dir_fd=place.rows_fd)
    try:
        file_id = _file_id(fd)
        try:
            header = _read_header(fd, name)
            payload = take(header.meta.payload_bytes)
            if payload is None:
                payload = numpy.empty(header.meta.payload_bytes, numpy.uint8).data
            _read_into(fd, payload, header.layout.payload_offset)
            logits = os.pread(fd, header.meta.logits_bytes, header.layout.logits_offset)
            row_file.check_bytes(header, payload, logits)
        except row_file.BadRow as bad:
            # Without the frames, which would hold the lent memory for as long as the error is kept.
            payload = None
            raise BadFile(bad.kind, bad.problem, file_id) from bad.with_traceback(None)
    finally:
        _close(fd)
    return header, payload.toreadonly(), logits


def _look_at(place: Place, name: str) -> Finding:
    try:
        fd = os.open(name, READING, dir_fd=place.rows_fd)
    except FileNotFoundError:
        return Finding(name)
    except OSError as error:
        return Finding(name, error=error.with_traceback(None))
    try:
        file_id = _file_id(fd)
        header = _read_header(fd, name)
        row = StoredRow(
            meta=header.meta, nbytes=on_disk(header.layout.file_bytes), hits=header.hits, used_at=header.used_at
        )
        return Finding(name, row=row)
    except row_file.BadRow as bad:
        return Finding(name, bad=BadFile(bad.kind, bad.problem, file_id))
    except IsADirectoryError:  # no file of ours has the name
        return Finding(name)
    except OSError as error:
        return Finding(name, error=error.with_traceback(None))
    finally:
        _close(fd)


def _close(fd: int) -> None:
    """What was read stands, whatever a file system in a network says now."""
    with suppress(OSError):
        os.close(fd)


def _read_header(fd: int, name: str) -> row_file.Header:
    head = os.pread(fd, row_file.HEAD_BYTES, 0)
    facts = os.fstat(fd)
    file_bytes = facts.st_size
    # More than the first read only for spans that are much longer than usual.
    length = row_file.header_length(head)
    if len(head) < length <= file_bytes:
        head = os.pread(fd, length, 0)
    header = row_file.decode_header(head, file_bytes, name)
    if file_bytes >= HOLLOW_FROM and facts.st_blocks * BLOCK_BYTES < file_bytes // 2 and _has_holes(fd, file_bytes):
        raise row_file.BadRow("torn", f"{file_bytes} bytes, of which the device has {facts.st_blocks * BLOCK_BYTES}")
    return header


def _has_holes(fd: int, file_bytes: int) -> bool:
    """Whether less than half of a file is data. Its blocks alone do not say so: ZFS counts them seconds after they were
    written, and some file systems in user space never do."""
    data = end = 0
    with suppress(OSError):  # `ENXIO`: no more data
        for _ in range(MOST_PARTS):
            start = os.lseek(fd, end, os.SEEK_DATA)
            end = os.lseek(fd, start, os.SEEK_HOLE)
            data += end - start
            if data >= file_bytes // 2:
                return False
    return True


def _read_into(fd: int, target: memoryview, offset: int) -> None:
    """Fill `target`; what the file does not have stays as it was, which the checksum then shows."""
    done = 0
    while done < len(target):
        read = os.preadv(fd, [target[done:]], offset + done)
        if read == 0:
            return
        done += read


def _file_id(fd: int) -> FileId:
    facts = os.fstat(fd)
    return facts.st_dev, facts.st_ino


def _sizes(directory: int) -> dict[str, tuple[int, int]]:
    """Size on disk, and the time of the last change of place, of each regular file."""
    found: dict[str, tuple[int, int]] = {}
    with os.scandir(directory) as entries:
        for entry in breathing(entries):
            if entry.is_file(follow_symlinks=False):
                try:
                    facts = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                found[entry.name] = on_disk(facts.st_size), facts.st_ctime_ns
    return found


def same_file(place: Place, name: str, file_id: FileId) -> bool:
    """Whether `name` is still the file that was judged."""
    try:
        facts = os.stat(name, dir_fd=place.rows_fd, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return (facts.st_dev, facts.st_ino) == file_id
