"""The directory of a tier: made, checked, locked for one process, and held open.

Owns the file descriptors. Everything in a tier is reached through them, never by path: a directory that is replaced by
another one under the same path is then not written into without its lock. Two things are locked (`file_lock`): the file
`<root>/lock`, checked by its inode, and the directory itself, through a descriptor of its own. So the lock holds though
somebody removes the file. The kernel frees both when the process ends, however it ends. No descriptor passes an `exec`.
A forked child has the same open files, so it would keep the locks of a parent that was killed: it closes what it has
inherited before anything else happens in it, and unlocks nothing.
"""

from __future__ import annotations

import errno
import os
import weakref
from collections.abc import Callable
from contextlib import suppress

from erllama_py.errors import TierFailed, TierLocked
from erllama_py.tiers import file_lock, marker

LOCK, ROWS, ASIDE = "lock", "rows", "aside"
PRIVATE = 0o700  # KV bytes are a transcript
PRIVATE_FILE = 0o600
# Times that the lock's file may be removed between its opening and its locking.
LOCK_TRIES = 10


class Place:
    """An open, locked directory. Closing frees the lock; so does dropping the last reference."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.root_fd = self.guard_fd = self.lock_fd = self.rows_fd = self.aside_fd = -1
        self._owner = os.getpid()
        _PLACES.add(self)

    def is_current(self) -> bool:
        """Whether what lies at the path, and below it as `lock`, `rows` and `aside`, is still what was opened."""
        try:
            os.stat(marker.MARKER, dir_fd=self.root_fd)
            return (
                _same(os.stat(self.root), self.root_fd)
                and _same(os.stat(LOCK, dir_fd=self.root_fd), self.lock_fd)
                and _same(os.stat(ROWS, dir_fd=self.root_fd), self.rows_fd)
                and _same(os.stat(ASIDE, dir_fd=self.root_fd), self.aside_fd)
            )
        except OSError:
            return False

    def shares_directory(self, other: Place) -> bool:
        """Whether both are the same directory, which the other one has locked."""
        return other.guard_fd >= 0 and _same(os.fstat(self.root_fd), other.guard_fd)

    def shares_lock(self, other: Place) -> bool:
        """Whether both have the same file as their lock."""
        return other.lock_fd >= 0 and _same(os.fstat(self.lock_fd), other.lock_fd)

    def succeed(self, old: Place) -> None:
        """Be used instead of `old` from now on, with its locks if they are the same; its readers may go on."""
        if self.shares_directory(old):
            self.guard_fd, old.guard_fd = old.guard_fd, self.guard_fd
        if self.shares_lock(old):
            self.lock_fd, old.lock_fd = old.lock_fd, self.lock_fd
        old.unlock()

    def unlock(self) -> None:
        """Free the locks; readers may go on. In a forked child they stay with the process that took them."""
        descriptors = (self.lock_fd, self.guard_fd)
        self.lock_fd = self.guard_fd = -1
        for descriptor in descriptors:
            if descriptor >= 0:
                if self._owner == os.getpid():
                    file_lock.unlock(descriptor)
                with suppress(OSError):
                    os.close(descriptor)

    def close(self) -> None:
        """Free the lock and close the directory, which is not read any more. Allowed twice."""
        self.unlock()
        self.let_go()

    def let_go(self) -> None:
        """Close all descriptors. A lock that was inherited stays with the process that took it."""
        descriptors = (self.lock_fd, self.guard_fd, self.aside_fd, self.rows_fd, self.root_fd)
        self.root_fd = self.guard_fd = self.lock_fd = self.rows_fd = self.aside_fd = -1
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
    to `succeed`: where both are the same directory, it is locked already, and `old` keeps it until then.
    """
    place = Place(root)
    try:
        _make_directories(root)
        place.root_fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
        place.guard_fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=place.root_fd)
        if old is None or not place.shares_directory(old):
            marker.check(tier, root, place.root_fd)
            _guard(tier, place)
        marker.mark(place.root_fd, PRIVATE_FILE)
        _lock(tier, place, old)
        _unless_read_only(os.fchmod, place.lock_fd, PRIVATE_FILE)
        _unless_read_only(os.fchmod, place.root_fd, PRIVATE)
        place.rows_fd = _private_directory(place.root_fd, ROWS)
        place.aside_fd = _private_directory(place.root_fd, ASIDE)
        _unless_read_only(sync_directory, place.root_fd)
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
            descriptor = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY)
            try:
                sync_directory(descriptor)
            finally:
                os.close(descriptor)


def sync_directory(descriptor: int) -> None:
    """The names in a directory are on the device, as far as its file system can say so."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # so CIFS, and some file systems in user space
            raise


def _guard(tier: str, place: Place) -> None:
    """Lock the directory itself."""
    try:
        file_lock.lock_directory(place.guard_fd)
    except BlockingIOError as error:
        raise _taken(tier, place) from error


def _lock(tier: str, place: Place, old: Place | None) -> None:
    """Open and lock the file that has the lock's name then."""
    for _ in range(LOCK_TRIES):
        place.lock_fd = _open_lock(place)
        if old is not None and place.shares_lock(old):
            return
        try:
            file_lock.lock(place.lock_fd)
        except BlockingIOError as error:
            raise _taken(tier, place) from error
        if _is_named(place):
            # For the error of the next one to open it. A full disk must not keep the rows from being read.
            with suppress(OSError):
                os.ftruncate(place.lock_fd, 0)
                os.pwrite(place.lock_fd, b"%d\n" % os.getpid(), 0)
            return
        descriptor, place.lock_fd = place.lock_fd, -1
        os.close(descriptor)
    raise TierFailed(tier, f"the file {LOCK!r} of {place.root} is removed again and again")


def _open_lock(place: Place) -> int:
    try:
        return os.open(LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, PRIVATE_FILE, dir_fd=place.root_fd)
    except OSError as error:
        if error.errno != errno.EROFS:
            raise
        return os.open(LOCK, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=place.root_fd)


def _unless_read_only(call: Callable[..., None], *args: int) -> None:
    """Call it. A file system that has turned read-only has it from before, and its rows are to be read."""
    try:
        call(*args)
    except OSError as error:
        if error.errno != errno.EROFS:
            raise


def _is_named(place: Place) -> bool:
    """Whether the file that was locked still has its name."""
    try:
        return _same(os.stat(LOCK, dir_fd=place.root_fd, follow_symlinks=False), place.lock_fd)
    except FileNotFoundError:
        return False


def _taken(tier: str, place: Place) -> TierLocked:
    holder = "unknown"
    with suppress(OSError):
        fd = os.open(LOCK, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=place.root_fd)
        try:
            holder = os.pread(fd, 20, 0).decode("ascii", "replace").strip() or holder
        finally:
            os.close(fd)
    problem = f"{place.root} is open already, by the process {holder}; a directory belongs to one tier at a time"
    return TierLocked(tier, problem, int(holder) if holder.isdecimal() else None)


def _private_directory(root_fd: int, name: str) -> int:
    with suppress(FileExistsError):
        os.mkdir(name, PRIVATE, dir_fd=root_fd)
    descriptor = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=root_fd)
    try:
        _unless_read_only(os.fchmod, descriptor, PRIVATE)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _same(facts: os.stat_result, descriptor: int) -> bool:
    held = os.fstat(descriptor)
    return (facts.st_dev, facts.st_ino) == (held.st_dev, held.st_ino)
