"""Limits of a process: with a group of each version, without one, and what a killed parent has left."""

from __future__ import annotations

import os
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.kernel_files import kernel_files

from erllama_py.engine.process.life import limits
from erllama_py.engine.process.life.death import MemoryKills
from erllama_py.engine.process.life.limits import Limits, make_group, oom_kills_of
from erllama_py.options.process import ProcessOpts

MOST = 256 << 20
V1, V2 = "sys/fs/cgroup/memory/a/b", "sys/fs/cgroup/a/b"


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    """One that waits."""
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as one:
        yield one
        one.kill()


class Kernel:
    """Folders in place of the kernel's, in which new groups have their files at once."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch, version: int) -> None:
        self.root, self.version = root, version
        self.place = V1 if version == 1 else V2
        line = "4:memory:/a/b\n" if version == 1 else "0::/a/b\n"
        kernel_files(root, {"proc/self/cgroup": line, f"{self.place}/cgroup.procs": ""})
        make = Path.mkdir

        def mkdir(folder: Path, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
            make(folder, mode, parents, exist_ok)
            if folder.name.startswith("erllama-"):
                names = ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes") if version == 1 else ("memory.max",)
                for name in (*names, "cgroup.procs"):
                    (folder / name).touch()

        monkeypatch.setattr(Path, "mkdir", mkdir)

    @property
    def groups(self) -> list[str]:
        return sorted(path.name for path in (self.root / self.place).glob("erllama-*"))


@pytest.mark.parametrize(("version", "name"), [(1, "memory.limit_in_bytes"), (2, "memory.max")])
def test_a_group_is_made_where_the_kernel_lets_us(
    version: int, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the limit, and the process in it."""
    kernel = Kernel(tmp_path, monkeypatch, version)
    group = make_group(tmp_path, 4242, MOST)
    assert group is not None
    assert kernel.groups == [f"erllama-{os.getpid()}-4242"] == [group.folder.name]
    assert (group.folder / name).read_text() == str(MOST)
    assert (group.folder / "cgroup.procs").read_text() == "4242"


def test_without_a_group_private_data_are_bounded(process: subprocess.Popen[bytes], tmp_path: Path) -> None:
    """Where no group can be made: its folder is missing, or has no files of limits."""
    kernel_files(tmp_path, {"proc/self/cgroup": "0::/a/b\n", f"{V2}/cgroup.procs": ""})
    one = Limits(ProcessOpts(memory_bytes=MOST), tmp_path)
    one.apply(process.pid)
    assert resource.prlimit(process.pid, resource.RLIMIT_DATA) == (MOST, MOST)
    assert list((tmp_path / V2).glob("erllama-*")) == []
    one.close()


def test_a_real_group_goes_with_its_process(process: subprocess.Popen[bytes]) -> None:
    """On this machine, if it lets us make one: then its process is in it, and it is removed at the end."""
    group = make_group(Path("/"), process.pid, MOST)
    if group is not None:
        assert str(process.pid) in (group.folder / "cgroup.procs").read_text().split()
        assert oom_kills_of(group.folder) in (0, None)
        process.kill()
        process.wait()
        group.close()
        assert not group.folder.exists()


def test_what_a_killed_parent_left_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Groups of those that live stay."""
    kernel = Kernel(tmp_path, monkeypatch, 1)
    for name in ("erllama-77-78", "erllama-99-100", "erllama-99-78"):
        os.mkdir(tmp_path / V1 / name)
    kernel_files(tmp_path, {"proc/99/status": "", "proc/100/status": ""})
    limits._sweep(tmp_path / V1, tmp_path)
    assert kernel.groups == ["erllama-99-100"]


def test_a_group_that_the_kernel_is_not_done_with_is_removed_later(
    process: subprocess.Popen[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may take a moment after a kill for want of memory."""
    kernel, remove, busy = Kernel(tmp_path, monkeypatch, 1), Path.rmdir, [OSError(16, "busy")] * 2
    one = Limits(ProcessOpts(memory_bytes=MOST), tmp_path)
    one.apply(process.pid)
    (group,) = kernel.groups
    for name in os.listdir(tmp_path / V1 / group):
        os.unlink(tmp_path / V1 / group / name)  # those of the kernel go with it

    def rmdir(folder: Path) -> None:
        if busy:
            raise busy.pop()
        remove(folder)

    monkeypatch.setattr(Path, "rmdir", rmdir)
    assert not one.close()
    assert kernel.groups == [group]
    assert one.close(60.0)
    assert kernel.groups == []
    assert one.close()


V1_EVENTS, LOCAL = f"{V1}/memory.oom_control", f"{V2}/memory.events.local"


@pytest.mark.parametrize(
    ("line", "file"), [("4:memory:/a/b", V1_EVENTS), ("0::/a/b", LOCAL), ("0::/a/b", f"{V2}/memory.events")]
)
def test_kills_are_those_of_the_group_since_the_last_look(line: str, file: str, tmp_path: Path) -> None:
    """Of either version. What happens around it does not count, nor what the machine counts."""
    files = {
        "proc/self/cgroup": line, "proc/vmstat": "oom_kill 3", file: "oom_kill_disable 0\nunder_oom 0\noom_kill 2",
        "sys/fs/cgroup/a/memory.events": "oom_kill 7", "sys/fs/cgroup/memory/a/memory.oom_control": "oom_kill 7",
    }  # fmt: skip
    kernel_files(tmp_path, files)
    one = Limits(ProcessOpts(), tmp_path)
    one.apply(os.getpid())
    others = ("proc/vmstat", "sys/fs/cgroup/a/memory.events", "sys/fs/cgroup/memory/a/memory.oom_control")
    kernel_files(tmp_path, dict.fromkeys(others, "oom_kill 9\n"))
    assert one.kills() == MemoryKills(near=0)
    kernel_files(tmp_path, {file: "oom_kill 3"})
    assert one.kills() == MemoryKills(near=1)
    one.look()  # which may have been made between the kill and the notice of it
    assert one.kills() == MemoryKills(near=1)
    one.look()
    assert one.kills() == MemoryKills(near=0)


def test_what_is_below_a_group_is_not_in_it(tmp_path: Path) -> None:
    """Version 2 counts both, in two files: another model may have a group of its own there."""
    kernel_files(tmp_path, {"proc/self/cgroup": "0::/a/b", f"{V2}/memory.events": "oom_kill 2", LOCAL: "oom_kill 0"})
    one = Limits(ProcessOpts(), tmp_path)
    one.apply(os.getpid())
    kernel_files(tmp_path, {f"{V2}/memory.events": "oom_kill 3"})
    assert one.kills() == MemoryKills(near=0)


def test_without_a_group_the_machine_is_asked(tmp_path: Path) -> None:
    """And whether it was short of memory itself."""
    stalls = "allocstall_dma 0\nallocstall_normal {}\noom_kill {}\n"
    kernel_files(tmp_path, {"proc/self/cgroup": "0::/\n", "proc/vmstat": stalls.format(5, 1)})
    one = Limits(ProcessOpts(), tmp_path)
    one.apply(os.getpid())
    kernel_files(tmp_path, {"proc/vmstat": stalls.format(5, 2)})
    assert one.kills() == MemoryKills(machine=1, stalls=0)
    kernel_files(tmp_path, {"proc/vmstat": stalls.format(9, 2)})
    assert one.kills() == MemoryKills(machine=1, stalls=4)
    kernel_files(tmp_path, {"proc/vmstat": ""})
    assert one.kills() == MemoryKills()


@pytest.mark.parametrize(
    ("events", "full"),
    [
        ({"memory.events": "max 9\noom 1\noom_kill 1"}, True),
        ({"memory.events": "max 9\noom 0\noom_kill 1"}, False),
        ({"memory.max_usage_in_bytes": "1000", "memory.limit_in_bytes": "1000"}, True),
        ({"memory.max_usage_in_bytes": "900", "memory.limit_in_bytes": "1000"}, False),
        ({}, True),
    ],
)
def test_a_group_knows_whether_its_own_limit_was_in_the_way(events: dict[str, str], full: bool, tmp_path: Path) -> None:
    """The kernel may take what is in it where the machine is out of memory, too."""
    assert limits.MemoryGroup(kernel_files(tmp_path, events)).was_full is full
    assert oom_kills_of(tmp_path) == (1 if "memory.events" in events else None)
