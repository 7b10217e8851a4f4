"""What is known of the llama.cpp that is installed: the answer of `check_build`."""

from __future__ import annotations

from erllama_py.results.plain import Result


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
