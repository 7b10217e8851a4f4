"""The options of a model's process, and of its restarts: where its engine runs, what it may take, how often it comes
back."""

from __future__ import annotations

import sys
from typing import Annotated, Literal

from msgspec import Meta

from erllama_py.errors import InvalidOption
from erllama_py.options.check import Amount, Options

Isolation = Literal["thread", "process"]

LEAST_MEMORY = 32 << 20  # an interpreter with llama.cpp's libraries and nothing loaded
MOST_NICE = 19  # of Linux
MOST_CPU = 8191  # that a kernel can number


class ProcessOpts(Options, frozen=True):
    """What a model's process may take; only for `isolation="process"`."""

    memory_bytes: Annotated[int, Meta(ge=LEAST_MEMORY, le=1 << 60)] | None = None
    """Most bytes of memory: a cgroup bounds them where one can be made, else what it has of its own, mapped weights
    left out. `None`: as many as there are."""
    cpus: Annotated[tuple[Annotated[int, Meta(ge=0, le=MOST_CPU)], ...], Meta(min_length=1)] | None = None
    """Numbers of the CPUs that it may run on, some of those that this process may use; `None`: all of these."""
    nice: Annotated[int, Meta(ge=0, le=MOST_NICE)] = 0
    """How much it gives way to other processes, from 0, not at all, to 19."""


class RestartOpts(Options, frozen=True):
    """How often a model is restarted after crashes before it is given up. Times are in seconds."""

    intensity: Amount = 5
    """Most restarts within a `period`; one more, and it is given up."""
    period: Annotated[float, Meta(gt=0.0, le=1e9)] = 60.0
    """Seconds in which restarts are counted; those of loads are not."""
    backoff_max: Annotated[float, Meta(ge=0.0, le=3600.0)] = 5.0
    """The longest delay before a restart. The first is short, and each further one twice as long."""


def check_process(isolation: Isolation, spare: bool, process: ProcessOpts, platform: str = sys.platform) -> None:
    """Refuse what has no meaning: a process where there can be none, and what is said of one that is not asked for.

    Raises `InvalidOption`.
    """
    if isolation == "process" and platform != "linux":
        raise InvalidOption("isolation", f"a process for the engine needs Linux, and this is {platform}: use 'thread'")
    if isolation == "thread" and spare:
        raise InvalidOption("spare", "a spare process is for isolation='process'")
    if isolation == "thread" and process != ProcessOpts():
        raise InvalidOption("process_opts", "these options are for isolation='process'")
