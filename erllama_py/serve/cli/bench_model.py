"""A model file as `erllama bench` measures it: loaded in this process, in a runtime of its own."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from typing import Any

import erllama_py as erllama
from erllama_py.serve.cli.bench_measures import Answer
from erllama_py.serve.cli.model_options import load
from erllama_py.serve.config import ServedModel

GREEDY: dict[str, Any] = {"temperature": 0.0, "ignore_eos": True}


class Loaded:
    """See `Target`. The second load of the same model has the cache of the first, and empty cells."""

    def __init__(self, runtime: erllama.Runtime, served: ServedModel, model: erllama.Model) -> None:
        self._runtime, self._served, self._model = runtime, served, model

    @classmethod
    async def load(cls, runtime: erllama.Runtime, served: ServedModel) -> Loaded:
        """Load it; raises as `load_model` does."""
        return cls(runtime, served, await load(runtime, served))

    async def tokens(self, count: int, chance: random.Random) -> list[int]:
        """See `Target`. The first and the last tokens of a vocabulary may be control tokens."""
        n_vocab = self._model.info.n_vocab
        return [chance.randrange(n_vocab // 8, n_vocab - n_vocab // 8) for _ in range(count)]

    async def ask(self, prompts: Sequence[Sequence[int]], tokens: int) -> list[Answer]:
        """See `Target`."""
        return list(await asyncio.gather(*(self._ask(list(prompt), tokens) for prompt in prompts)))

    async def _ask(self, prompt: list[int], tokens: int) -> Answer:
        began = time.perf_counter()
        done = await self._model.complete(prompt, response_tokens=tokens, **GREEDY)
        return Answer(
            first=done.stats.first_token_seconds, last=time.perf_counter() - began, generated=len(done.generated),
            prompt_tokens=done.prompt_tokens, reused=done.cache_delta.read,
        )  # fmt: skip

    async def renew(self) -> str:
        """See `Target`."""
        await self._runtime.cache.flush()
        await self._runtime.unload(self._model)
        self._model = await load(self._runtime, self._served)
        await self._model.complete("warm up", response_tokens=1, **GREEDY)
        return "the cache, after the model was loaded again"

    def describe(self) -> dict[str, str]:
        """See `Target`."""
        info = self._model.info
        found = {
            "model": f"{info.description or info.id}",
            "threads": f"{info.threads} ({info.threads_reason})",
            "loaded in": f"{info.load_seconds:.2f} s",
        }
        return found | ({"not saved": info.save_limits} if info.save_limits else {})
