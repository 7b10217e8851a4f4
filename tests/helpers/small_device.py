"""A device of a given size, with a neighbour that may take what becomes free: as calls of the operating system."""

from __future__ import annotations

import errno
import os

from erllama_py.tiers.publish import Files


class SmallDevice(Files):
    """`size` is what files of rows may take. A `greedy` neighbour takes what is removed."""

    def __init__(self, size: int, greedy: bool = False) -> None:
        self.size, self.greedy = size, greedy
        self.rows_fd = -1

    def used(self) -> int:
        """What they take."""
        return sum(entry.stat().st_size for entry in os.scandir(self.rows_fd)) if self.rows_fd >= 0 else 0

    def create(self, rows_fd: int, name: str) -> int:
        self.rows_fd = rows_fd
        return super().create(rows_fd, name)

    def allocate(self, fd: int, nbytes: int) -> None:
        if self.used() + nbytes > self.size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        super().allocate(fd, nbytes)

    def unlink(self, rows_fd: int, name: str) -> None:
        before = self.used()
        super().unlink(rows_fd, name)
        if self.greedy and name.endswith(".row"):
            self.size -= before - self.used()
