"""How many CPUs a process may use: its set, its quotas, its physical cores; and what engines get of it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from helpers.kernel_files import kernel_files
from hypothesis import given
from hypothesis import strategies as st

from erllama_py.cpus import Allowance, allowance, choose_threads, read_allowance
from erllama_py.options.model import ContextOpts

sets = st.sets(st.integers(0, 63), max_size=64)
quotas = st.none() | st.floats(0.01, 100.0)


@pytest.fixture(autouse=True)
def eight_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)


@given(sets, st.dictionaries(st.integers(0, 63), st.sampled_from(["0,8", "1,9", "2", "3"])), quotas)
def test_at_least_one_thread_and_never_more_than_any_bound(
    cpus: set[int], cores: dict[int, str], quota: float | None
) -> None:
    """The set, its physical cores and the quota each bound it; one thread there always is."""
    allowed = allowance(cpus, cores, quota)
    assert 1 <= allowed.threads <= max(1, len(cpus))
    known = {cores[cpu] for cpu in cpus if cpu in cores}
    assert allowed.threads <= max(1, len(known) + sum(1 for cpu in cpus if cpu not in cores))
    if quota is not None:
        assert allowed.threads <= max(1.0, quota)
    assert allowed.why


@given(sets, quotas, quotas)
def test_more_quota_is_never_less(cpus: set[int], one: float | None, other: float | None) -> None:
    """And without one there is most."""
    least, most = sorted((one, other), key=lambda quota: float("inf") if quota is None else quota)
    assert allowance(cpus, {}, least).threads <= allowance(cpus, {}, most).threads


def test_hyper_threads_of_a_core_count_once() -> None:
    """Eight CPUs on four cores compute as fast with four threads."""
    siblings = {cpu: f"{cpu % 4},{cpu % 4 + 4}" for cpu in range(8)}
    assert allowance(range(8), siblings, None) == Allowance(4, "4 cores of 8 usable CPUs")


def test_nothing_is_known_of_the_machine(tmp_path: Path) -> None:
    """No cgroups, no topology: the CPU set alone."""
    assert read_allowance(tmp_path) == Allowance(8, "8 usable CPUs")


V2 = {"proc/self/cgroup": "0::/app/web\n"}
V1 = {"proc/self/cgroup": "5:memory:/x\n4:cpu,cpuacct:/docker/abc\n0::/\n"}
IN_CONTAINER = {"proc/self/cgroup": "0::/../../web\n"}
TIMES = ("cpu.cfs_quota_us", "cpu.cfs_period_us")


def first(folder: str, quota: str) -> dict[str, str]:
    """The files of a cgroup of version 1."""
    return {f"{folder}/{TIMES[0]}": f"{quota}\n", f"{folder}/{TIMES[1]}": "100000\n"}


@pytest.mark.parametrize(("files", "threads"), [
    (V2 | {"sys/fs/cgroup/app/web/cpu.max": "max 100000\n"}, 8),
    (V2 | {"sys/fs/cgroup/app/web/cpu.max": "100000 100000\n"}, 1),
    (V2 | {"sys/fs/cgroup/app/web/cpu.max": "350000 100000\n"}, 3),
    (V2 | {"sys/fs/cgroup/app/web/cpu.max": "50000 100000\n"}, 1),
    (V2 | {"sys/fs/cgroup/app/web/cpu.max": "max 100000\n", "sys/fs/cgroup/app/cpu.max": "200000 100000\n"}, 2),
    (V2 | {"sys/fs/cgroup/cpu.max": "200000 100000\n"}, 2),
    (V2 | {"sys/fs/cgroup/unified/app/web/cpu.max": "200000 100000\n"}, 2),
    (IN_CONTAINER | {"sys/fs/cgroup/cpu.max": "200000 100000\n"}, 2),
    (V1 | first("sys/fs/cgroup/cpu,cpuacct/docker/abc", "200000"), 2),
    (V1 | first("sys/fs/cgroup/cpu/docker/abc", "200000"), 2),
    (V1 | first("sys/fs/cgroup/cpu", "250000"), 2),
    (V1 | first("sys/fs/cgroup/cpu/docker/abc", "-1"), 8),
    (V1 | first("sys/fs/cgroup/cpu/docker/abc", "many"), 8),
    ({"proc/self/cgroup": "nonsense\n", "sys/fs/cgroup/cpu.max": "100000\n"}, 8),
], ids=range(14))  # fmt: skip
def test_the_narrowest_quota_bounds(tmp_path: Path, files: dict[str, str], threads: int) -> None:
    """Of the process's cgroup and of those around it, in both versions, and as containers see them."""
    assert read_allowance(kernel_files(tmp_path, files)).threads == threads


def test_a_quota_and_the_cores_are_read_together(tmp_path: Path) -> None:
    """What bounds is said, and what there is beside it."""
    topology = {
        f"sys/devices/system/cpu/cpu{cpu}/topology/core_cpus_list": f"{cpu // 2 * 2}-{cpu // 2 * 2 + 1}\n"
        for cpu in range(8)
    }
    quota = V2 | {"sys/fs/cgroup/app/web/cpu.max": "150000 100000\n"}
    assert read_allowance(kernel_files(tmp_path / "a", topology)).threads == 4
    allowed = read_allowance(kernel_files(tmp_path / "b", topology | quota))
    assert (allowed.threads, allowed.why) == (1, "a quota of 1.5 CPUs (4 cores of 8 usable CPUs)")


def test_without_a_cpu_set_all_cpus_count(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """macOS has none; and where nothing is known there is one."""
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert read_allowance(tmp_path).threads == 6
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert read_allowance(tmp_path).threads == 1


@pytest.mark.parametrize(("given", "few", "many", "fixed", "why"), [
    ({}, 6, 6, (False, False), "6 usable CPUs"),
    ({"n_threads": 3, "n_threads_batch": 3}, 3, 3, (True, True), "n_threads is given"),
    ({"n_threads": 16, "n_threads_batch": 2}, 16, 2, (True, True), "n_threads is given"),
    ({"n_threads_batch": 2}, 6, 2, (False, True), "6 usable CPUs"),
])  # fmt: skip
def test_numbers_that_are_given_are_obeyed(
    given: dict[str, Any], few: int, many: int, fixed: tuple[bool, bool], why: str
) -> None:
    """Each for its decodes, be it wise or not; what is not given follows the machine."""
    choice, reason = choose_threads(ContextOpts(**given), Allowance(6, "6 usable CPUs"))
    assert (choice.few, choice.many, choice.fixed_few, choice.fixed_many) == (few, many, *fixed)
    assert reason == why


def test_no_more_than_ggml_can_have() -> None:
    """A machine of 4,096 CPUs."""
    assert choose_threads(ContextOpts(), Allowance(4096, ""))[0].few == 512
