"""How much memory a process may take: of the machine, and in the cgroups of a container."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest
from helpers.kernel_files import kernel_files

from erllama_py.memory import Reading, available_memory, limited, memory_limit

GIB = 1 << 30
V2 = {"proc/self/cgroup": "0::/app/web\n"}
V1 = {"proc/self/cgroup": "5:memory:/docker/abc\n4:cpu,cpuacct:/docker/abc\n0::/\n"}
IN_CONTAINER = {"proc/self/cgroup": "0::/../../web\n"}


class Machine:
    """What psutil says of a machine of 64 GiB, 32 of them available."""

    total, available = 64 * GIB, 32 * GIB


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", Machine)


def v2(folder: str, limit: str | int, used: int = 0, cached: int = 0) -> dict[str, str]:
    """The files of a cgroup of version 2, some of whose bytes are pages of files."""
    top = f"sys/fs/cgroup/{folder}"
    stat = f"anon {used - cached}\nactive_file {cached}\ninactive_file 0\n"
    return {f"{top}/memory.max": f"{limit}\n", f"{top}/memory.current": f"{used}\n", f"{top}/memory.stat": stat}


def v1(folder: str, limit: int, used: int = 0, cached: int = 0) -> dict[str, str]:
    """The same of version 1, whose own pages are other ones than those of all below it."""
    top = f"sys/fs/cgroup/memory/{folder}"
    stat = f"active_file 1\ninactive_file 1\ntotal_active_file 0\ntotal_inactive_file {cached}\n"
    files = {"memory.limit_in_bytes": f"{limit}\n", "memory.usage_in_bytes": f"{used}\n", "memory.stat": stat}
    return {f"{top}/{name}": text for name, text in files.items()}


@pytest.mark.parametrize(
    ("files", "limit", "free"),
    [
        ({}, None, 32 * GIB),
        ({"proc/self/cgroup": "nonsense\n"}, None, 32 * GIB),
        (V2 | v2("app/web", "max", 9 * GIB), None, 32 * GIB),
        (V2 | v2("app/web", 8 * GIB, 3 * GIB), 8 * GIB, 5 * GIB),
        (V2 | v2("app/web", 8 * GIB, 7 * GIB, cached=6 * GIB), 8 * GIB, 7 * GIB),
        (V2 | v2("app/web", 8 * GIB) | v2("app", 9 * GIB, 7 * GIB), 8 * GIB, 2 * GIB),
        (V2 | v2("app/web", 8 * GIB, 9 * GIB), 8 * GIB, 0),
        (V2 | v2("app/web", 60 * GIB), 60 * GIB, 32 * GIB),
        (V2 | {"sys/fs/cgroup/app/web/memory.max": "5\n"}, None, 32 * GIB),
        (V2 | v2("app/web", 0), None, 32 * GIB),
        (IN_CONTAINER | v2("", 4 * GIB, GIB), 4 * GIB, 3 * GIB),
        (V1 | v1("docker/abc", 8 * GIB, 3 * GIB, cached=GIB), 8 * GIB, 6 * GIB),
        (V1 | v1("docker/abc", 9223372036854771712, 3 * GIB), None, 32 * GIB),
        (V1 | v1("", 2 * GIB, GIB), 2 * GIB, GIB),
        (V1 | v1("docker/abc", 8 * GIB) | v1("docker", 5 * GIB, 4 * GIB), 5 * GIB, GIB),
    ],
    ids=range(15),
)
def test_the_narrowest_limit_bounds(tmp_path: Path, files: dict[str, str], limit: int | None, free: int) -> None:
    """Of the process's cgroup and of those around it, in both versions and as containers see them; pages of files are
    free."""
    root = kernel_files(tmp_path, files)
    assert (memory_limit(root), available_memory(root)) == (limit, free)


def test_a_cgroup_is_read_once(tmp_path: Path) -> None:
    """Wherever its folders are mounted."""
    root = kernel_files(tmp_path, V1 | v1("docker/abc", 8 * GIB, GIB))
    assert list(limited(root)) == [Reading(GIB, 8 * GIB)]
