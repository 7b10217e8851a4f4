"""How much memory this process may take: what is free of the machine's, and of each cgroup's with a limit around it.

What cannot be read of a cgroup sets no bound. Formats: version 2 `memory.max`, `memory.current`, version 1
`memory.limit_in_bytes`, `memory.usage_in_bytes`, both with `memory.stat` (kernel docs, admin-guide/cgroup-v2.rst and
cgroup-v1/memory.rst). `root` is where `proc` and `sys` lie.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psutil

from erllama_py.cgroups import cgroups, read_text

MOST_LIMIT = 1 << 60  # version 1 says about 2^63 where there is no limit
# The names of the limit, of what is used, and of what of that are pages of files.
VERSIONS = (
    ("memory.max", "memory.current", ("active_file", "inactive_file")),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", ("total_active_file", "total_inactive_file")),
)


class Reading(NamedTuple):
    """Bytes of one memory."""

    used: int
    total: int

    @property
    def free(self) -> int:
        """Bytes that are not used."""
        return max(0, self.total - self.used)

    @property
    def share(self) -> float:
        """The used share, from 0 to 1."""
        return self.used / self.total


def available_memory(root: Path = Path("/")) -> int:
    """Bytes that this process may still take, on this machine and in its cgroups."""
    return min([psutil.virtual_memory().available, *(one.free for one in limited(root))])


def memory_limit(root: Path = Path("/")) -> int | None:
    """The least limit of its cgroups; `None`: there is none."""
    return min((one.total for one in limited(root)), default=None)


def limited(root: Path = Path("/")) -> Iterator[Reading]:
    """What is used of each cgroup with a limit. As in what the machine has available, pages of files count as free: a
    mapped model fills any cgroup with them."""
    for folder in cgroups(root, "memory"):
        for names in VERSIONS:
            if (found := _read(folder, *names)) is not None:
                yield found


def _read(folder: Path, limit: str, current: str, cached: tuple[str, ...]) -> Reading | None:
    try:
        total = int(read_text(folder / limit))  # "max", or no such file: the topmost group of version 2 has none
        if not 0 < total < MOST_LIMIT:
            return None
        stat = dict(line.split() for line in read_text(folder / "memory.stat").splitlines())
        return Reading(max(0, int(read_text(folder / current)) - sum(int(stat[name]) for name in cached)), total)
    except (ValueError, KeyError):  # a group that ends meanwhile has no files either
        return None
