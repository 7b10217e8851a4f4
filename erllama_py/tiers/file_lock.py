"""Locks on an open file or directory: they belong to the open file, so a forked child neither takes nor frees one.

`lock` takes an open file description lock where the system has them, else `flock`, which belongs to the open file too;
`lock_directory` takes `flock`, as a directory cannot be opened for writing. Both raise `BlockingIOError` where another
open file has it. The kernel frees a lock with the last descriptor of its open file, so when the process ends.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from contextlib import suppress

# File systems without them, and kernels.
_UNSUPPORTED = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF})  # the last of what is read-only
_SET: int | None = getattr(fcntl, "F_OFD_SETLK", None)


def lock(fd: int) -> None:
    """Lock the whole of a file."""
    try:
        _set(fd, fcntl.F_WRLCK)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            raise BlockingIOError(*error.args) from error
        if error.errno not in _UNSUPPORTED:
            raise
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)


def lock_directory(fd: int) -> None:
    """Lock a directory, where its file system can."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:  # NFS wants it open for writing
        pass


def unlock(fd: int) -> None:
    """Free either now, though a child that is being started may have the open file until its `exec`."""
    with suppress(OSError):
        _set(fd, fcntl.F_UNLCK)
    with suppress(OSError):
        fcntl.flock(fd, fcntl.LOCK_UN)


def _set(fd: int, kind: int) -> None:
    if _SET is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    # `struct flock`: kind, from the file's start, at 0, to its end, no process.
    fcntl.fcntl(fd, _SET, struct.pack("hhqqi", kind, os.SEEK_SET, 0, 0, 0))
