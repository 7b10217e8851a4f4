"""Descriptors that come with a frame, each closed exactly once: by who takes it, or with all that nobody took."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress


class LostDescriptors(Exception):
    """A frame came without all of its descriptors: this process has no room for more."""


class Descriptors:
    """Those of one frame, in their order. Whoever gets them uses `with`."""

    def __init__(self, fds: Iterable[int] = (), *, lost: bool = False) -> None:
        self._fds = list(fds)
        self.lost = lost  # whether the kernel had to leave some out

    def __repr__(self) -> str:
        return f"<Descriptors {self._fds}{' and lost ones' if self.lost else ''}>"

    def __len__(self) -> int:
        return len(self._fds)

    def __enter__(self) -> Descriptors:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def take(self) -> int:
        """The next one, which the caller closes. Raises `LostDescriptors` where there is none."""
        if not self._fds:
            raise LostDescriptors("a descriptor is missing")
        return self._fds.pop(0)

    def close(self) -> None:
        """Close those that were not taken."""
        fds, self._fds = self._fds, []
        close_all(fds)


NO_DESCRIPTORS = Descriptors()  # of all frames that come without


def close_all(fds: Iterable[int]) -> None:
    """Close descriptors. One that reports an error is closed all the same."""
    for fd in fds:
        with suppress(OSError):
            os.close(fd)
