"""A model of a running server as `erllama bench` measures it: as a client does, by `/v1/completions`."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from typing import Any, TypedDict

import httpx
import msgspec

from erllama_py.serve.cli.bench_measures import Answer
from erllama_py.serve.cli.remote import Remote, ServerUnreachable, problem_of, refusal

WORDS = ("river", "stone", "lamp", "seven", "green", "walk", "paper", "cloud", "under", "music", "glass", "field")
TOKENS_SECONDS = 600.0  # until a token comes: another client's prompt may be long


class Tokenized(TypedDict):
    """What `/tokenize` answers."""

    tokens: list[int]


class Asked:
    """See `Target`. `remote` asks for what is not measured."""

    def __init__(self, client: httpx.AsyncClient, remote: Remote, model: str) -> None:
        self._client, self._remote, self._model = client, remote, model

    async def tokens(self, count: int, chance: random.Random) -> list[int]:
        """See `Target`: those of random words, as the server's model takes them apart."""
        words = " ".join(f"{chance.choice(WORDS)}{chance.randrange(1000)}" for _ in range(count))
        told = self._remote.post("/tokenize", {"content": words, "model": self._model})
        found = self._remote.shaped(told, Tokenized)["tokens"]
        if len(found) < count:
            raise self._remote.stranger()
        return found[:count]

    async def ask(self, prompts: Sequence[Sequence[int]], tokens: int) -> list[Answer]:
        """See `Target`."""
        try:
            return list(await asyncio.gather(*(self._ask(list(prompt), tokens) for prompt in prompts)))
        except httpx.HTTPError as error:
            raise ServerUnreachable(self._remote.name, problem_of(error, TOKENS_SECONDS)) from None

    async def _ask(self, prompt: list[int], tokens: int) -> Answer:
        body = {
            "model": self._model, "prompt": prompt, "max_tokens": tokens, "temperature": 0, "ignore_eos": True,
            "stream": True, "stream_options": {"include_usage": True},
        }  # fmt: skip
        began, first, last, usage = time.perf_counter(), 0.0, 0.0, dict[str, Any]()
        async with self._client.stream("POST", "/v1/completions", json=body) as response:
            if not response.is_success:
                raise refusal(self._remote, "/v1/completions", response.status_code, await response.aread())
            async for line in response.aiter_lines():
                if not line.startswith("data: ") or line == "data: [DONE]":
                    continue
                event = msgspec.json.decode(line[6:])
                if "error" in event:
                    raise refusal(self._remote, "/v1/completions", 500, line[6:].encode())
                usage = event.get("usage") or usage
                if event.get("choices"):
                    last = time.perf_counter() - began
                    first = first or last
        details = usage.get("prompt_tokens_details") or {}
        return Answer(
            first=first, last=last, generated=usage.get("completion_tokens", 0),
            prompt_tokens=usage.get("prompt_tokens", len(prompt)), reused=details.get("cached_tokens", 0),
        )  # fmt: skip

    async def renew(self) -> str:
        """See `Target`. A server's cells are not this client's to empty."""
        return "cells or the cache"

    def describe(self) -> dict[str, str]:
        """See `Target`."""
        return {"server": self._remote.name, "model": self._model, "measured": "by a client, over the network between"}
