"""Whether a model's engine can have a process of its own here, and what can bound it: found out with one. Blocks.

Nothing is loaded in it. It is the child of a model up to the moment at which its engine would begin.
"""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import suppress
from pathlib import Path

import anyio

from erllama_py.buffers import BufferPool
from erllama_py.cpus import usable_cpus
from erllama_py.engine.children.spawn import CannotSpawn
from erllama_py.engine.process.child import NOT_UP, START_SECONDS, Child
from erllama_py.engine.process.life.limits import bound_data, make_group
from erllama_py.options.model import ModelConfig
from erllama_py.options.process import ProcessOpts
from erllama_py.results import IsolationInfo
from erllama_py.results.build import MemoryBound

MEMORY_BYTES = 1 << 30  # a limit that it does not reach
BUFFER_BYTES = 1 << 20
NICE = 1


def tried() -> IsolationInfo:
    """Begin a process, look at what can be set of it, and end it."""
    return asyncio.run(_tried())


async def _tried() -> IsolationInfo:
    buffers = BufferPool(BUFFER_BYTES)
    try:
        return await _tried_with(buffers)
    finally:
        buffers.close()


async def _tried_with(buffers: BufferPool) -> IsolationInfo:
    began, root = time.monotonic(), Path("/")
    opts = ProcessOpts(nice=NICE)
    try:
        child = Child("isolation", ModelConfig(backend="stub", process_opts=opts), buffers)
    except OSError as error:  # no sockets of this kind, or no memory that two processes share
        return IsolationInfo(problem=str(error))
    try:
        pid = await _begun(child)
        seconds = time.monotonic() - began
        nicer = os.getpriority(os.PRIO_PROCESS, pid) > os.getpriority(os.PRIO_PROCESS, 0)
        memory = _memory_bound(root, pid)
    except (CannotSpawn, OSError) as error:
        return IsolationInfo(problem=str(error))
    finally:
        await child.end()
    if isinstance(memory, Path):
        with suppress(OSError):  # its process has ended
            memory.rmdir()
    bound: MemoryBound = "cgroup" if isinstance(memory, Path) else memory
    return IsolationInfo(problem=None, seconds=seconds, memory=bound, cpus=len(usable_cpus()), nice=nicer)


async def _begun(child: Child) -> int:
    """Raises `CannotSpawn` for one that does not come up."""
    await child.start()
    with anyio.move_on_after(START_SECONDS):
        await child.up.wait()
    if child.death is not None:
        raise CannotSpawn(child.death.problem)
    if child.process.pid is None or not child.is_up:
        raise CannotSpawn(NOT_UP)
    return child.process.pid


def _memory_bound(root: Path, pid: int) -> Path | MemoryBound:
    """What bounds its memory: the folder of a cgroup, or a word."""
    group = make_group(root, pid, MEMORY_BYTES)
    if group is not None:
        return group.folder
    with suppress(OSError, ValueError):
        bound_data(pid, MEMORY_BYTES)
        return "private data"
    return None
