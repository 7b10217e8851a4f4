"""What is known of the llama.cpp that is installed, and of processes for engines: the answers of `check_build` and
`check_isolation`."""

from __future__ import annotations

from typing import Literal

from erllama_py.results.plain import Result

MemoryBound = Literal["cgroup", "private data"] | None


class DeviceInfo(Result, frozen=True, kw_only=True):
    """A device that llama.cpp can compute on, beside the CPU. Sizes are in bytes."""

    name: str
    """Its name in llama.cpp, such as `"CUDA0"`."""
    description: str
    """What it is."""
    kind: str
    """`"gpu"`, `"igpu"` or `"accel"`."""
    free: int
    """Its memory that is free now."""
    total: int
    """All of its memory."""


class BuildInfo(Result, frozen=True, kw_only=True):
    """A build of llama.cpp, tried in a process of its own."""

    version: str | None
    """Of llama-cpp-python; `None` where that is not installed."""
    problem: str | None
    """Why it cannot be used here; `None` where it decodes."""
    tried: bool
    """Whether it was tried: not where no process can be begun, or where that one was ended from outside."""
    seconds: float
    """How long the try took."""
    cpu_features: tuple[str, ...] = ()
    """The instruction sets that its CPU part is compiled for, as it names them."""
    offloads: bool = False
    """Whether it can put layers on a GPU."""
    devices: tuple[DeviceInfo, ...] = ()
    """What it found beside the CPU."""
    threads: int = 0
    """Threads that a model of this process computes with, unless it is told otherwise."""
    threads_reason: str = ""
    """What bounds them: cores, the CPUs that may be used, a quota."""


class IsolationInfo(Result, frozen=True, kw_only=True):
    """Whether a model's engine can have a process of its own here, tried with one."""

    problem: str | None
    """Why it cannot; `None` where it can."""
    seconds: float = 0.0
    """How long that took to be ready, with nothing to load."""
    memory: MemoryBound = None
    """What `process_opts.memory_bytes` would bound: `"cgroup"`: all that it takes; `"private data"`: where no cgroup
    can be made; `None`: nothing here can bound it."""
    cpus: int = 0
    """CPUs that `process_opts.cpus` may choose among."""
    nice: bool = False
    """Whether `process_opts.nice` can be set."""
