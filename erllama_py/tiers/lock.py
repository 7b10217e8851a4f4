"""The directory of a tier: made, checked, locked for one process, and held open.

Owns the file descriptors. Everything in a tier is reached through them, never by path: a directory that is replaced by
another one under the same path is then not written into without its lock. The lock is `flock` on `<root>/lock`, so the
kernel frees it when the process ends, however it ends. A forked child has the same open file, so it would keep the lock
of a parent that was killed: it closes what it has inherited before anything else happens in it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import weakref
from contextlib import suppress

from erllama_py.errors import TierFailed, TierLocked
from erllama_py.tiers import row_file

LOCK, ROWS, ASIDE = "lock", "rows", "aside"
ALL = {LOCK, ROWS, ASIDE}
PRIVATE = 0o700  # KV bytes are a transcript
PRIVATE_FILE = 0o600


class Place:
    """An open, locked directory. Closing frees the lock; so does dropping the last reference."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.root_fd = self.lock_fd = self.rows_fd = self.aside_fd = -1
        _PLACES.add(self)

    def is_current(self) -> bool:
        """Whether what lies at the path, and below it as `rows` and `aside`, is still what was opened."""
        try:
            return (
                _same(os.stat(self.root), self.root_fd)
                and _same(os.stat(LOCK, dir_fd=self.root_fd), self.lock_fd)
                and _same(os.stat(ROWS, dir_fd=self.root_fd), self.rows_fd)
                and _same(os.stat(ASIDE, dir_fd=self.root_fd), self.aside_fd)
            )
        except OSError:
            return False

    def shares_lock(self, other: Place) -> bool:
        """Whether both have the same file as their lock."""
        return other.lock_fd >= 0 and _same(os.fstat(self.lock_fd), other.lock_fd)

    def succeed(self, old: Place) -> None:
        """Be used instead of `old` from now on, with its lock if that is the same file; its readers may go on."""
        if self.shares_lock(old):
            self.lock_fd, old.lock_fd = old.lock_fd, self.lock_fd
        old.unlock()

    def unlock(self) -> None:
        """Free the lock; readers may go on."""
        descriptor, self.lock_fd = self.lock_fd, -1
        if descriptor >= 0:
            # Closing alone would leave the lock with a child that is being started, between its fork and its `exec`.
            with suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_UN)
            with suppress(OSError):
                os.close(descriptor)

    def close(self) -> None:
        """Free the lock and close the directory, which is not read any more. Allowed twice."""
        self.unlock()
        self.let_go()

    def let_go(self) -> None:
        """Close all descriptors. A lock that was inherited stays with the process that took it."""
        descriptors = (self.lock_fd, self.aside_fd, self.rows_fd, self.root_fd)
        self.root_fd = self.lock_fd = self.rows_fd = self.aside_fd = -1
        for descriptor in descriptors:
            if descriptor >= 0:
                with suppress(OSError):
                    os.close(descriptor)

    def __del__(self) -> None:
        self.close()


_PLACES: weakref.WeakSet[Place] = weakref.WeakSet()


def _let_go_of_all() -> None:
    for place in list(_PLACES):
        place.let_go()


os.register_at_fork(after_in_child=_let_go_of_all)


def open_place(tier: str, root: str, old: Place | None = None) -> Place:
    """Open the directory at `root`, making it where it is not there. Blocks.

    Raises `TierLocked` when it is open elsewhere, and `TierFailed` when it cannot be used. `old` is what the new one is
    to `succeed`: where both have the same lock, it is locked already, and `old` keeps it until then.
    """
    place = Place(root)
    try:
        _make_directories(root)
        place.root_fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
        _check_owner(tier, place)
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
        place.lock_fd = os.open(LOCK, flags, PRIVATE_FILE, dir_fd=place.root_fd)
        if old is None or not place.shares_lock(old):
            _lock(tier, place)
        os.fchmod(place.lock_fd, PRIVATE_FILE)
        os.fchmod(place.root_fd, PRIVATE)
        place.rows_fd = _private_directory(place.root_fd, ROWS)
        place.aside_fd = _private_directory(place.root_fd, ASIDE)
        os.fsync(place.root_fd)
    except OSError as error:
        place.close()
        raise TierFailed(tier, f"cannot use the directory {root}: {words(error)}") from error
    except BaseException:
        place.close()
        raise
    return place


def words(error: OSError) -> str:
    """An error of the operating system in words, with its symbol."""
    symbol = errno.errorcode.get(error.errno or 0)
    return f"{error.strerror} ({symbol})" if symbol else str(error)


def _make_directories(root: str) -> None:
    # `os.makedirs` leaves the directories above to the umask; an open one would let others swap the root.
    missing = []
    path = root
    while not os.path.lexists(path):
        missing.append(path)
        path = os.path.dirname(path)
    for path in reversed(missing):
        with suppress(FileExistsError):
            os.mkdir(path, PRIVATE)
        with suppress(PermissionError):  # making a directory there may be allowed, and looking at it not
            _sync_directory(os.path.dirname(path))


def _sync_directory(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _check_owner(tier: str, place: Place) -> None:
    """Refuse a directory that is not ours to use: another user's, or one that holds something else."""
    facts = os.fstat(place.root_fd)
    entries = set(os.listdir(place.root_fd)) - {"lost+found"}
    if facts.st_uid != os.geteuid():
        raise TierFailed(tier, f"the directory {place.root} belongs to another user")
    if entries >= ALL:
        return
    private = not stat.S_IMODE(facts.st_mode) & 0o077
    if not private and entries - ALL:
        raise TierFailed(
            tier, f"the directory {place.root} is open to others and holds something else; use a new one, or chmod 700"
        )
    # A cleaner of old files may remove the lock, because its file never changes.
    if LOCK not in entries and entries & ALL and not (private and entries >= {ROWS, ASIDE} and _only_rows(place)):
        raise TierFailed(
            tier, f"the directory {place.root} has a {ROWS!r} or {ASIDE!r}, but no {LOCK!r}, and does not look like a "
            f"tier's; if it is one, make an empty file {os.path.join(place.root, LOCK)}"
        )  # fmt: skip


def _only_rows(place: Place) -> bool:
    descriptor = os.open(ROWS, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=place.root_fd)
    try:
        return all(row_file.key_of_file_name(name) is not None for name in os.listdir(descriptor))
    finally:
        os.close(descriptor)


def _lock(tier: str, place: Place) -> None:
    try:
        fcntl.flock(place.lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = os.pread(place.lock_fd, 20, 0).decode("ascii", "replace").strip() or "unknown"
        raise TierLocked(
            tier, f"{place.root} is open already, by the process {holder}; a directory belongs to one tier at a time"
        ) from error
    # For the error of the next one to open it. A full disk must not keep the rows from being read.
    with suppress(OSError):
        os.ftruncate(place.lock_fd, 0)
        os.pwrite(place.lock_fd, b"%d\n" % os.getpid(), 0)


def _private_directory(root_fd: int, name: str) -> int:
    with suppress(FileExistsError):
        os.mkdir(name, PRIVATE, dir_fd=root_fd)
    descriptor = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=root_fd)
    try:
        os.fchmod(descriptor, PRIVATE)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _same(facts: os.stat_result, descriptor: int) -> bool:
    held = os.fstat(descriptor)
    return (facts.st_dev, facts.st_ino) == (held.st_dev, held.st_ino)
