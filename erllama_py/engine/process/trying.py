"""Having the child of a model try its file first, as a short-lived child would, and hearing of it the same way.

It is `probe.Run` for one child, which goes on if the file is sound: then it is to hold the model. For a thread of its
own, which waits; the loop only sends.
"""

from __future__ import annotations

import itertools
import json
import os
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import msgspec

from erllama_py.engine.children.ended import Ended, ended_of
from erllama_py.engine.children.spawn import CannotSpawn, listen
from erllama_py.engine.process.child import Child
from erllama_py.engine.process.wire.descriptors import close_all

DEATH_SECONDS = 5.0  # until the end of a process is known whose pipes have ended


def try_in(child: Child, task: str, given: Any, *, seconds: float, wanted: Callable[[], bool]) -> Ended:
    """See the module, and `run_child`; `task` is the one that a `Child` knows. A child that is not done in time, or is
    not wanted any more, is killed. Raises `CannotSpawn`."""
    began = time.monotonic()
    (words, written), *theirs = _pipes()

    def take() -> tuple[int, ...]:
        """For whoever comes first: the loop, which sends them, or this thread, if it waits no more."""
        with suppress(IndexError):
            return theirs.pop()
        return ()

    try:
        child.try_file(json.dumps(given), take)
        said, wrote, how = listen(words, written, began + seconds, wanted)
    finally:
        close_all((words, written, *take()))
    lasted = time.monotonic() - began
    if how is not None:
        child.process.kill("killed", f"its file was tried for {lasted:.0f} s")
        return ended_of(how, None, said, wrote, lasted)
    ended = msgspec.structs.replace(ended_of(None, 0, said, wrote, lasted), most_bytes=child.process.most_bytes)
    return ended if ended.how != "crashed" else _with_death(ended, child)


def _pipes() -> list[tuple[int, int]]:
    """The ends of two pipes that are read here, and those that are written there. Raises `CannotSpawn`."""
    pipes = list[tuple[int, int]]()
    try:
        for _ in range(2):
            pipes.append(os.pipe())
    except OSError as error:
        close_all(itertools.chain(*pipes))
        raise CannotSpawn(str(error)) from error
    return [*zip(*pipes, strict=True)]


def _with_death(ended: Ended, child: Child) -> Ended:
    """What has said no last word has ended with its process, or is of no use."""
    child.gone.wait(DEATH_SECONDS)
    death = child.death
    if death is None:
        child.process.kill("killed", "it was not heard of any more while it tried its file")
        return ended
    if death.exit_code:
        return msgspec.structs.replace(ended, how="failed", code=death.exit_code)
    no_memory = death.reason == "out of memory"
    return msgspec.structs.replace(ended, signal=death.signal, no_memory=no_memory)
