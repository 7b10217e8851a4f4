"""Reproducible requests and the bits that their tokens were drawn from: backends that note every row of logits.

`Recorder.make` is the backend factory. A row is noted by its digest, under the prompt of the request that it was drawn
for and the temperature, so that one prompt may be asked greedily and hot side by side.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio.lowlevel

import erllama_py as erllama
from erllama_py.engine import make_backend
from erllama_py.engine.backend import Backend, BackendFailure, Sampler
from erllama_py.options.model import ModelConfig
from erllama_py.options.sampling import Sampling
from helpers.runtime import until
from helpers.tiny_gguf import WINDOW, Kind, tiny_gguf

GREEDY: dict[str, Any] = {"temperature": 0.0, "response_tokens": 12, "ignore_eos": True}
HOT: dict[str, Any] = {"temperature": 1.1, "seed": 7, "response_tokens": 12, "ignore_eos": True}
POLICY: dict[str, Any] = {"min_tokens": 32, "boundary_align_tokens": 64, "boundary_trim_tokens": 8}
MEMORY = {"dense": "full", "window": "window", "recurrent": "recurrent", "hybrid": "hybrid"}

Bits = tuple[list[int], list[str]]  # the tokens of a reply, and the digests of the rows that they were drawn from


class Recorder:
    """See the module. `rows` has, for each prompt and temperature, the rows of each request that drew something.

    An engine waits at the draws of `stops`, counted over all requests, until `go_on`.
    """

    def __init__(self, *stops: int) -> None:
        self.rows: dict[tuple[tuple[int, ...], float], list[list[str]]] = {}
        self.fail = False  # the next draw ends its engine
        self._stops, self._drawn = stops, 0
        self._stopped, self._gate = threading.Event(), threading.Event()

    async def stopped(self) -> None:
        """Wait until an engine waits."""
        await until(self._stopped.is_set)
        self._stopped.clear()

    def go_on(self) -> None:
        """Let it draw."""
        self._gate.set()

    def _stop(self) -> None:
        self._drawn += 1
        if self.fail:
            self.fail = False
            raise BackendFailure("a draw was told to fail")
        if self._drawn in self._stops:
            self._gate.clear()
            self._stopped.set()
            self._gate.wait(20)

    def make(self, model_id: str, config: ModelConfig) -> Backend:
        """A backend whose samplers tell what they draw from."""
        backend = make_backend(model_id, config)
        make_sampler = backend.sampler

        def sampler(sampling: Sampling, history: Sequence[int]) -> Sampler:
            made, drawn = make_sampler(sampling, history), list[str]()
            self.rows.setdefault((tuple(history), sampling.temperature), []).append(drawn)
            sample = made.sample

            def noted(index: int) -> int:
                self._stop()
                drawn.append(hashlib.sha256(backend.logits(index)).hexdigest())
                return sample(index)

            vars(made)["sample"] = noted
            return made

        vars(backend)["sampler"] = sampler
        return backend

    async def ask(self, model: erllama.Model, prompt: Sequence[int], **options: Any) -> tuple[Bits, erllama.Completion]:
        """One request, what came of it, and the bits that it was drawn from."""
        given = GREEDY | {"reproducible": True} | options
        done = await model.complete(list(prompt), **given)
        return (done.generated, self.rows[tuple(prompt), given["temperature"]][-1]), done


def config(backend: str, kind: Kind, models: Path, /, **more: Any) -> Any:
    """A model for eight requests at a time, of this backend and kind of memory."""
    context = {"n_ctx": 2048, "n_batch": 128, "n_seq_max": 8, "n_threads": 2} | more.pop("context_opts", {})
    fields: dict[str, Any] = {"backend": backend, "context_opts": context, "policy": POLICY, **more}
    if backend == "stub":
        return fields | {"stub": {"memory": MEMORY[kind], "n_swa": WINDOW if kind == "window" else 0}}
    return fields | {"model_path": tiny_gguf(kind, models)}


def words(length: int, seed: int = 0) -> list[int]:
    """Tokens without any order; no two seeds begin alike."""
    return [number % 250 for number in hashlib.shake_256(bytes([seed])).digest(length)]


@asynccontextmanager
async def among(model: erllama.Model, neighbours: int) -> AsyncIterator[None]:
    """The block runs while so many neighbours write on."""
    async with anyio.create_task_group() as tasks:
        for seed in range(neighbours):
            tasks.start_soon(noise, model, seed)
        yield
        tasks.cancel_scope.cancel()


async def noise(model: erllama.Model, seed: int) -> None:
    """A neighbour that asks one thing after the other, in cells of the model's own context, until it is cancelled."""
    while True:
        await model.complete(words(20 + 23 * seed % 150, 100 + seed), temperature=1.0, response_tokens=40)
        await anyio.lowlevel.checkpoint()
