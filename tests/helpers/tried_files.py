"""Loads of files that may be hostile, on a thread and in a process; what befalls the process that tries one."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio.to_thread

import erllama_py as erllama
from erllama_py.engine.children import spawn
from erllama_py.engine.children.ended import How
from erllama_py.engine.llama import LlamaBackend
from erllama_py.options.model import parse_model_config
from helpers.both_backends import SIZES
from helpers.leftovers import children

Wanted = Callable[[], bool]


def config(path: Path, isolation: str = "process", **more: Any) -> Any:
    return {"model_path": path, "context_opts": SIZES, "isolation": isolation, **more}


async def load(home: Path, path: Path, isolation: str = "process", **more: Any) -> None:
    async with erllama.Runtime(home=home) as runtime:
        await runtime.load_model("m", config(path, isolation, **more))


async def refused(home: Path, path: Path, **more: Any) -> Exception | None:
    """What a load in a process comes to."""
    try:
        await load(home, path, **more)
    except erllama.ErllamaError as error:
        return error
    return None


async def refused_on_a_thread(home: Path, path: Path) -> Exception | None:
    """What the first look at a file comes to, without a load that could end this process."""
    backend = LlamaBackend("m", parse_model_config(config(path)), home)
    try:
        await anyio.to_thread.run_sync(backend.inspect)
    except erllama.ErllamaError as error:
        return error
    return None


def the_child() -> int:
    (pid,) = children()
    return pid


def killing_in(stage: str | None) -> Callable[..., Any]:
    """`listen`, which kills the child once it has heard of a stage."""

    def listen(words: int, written: int, deadline: float, wanted: Wanted) -> tuple[bytes, bytes, How | None]:
        heard = b""
        while stage is not None and f"stage {stage}\n".encode() not in heard:
            heard += os.read(words, 1)
        os.kill(the_child(), signal.SIGKILL)
        said, wrote, how = spawn.listen(words, written, deadline, wanted)
        return heard + said, wrote, how

    return listen


def one_pipe() -> Callable[[], tuple[int, int]]:
    """As `os.pipe`, once; after that this process has as many descriptors as it may have."""
    pipes = iter([os.pipe()])

    def pipe() -> tuple[int, int]:
        for found in pipes:
            return found
        raise OSError(24, "Too many open files")

    return pipe
