"""A runtime with a stub model, for the stories."""

from __future__ import annotations

import itertools
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Unpack

import anyio
import anyio.lowlevel

import erllama_py as erllama
from erllama_py.engine.backend import Backend, DecodeStatus, Slice
from erllama_py.engine.stub import StubBackend
from erllama_py.options.model import ModelConfig

EAGER_TURNS = 200  # of the loop, in `until`: more than any message takes
STUB: erllama.ModelConfigDict = {"backend": "stub", "context_opts": {"n_ctx": 2048, "n_seq_max": 1}}


def untyped(**options: Any) -> dict[str, Any]:
    """Options that a type checker would refuse."""
    return options


@asynccontextmanager
async def stub_runtime(**stub: Unpack[erllama.StubOptsDict]) -> AsyncIterator[tuple[erllama.Runtime, erllama.Model]]:
    """An open runtime and a model `m`; keywords are `StubOpts`."""
    async with erllama.Runtime() as runtime:
        yield runtime, await runtime.load_model("m", {**STUB, "stub": stub})


class GatedBackend(StubBackend):
    """Its decodes wait for a gate; an abort lets them go, undone."""

    def __init__(self, model_id: str, config: ModelConfig, gate: threading.Event) -> None:
        super().__init__(model_id, config)
        self._gate = gate

    def decode(self, slices: Sequence[Slice]) -> DecodeStatus:
        while not self._gate.wait(0.001):
            if self._abort.is_set():
                return DecodeStatus.ABORTED
        return super().decode(slices)


@asynccontextmanager
async def slow_stub() -> AsyncIterator[tuple[erllama.Runtime, erllama.Model, threading.Event]]:
    """A model `slow` that decodes nothing until the gate is set; other models are plain stubs."""
    gate = threading.Event()

    def make(model_id: str, config: ModelConfig) -> Backend:
        return GatedBackend(model_id, config, gate) if model_id == "slow" else StubBackend(model_id, config)

    async with erllama.Runtime(backend_factory=make) as runtime:
        yield runtime, await runtime.load_model("slow", STUB), gate


async def drain(stream: erllama.Stream) -> list[erllama.Event]:
    """Enter a stream and read it to its end."""
    async with stream as events:
        return [event async for event in events]


async def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    """Let the loop turn until `condition` holds; fails rather than hangs."""
    with anyio.fail_after(seconds):
        for turn in itertools.count():
            if condition():
                return
            # It is a thread that is waited for: it shall have the CPU.
            await anyio.sleep(0.0 if turn < EAGER_TURNS else 0.001)


def engine_threads() -> list[str]:
    """Names of the engine threads that are alive in this process, and were begun by tests of this file."""
    return [thread.name for thread in threading.enumerate() if _is_engine(thread) and thread not in _of_other_files]


def forget_engine_threads() -> None:
    """At the end of a file of tests: an engine that hangs for ever there is nothing that the next one has left."""
    _of_other_files.update(filter(_is_engine, threading.enumerate()))


_of_other_files = weakref.WeakSet[threading.Thread]()


def _is_engine(thread: threading.Thread) -> bool:
    return thread.name.startswith("erllama-")


def assert_idle(model: erllama.Model) -> None:
    """Nothing is open, and every request that has reached it is in one of the counts."""
    assert model.queue_depth == 0
    assert_balanced(model.counters)


def assert_balanced(counters: erllama.ModelCounters) -> None:
    """Every request that has reached the model is in one of the counts."""
    over = sum(counters.finished.values()) + counters.failed + counters.refused
    assert counters.requests == over + counters.waiting + counters.parked + counters.active, counters
