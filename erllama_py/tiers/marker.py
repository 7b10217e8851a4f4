"""Whether a directory is a tier's: it has a marker file, or it is empty and gets one.

A tier removes files of its directory when it needs their room. So it takes none that may be another program's, however
much the names in it look like its own.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress

from erllama_py.errors import TierFailed

MARKER = "erllama-tier.txt"
TEXT = b"""This directory belongs to a cache tier of erllama_py, which removes what it has written in `rows` and `aside`
when it needs room. Without this file it is not opened.
"""
# A file system has this in its own root.
IGNORED = frozenset({"lost+found"})
# Names that an error shows.
SHOWN = 3


def check(tier: str, root: str, root_fd: int) -> None:
    """Raise `TierFailed` for a directory that is not ours to use: one that programs share, such as `/dev/shm`, be it
    empty or not; another user's; or one that holds something else."""
    facts = os.fstat(root_fd)
    if facts.st_mode & stat.S_ISVTX:  # closed to others, as a tier's is, it would be lost to them
        mine = os.path.join(root, "erllama")
        raise TierFailed(tier, f"other programs share the directory {root}; name one of its own in it, such as {mine}")
    if facts.st_uid != os.geteuid():
        raise TierFailed(tier, f"the directory {root} belongs to another user")
    entries = sorted(set(os.listdir(root_fd)) - IGNORED)
    if entries and not is_marked(root_fd):
        names = ", ".join(map(repr, entries[:SHOWN])) + (" …" if len(entries) > SHOWN else "")
        raise TierFailed(
            tier, f"the directory {root} holds {names} and no {MARKER!r}, so it is not a tier's; name one that is "
            f"empty or not there. If it is a tier's, make an empty file {os.path.join(root, MARKER)}"
        )  # fmt: skip


def mark(root_fd: int, mode: int) -> None:
    """Make the marker, where it is not there."""
    with suppress(FileExistsError):
        fd = os.open(MARKER, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode, dir_fd=root_fd)
        try:
            with suppress(OSError):  # its name is what counts; a full disk must not keep the rows from being read
                os.write(fd, TEXT)
        finally:
            os.close(fd)


def is_marked(root_fd: int) -> bool:
    """Whether the marker is there."""
    try:
        return stat.S_ISREG(os.stat(MARKER, dir_fd=root_fd, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False
