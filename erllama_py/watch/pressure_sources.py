"""What measures how full the memory is: the machine or container, the GPUs, or a callable of the caller's.

All but the caller's read what others write, and block for a moment: they are called on a thread.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from erllama_py.errors import InvalidOption
from erllama_py.options.pressure import PressureOpts
from erllama_py.watch.pressure_plan import Reading, fullest

NVIDIA_SMI = "nvidia-smi"
QUERY = ("--query-gpu=memory.used,memory.total", "--format=csv,noheader,nounits")
# A driver that is not kept loaded takes some seconds to answer. Less than `pressure_reader.HANG_SECONDS`, so that an
# nvidia-smi that hangs is killed before its thread is given up.
NVIDIA_SMI_SECONDS = 8.0

PROC_CGROUP = Path("/proc/self/cgroup")
CGROUPS = Path("/sys/fs/cgroup")


def choose_source(opts: PressureOpts) -> Callable[[], Any] | None:
    """What to call for a reading; `None` for `"noop"`. Raises `InvalidOption` where there is no nvidia-smi."""
    if opts.source == "noop":
        return None
    if opts.source == "system":
        return system_memory
    if opts.source == "nvidia_smi":
        if shutil.which(NVIDIA_SMI) is None:
            raise InvalidOption("pressure.source", f"there is no {NVIDIA_SMI} on the PATH")
        return gpu_memory
    return opts.source


def system_memory(proc_cgroup: Path = PROC_CGROUP, cgroups: Path = CGROUPS) -> Reading:
    """The machine's memory, or that of a control group with a limit around this process, if it is fuller."""
    machine = psutil.virtual_memory()
    return fullest([Reading(machine.total - machine.available, machine.total), *_limited(proc_cgroup, cgroups)])


def _limited(proc_cgroup: Path, cgroups: Path) -> list[Reading]:
    """The memory of this process's control group and of those around it, where limited. Version 2 alone.
    https://docs.kernel.org/admin-guide/cgroup-v2.html"""
    try:
        lines = proc_cgroup.read_text().splitlines()
    except OSError:
        return []  # not a Linux
    path = next((line.removeprefix("0::") for line in lines if line.startswith("0::")), "/")
    group = cgroups / path.lstrip("/")
    readings = []
    # Inside a container the path may be one of the machine's, which is not there; its own group is then the topmost.
    for folder in (group, *group.parents):
        if folder.is_relative_to(cgroups):
            readings += _group_memory(folder)
    return readings


def _group_memory(folder: Path) -> list[Reading]:
    try:
        limit = (folder / "memory.max").read_text().strip()
        if limit in ("max", "0"):
            return []
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        # As in what psutil calls available, pages of files count as free: a mapped model fills any group with them.
        cached = int(stat["active_file"]) + int(stat["inactive_file"])
        return [Reading(max(0, int((folder / "memory.current").read_text()) - cached), int(limit))]
    except (OSError, ValueError, KeyError):
        return []  # the topmost group has no such files; a group that ends meanwhile has none either


def gpu_memory() -> Reading:
    """The memory of the fullest GPU, as nvidia-smi reports it."""
    command = (NVIDIA_SMI, *QUERY)
    said = subprocess.run(command, capture_output=True, text=True, timeout=NVIDIA_SMI_SECONDS, check=False)
    if said.returncode:
        words = (said.stdout + said.stderr).strip()
        raise OSError(f"{NVIDIA_SMI} ended with {said.returncode}: {words:.200}")  # it says why, mostly on stdout
    return read_nvidia_smi(said.stdout)


def read_nvidia_smi(said: str) -> Reading:
    """Of lines of `used, total` in MiB, one a GPU, the fullest. Raises `ValueError`.

    A GPU that shares the machine's memory reports `[N/A]`, and is left out.
    """
    gpus = [line.split(",") for line in said.splitlines() if line.strip() and "N/A" not in line]
    readings = [Reading(int(used) << 20, int(total) << 20) for used, total in gpus if int(total)]
    if not readings:
        raise ValueError(f"{NVIDIA_SMI} reports the memory of no GPU: {said.strip()!r:.80}")
    return fullest(readings)
