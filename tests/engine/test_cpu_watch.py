"""What the kernel tells of CPUs: read as it writes it, and nothing where it does not."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from helpers.leftovers import open_files

from erllama_py.engine.cpu_watch import CpuTimes, CpuWatch, _Files

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")

STAT = """cpu  60 0 30 1100 20 0 0 12 0 0
cpu0 20 0 10 {idle} 5 0 0 {steal} 0 0
cpu1 20 0 10 400 5 0 0 4 0 0
cpu2 20 0 10 400 10 0 0 4 0 0
intr 1 2 3
"""


def kernel(root: Path, waited: dict[int, int], idle: int = 300, steal: int = 4) -> None:
    """Write what the kernel shows: nanoseconds that each thread has waited, ticks of the first CPU."""
    tasks = root / "proc/self/task"
    tasks.mkdir(parents=True, exist_ok=True)
    for gone in {int(folder.name) for folder in tasks.iterdir()} - waited.keys():
        (tasks / f"{gone}/schedstat").unlink()
        (tasks / str(gone)).rmdir()
    for task, nanoseconds in waited.items():
        (tasks / str(task)).mkdir(exist_ok=True)
        (tasks / f"{task}/schedstat").write_text(f"123456 {nanoseconds} 7\n")
    (root / "proc/stat").write_text(STAT.format(idle=idle, steal=steal))


def read(watch: CpuWatch) -> CpuTimes:
    times = watch.read()
    assert times is not None
    return times


def test_waits_of_all_threads_are_summed_up(tmp_path: Path) -> None:
    """Those of threads that begin and end in between, too; what was before the first look does not count."""
    watch = CpuWatch({0}, tmp_path)
    kernel(tmp_path, {1: 5_000_000_000, 2: 0})
    before = read(watch)
    kernel(tmp_path, {1: 5_250_000_000, 2: 500_000_000})
    middle = read(watch)
    kernel(tmp_path, {1: 5_250_000_000, 3: 125_000_000})
    after = read(watch)
    assert middle.waited - before.waited == pytest.approx(0.75)
    assert after.waited - middle.waited == pytest.approx(0.125)


def test_idle_and_stolen_time_are_those_of_the_usable_cpus(tmp_path: Path) -> None:
    """Ticks of a hundredth of a second; what a hypervisor gave to others was waited for."""
    watch = CpuWatch({0, 1}, tmp_path)
    kernel(tmp_path, {1: 0})
    before = read(watch)
    kernel(tmp_path, {1: 0}, idle=350, steal=24)
    after = read(watch)
    assert after.idle - before.idle == pytest.approx(0.5)
    assert after.waited - before.waited == pytest.approx(0.2)


def test_without_kernel_files_nothing_is_known(tmp_path: Path) -> None:
    """No such files, or others than expected."""
    assert CpuWatch({0}, tmp_path).read() is None
    kernel(tmp_path, {1: 0})
    (tmp_path / "proc/stat").write_text("cpu0 what is this\n")
    assert CpuWatch({0}, tmp_path).read() is None


def test_this_kernel_tells() -> None:
    """The real files have the form that is read."""
    assert CpuWatch({0}).read() is not None


def test_a_look_does_not_let_go_of_the_interpreters_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside a busy event loop each time costs a switch interval, and the decode waits: so none of Python's own
    functions for files, which all let go of it."""
    kernel(tmp_path, {1: 0, 2: 0})
    watch = CpuWatch({0}, tmp_path)
    for name in ("open", "read", "close", "listdir", "scandir"):
        monkeypatch.setattr(os, name, None)
    monkeypatch.setattr("builtins.open", None)
    assert watch.read() is not None


@pytest.mark.slow
def test_a_folder_of_many_names_is_listed_whole(tmp_path: Path) -> None:
    """Also where they do not fit into one answer of the kernel, and where the C library cannot list."""
    names = {f"{number}-{'x' * 200}".encode() for number in range(500)}
    for name in names:
        (tmp_path / os.fsdecode(name)).touch()
    files = _Files()
    assert set(files.names(os.fsencode(tmp_path))) == names
    files._getdents = None
    assert set(files.names(os.fsencode(tmp_path))) == names


def test_a_look_leaves_no_file_open(tmp_path: Path) -> None:
    """Nor one that fails."""
    kernel(tmp_path, {1: 0})
    watch, before = CpuWatch({0}, tmp_path), open_files()
    for gone in (False, True):
        if gone:
            (tmp_path / "proc/self/task/1/schedstat").unlink()
            (tmp_path / "proc/stat").unlink()
        assert (watch.read() is None) is gone
    assert not open_files() - before
