"""A stub that decodes in step with its event loop: each decode takes so many of the loop's turns, however fast the
machine is. So what a test does at once when it has seen something is done within a few tokens, also where the loop
comes late; a stub whose tokens take time alone would have ended its reply by then.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from functools import partial

from erllama_py.engine import BackendFactory
from erllama_py.engine.backend import DecodeStatus, Slice
from erllama_py.engine.stub import StubBackend
from erllama_py.options.model import ModelConfig

# More than it takes from an outcome to the test that waits for it, and from there to the actor and its engine.
TURNS = 25


def in_step() -> BackendFactory:
    """Makes such stubs for the loop that runs."""
    return partial(InStep, loop=asyncio.get_running_loop())


class InStep(StubBackend):
    """An abort lets a decode go, undone."""

    def __init__(self, model_id: str, config: ModelConfig, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(model_id, config)
        self._loop = loop

    def decode(self, slices: Sequence[Slice]) -> DecodeStatus:
        return super().decode(slices) if self.waits() else DecodeStatus.ABORTED

    def waits(self) -> bool:
        """Wait for the turns of the loop; false where a decode that waits for them is to be let go."""
        turned = threading.Event()
        self._loop.call_soon_threadsafe(self._turn, turned, TURNS)
        while not turned.wait(0.001):
            if self._abort.is_set() or self._loop.is_closed():
                return False
        return True

    def _turn(self, turned: threading.Event, left: int) -> None:
        if left:
            self._loop.call_soon(self._turn, turned, left - 1)
        else:
            turned.set()
