"""How many CPUs this process may use, by its CPU set, its cgroups' quotas and its physical cores; what engines get.

`allowance` and `choose_threads` compute; `read_allowance` reads what the kernel says and never fails: what cannot be
read sets no bound. Formats: sched_getaffinity(2); cgroup v2 `cpu.max` and v1 `cpu.cfs_quota_us`, `cpu.cfs_period_us`
(kernel docs, admin-guide/cgroup-v2.rst and scheduler/sched-bwc.rst); `topology/core_cpus_list` (kernel docs, ABI,
sysfs-devices-system-cpu).
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from pathlib import Path
from zlib import crc32

import msgspec

from erllama_py.cgroups import cgroups, read_text
from erllama_py.options.model import MAX_THREADS, ContextOpts

MOST_GROUPS = (1 << 16) - 1


class Allowance(msgspec.Struct, frozen=True):
    """What a process may use."""

    threads: int  # threads that compute without being in each other's way
    why: str  # what bounds `threads`, in words


class ThreadChoice(msgspec.Struct, frozen=True, kw_only=True):
    """The threads that an engine may use."""

    few: int  # for decodes of few tokens
    many: int  # for decodes of many
    fixed_few: bool = False  # whether `few` was given: exactly that many are used then
    fixed_many: bool = False
    cpus: int = 1  # what all engines of the process share
    group: int = 0  # of those that share `cpus`: not 0 for engines that were given CPUs of their own
    on_gpu: bool = False  # whether a GPU computes: the threads have next to nothing to do then

    @property
    def most(self) -> int:
        """The larger number; one where a GPU computes."""
        return 1 if self.on_gpu else max(self.few, self.many)

    @property
    def is_fixed(self) -> bool:
        """Whether there is nothing to decide."""
        return self.on_gpu or (self.fixed_few and self.fixed_many)


def choose_threads(
    context: ContextOpts, allowed: Allowance, own: Collection[int] | None = None
) -> tuple[ThreadChoice, str]:
    """The threads that an engine may use, and why that many. Numbers that the user has set are kept. `own` are CPUs
    that its process was given, by number."""
    most = min(allowed.threads, MAX_THREADS)
    choice = ThreadChoice(
        few=context.n_threads or most, many=context.n_threads_batch or most, fixed_few=context.n_threads is not None,
        fixed_many=context.n_threads_batch is not None, cpus=most,
        group=0 if own is None else crc32(repr(sorted(own)).encode()) % MOST_GROUPS + 1,
    )  # fmt: skip
    return choice, "n_threads is given" if choice.fixed_few else allowed.why


def allowance(cpus: Collection[int], cores: Mapping[int, str], quota: float | None) -> Allowance:
    """The threads for a set of CPUs. `cores` names the core of a CPU where that is known, `quota` is in CPUs.

    Two hyper-threads of a core share its arithmetic units, which is all that matrix products are made of: a second
    thread there gains nothing and waits at the same barriers. A quota is rounded down, because exceeding it stalls all
    threads at once.
    """
    named = {cores[cpu] for cpu in cpus if cpu in cores}
    n_cores = len(named) + sum(1 for cpu in cpus if cpu not in cores)
    threads, why = max(1, n_cores), _counted(len(cpus), n_cores)
    if quota is not None and quota < threads:
        threads = max(1, int(quota))
        why = f"a quota of {quota:g} CPU{'s' if quota != 1 else ''} ({why})"
    return Allowance(threads, why)


def _counted(n_cpus: int, n_cores: int) -> str:
    usable = f"{n_cpus} usable CPU{'s' if n_cpus != 1 else ''}"
    return usable if n_cores == n_cpus else f"{n_cores} core{'s' if n_cores != 1 else ''} of {usable}"


def read_allowance(root: Path = Path("/"), own: Collection[int] | None = None) -> Allowance:
    """What this process may use now, or a child that was given CPUs of its `own`. `root` is where `proc` and `sys`
    lie."""
    cpus = usable_cpus() if own is None else usable_cpus().intersection(own)
    return allowance(cpus, _cores(root, cpus), _quota(root))


def usable_cpus() -> frozenset[int]:
    """The CPUs that this process may run on, by number."""
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    return frozenset(range(os.cpu_count() or 1))


def _cores(root: Path, cpus: Collection[int]) -> dict[int, str]:
    found: dict[int, str] = {}
    for cpu in cpus:
        topology = root / f"sys/devices/system/cpu/cpu{cpu}/topology"
        siblings = read_text(topology / "core_cpus_list") or read_text(topology / "thread_siblings_list")
        if siblings:
            found[cpu] = siblings
    return found


def _quota(root: Path) -> float | None:
    """The least quota of the cgroups that this process is in and of those around them, in CPUs."""
    quotas = [quota for folder in cgroups(root, "cpu") if (quota := _quota_of(folder)) is not None]
    return min(quotas, default=None)


def _quota_of(folder: Path) -> float | None:
    words = read_text(folder / "cpu.max").split()
    if not words:
        words = [read_text(folder / "cpu.cfs_quota_us"), read_text(folder / "cpu.cfs_period_us")]
    try:
        quota, period = (int(word) for word in words)
    except ValueError:  # "max", or no such file
        return None
    return quota / period if quota > 0 and period > 0 else None
