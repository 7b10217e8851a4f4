"""What measures how full the memory is, and how it is asked: one reading at a time, without delaying the monitor.

A source is the machine or container, the GPUs, or a callable of the caller's, and may block, fail or hang. What blocks
is called on a thread of its own, begun once: one that never returns keeps neither the runtime nor the process from
ending. A reading that takes too long is given up; while it still hangs, no other is begun.
"""

from __future__ import annotations

import asyncio
import inspect
import math
import shutil
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import psutil

from erllama_py.actors import Clock, Threads, wait_any
from erllama_py.errors import InvalidOption
from erllama_py.memory import Reading, limited
from erllama_py.options.runtime import PressureOpts

HANG_SECONDS = 10.0  # readings are meant to take far less than one
NVIDIA_SMI = "nvidia-smi"
QUERY = ("--query-gpu=memory.used,memory.total", "--format=csv,noheader,nounits")
# A driver that is not kept loaded takes some seconds to answer. Less than `HANG_SECONDS`, so that an nvidia-smi that
# hangs is killed before its thread is given up.
NVIDIA_SMI_SECONDS = 8.0


class Reader:
    """Calls `source`, async or not."""

    def __init__(self, source: Callable[[], Any], clock: Clock) -> None:
        self._source, self._clock = source, clock
        self._is_async = inspect.iscoroutinefunction(source) or inspect.iscoroutinefunction(type(source).__call__)
        self._task: asyncio.Task[Reading] | None = None
        self._threads = Threads("pressure", 1)
        self._in_thread = False

    async def read(self) -> Reading:
        """A reading. Raises `TimeoutError`, and whatever the source raises."""
        if self._in_thread or (self._task is not None and not self._task.done()):
            raise TimeoutError("an earlier reading has not ended yet")
        self._task = task = asyncio.ensure_future(self._measure())
        task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())  # retrieved: it may be given up
        try:
            await wait_any(task, clock=self._clock, seconds=HANG_SECONDS)
            if not task.done():
                raise TimeoutError(f"no answer within {HANG_SECONDS:g} s")
            if task.cancelled():  # by the source itself: raised here, that would look like our own cancellation
                raise RuntimeError("the source was cancelled")
            return task.result()
        finally:
            task.cancel()

    async def _measure(self) -> Reading:
        answer = await self._source() if self._is_async else await self._threads.abandon(self._call, self._source)
        if inspect.isawaitable(answer):  # from a function that is not async, but makes something to await
            answer = await answer
        reading = read_answer(answer)
        if isinstance(reading, Reading):
            return reading
        total = (await self._threads.abandon(self._call, system_memory)).total
        return Reading(int(reading * total), total)

    def _call(self, function: Callable[[], Any]) -> Any:
        """On the thread. A call that was cancelled before it began blocks no later reading."""
        self._in_thread = True
        try:
            return function()
        finally:
            self._in_thread = False

    def close(self) -> None:
        """Let the thread end after its current call."""
        self._threads.close()


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


def system_memory(root: Path = Path("/")) -> Reading:
    """The machine's memory, or that of a cgroup with a limit around this process, if it is fuller. `root` is where
    `proc` and `sys` lie."""
    machine = psutil.virtual_memory()
    return fullest([Reading(machine.total - machine.available, machine.total), *limited(root)])


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


def fullest(readings: Iterable[Reading]) -> Reading:
    """Of several memories, the one with the least left: that one fails first."""
    return max(readings, key=lambda reading: reading.share)


def read_answer(answer: object) -> Reading | float:
    """What a caller's source answered: bytes, or a share from 0 to 1. Raises `ValueError`."""
    match answer:
        case bool():
            pass
        case int() | float() if 0 <= answer <= 1:
            return float(answer)
        case [int() | float() as used, int() | float() as total] if 0 <= used < math.inf and 1 <= total < math.inf:
            return Reading(int(used), int(total))
    raise ValueError(f"a source answers (used, total) in bytes or a share from 0 to 1, not {answer!r:.80}")
