"""The cgroups that this process is in, of both versions: where the kernel says what bounds its CPUs and its memory.

Formats: `/proc/self/cgroup` (cgroups(7)); kernel docs, admin-guide/cgroup-v2.rst and admin-guide/cgroup-v1.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

Controller = Literal["cpu", "memory"]


def cgroups(root: Path, controller: Controller) -> Iterator[Path]:
    """The folders of this process's cgroups up to the top: of version 2, and of a controller of version 1.

    In a container they may be mounted at the top under another path than `/proc/self/cgroup` says: the top counts too.
    `root` is where `proc` and `sys` lie.
    """
    mount = root / "sys/fs/cgroup"
    for line in read_text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if controllers == "":
            tops = [mount, mount / "unified"]
        elif controller in controllers.split(","):
            tops = [mount / controllers, mount / controller]
        else:
            continue
        parts = [part for part in path.split("/") if part not in ("", "..")]
        for top in dict.fromkeys(tops):
            for length in range(len(parts), -1, -1):
                yield top.joinpath(*parts[:length])


def read_text(file: Path) -> str:
    """What a file of the kernel says; nothing where it cannot be read."""
    try:
        return file.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""
