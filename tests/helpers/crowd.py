"""Requests for more cells than a model has: prompts whose replies are long, and models that are small.

Owns nothing. A prompt has `PROMPT` tokens and a reply `REPLY`, so that one of them fits into `CELLS` and two do not.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import cache
from typing import Any

import anyio
import pytest

import erllama_py as erllama
from erllama_py.engine.backend import Backend
from erllama_py.options.model import ModelConfig
from helpers.cache import config, stub_reply, text
from helpers.runtime import GatedBackend
from helpers.watched import Watch

CELLS, SEQUENCES = 256, 4
PROMPT, REPLY = 20, 200
FOREVER = 3_600_000  # ms
# No wait for a save ends by itself, else the machine's speed would say what is computed again.
POLICY: dict[str, Any] = {
    "min_tokens": 8, "boundary_align_tokens": 16, "boundary_trim_tokens": 4, "continued_interval": 24,
    "session_resume_wait_ms": 3_600_000,
}  # fmt: skip
CONTEXT: dict[str, Any] = {"n_ctx": CELLS, "n_batch": 128, "n_ubatch": 32, "n_seq_max": SEQUENCES}


@cache
def prompts(count: int, length: int = PROMPT, reply: int = REPLY) -> tuple[tuple[int, ...], ...]:
    """Prompts that begin differently, and whose replies by the stub do not end before `reply` tokens."""
    found: list[tuple[int, ...]] = []
    seed = 0
    while len(found) < count:
        tokens = tuple(text(length, seed).encode())
        if len(stub_reply(tokens, reply)) == reply:
            found.append(tokens)
        seed += 1
    return tuple(found)


def crowded_config(memory: str = "full", *, policy: Any = None, **more: Any) -> Any:
    """A stub with few cells, for the sequences that share them.

    No turn ends by itself, else the machine's speed would say who is parked: a reply takes seconds where it is busy.
    """
    context = CONTEXT | more.pop("context_opts", {})
    scheduler = {"turn_ms": FOREVER} | more.pop("scheduler", {})
    return config(memory, policy=POLICY | (policy or {}), context_opts=context, scheduler=scheduler, **more)


@asynccontextmanager
async def crowded(
    memory: str = "full", *, runtime_options: Any = None, **more: Any
) -> AsyncIterator[tuple[erllama.Runtime, erllama.Model]]:
    """An open runtime and a model `m` with few cells; `more` goes into its configuration."""
    async with erllama.Runtime(**(runtime_options or {})) as runtime:
        yield runtime, await runtime.load_model("m", crowded_config(memory, **more))


async def together(
    model: erllama.Model, asked: Sequence[Sequence[int]], *options: Mapping[str, Any], length: int = REPLY
) -> list[erllama.Completion]:
    """The greedy replies to prompts that arrive at once, in this order; the n-th has the n-th of the `options`."""
    replies: dict[int, erllama.Completion] = {}

    async def ask(index: int) -> None:
        more = options[index] if index < len(options) else {}
        given = {"response_tokens": length, "temperature": 0.0} | dict(more)
        replies[index] = await model.complete(list(asked[index]), **given)

    with anyio.fail_after(60):  # for a test gone wrong: it shall fail rather than hang
        async with anyio.create_task_group() as tasks:
            for index in range(len(asked)):
                tasks.start_soon(ask, index)
    return [replies[index] for index in range(len(asked))]


class GatedCrowd:
    """A model `m` that decodes only while `gate` is open, and shuts it by itself as soon as a request is parked.

    So a test can act while it is parked: the others cannot end without it, and it cannot go on.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.gate, self.watch = threading.Event(), Watch(monkeypatch)
        self.gate.set()
        self._shut = False
        self.watch.on_park = self._first_park

    def _first_park(self) -> None:
        if not self._shut:
            self._shut = True
            self.gate.clear()

    def make(self, model_id: str, model_config: ModelConfig) -> Backend:
        """The backend factory."""
        return GatedBackend(model_id, model_config, self.gate)

    async def until_parked(self) -> int:
        """The id of the request that was parked; nothing is decoded from now on."""
        await self.watch.once(lambda: bool(self.watch.parks))
        return self.watch.parks[0]

    def go_on(self) -> None:
        """Let the model decode again."""
        self.gate.set()
