"""A decode fails for all that take part in it: nothing more is saved of that context, and all that was is whole."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from helpers.runtime import until
from helpers.tiny_gguf import tiny_gguf

import erllama_py as erllama
from erllama_py.model.actor import ModelActor
from erllama_py.scheduler.messages import SaveRow

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

CONTEXT: dict[str, Any] = {
    "n_ctx": 2048, "n_batch": 128, "n_ubatch": 32, "n_seq_max": 4, "n_threads": 1, "n_threads_batch": 1,
    "flash_attn": False, "type_k": "f32", "type_v": "f32",
}  # fmt: skip
POLICY = {"min_tokens": 8, "boundary_align_tokens": 16, "boundary_trim_tokens": 0, "continued_interval": 16}
REPLY: dict[str, Any] = {"temperature": 0.0, "ignore_eos": True}


def prompt(number: int) -> list[int]:
    return [65 + number, *range(70, 120)]


def config(backend: str, isolation: str, folder: Path) -> Any:
    given: dict[str, Any] = {"isolation": isolation, "context_opts": CONTEXT, "policy": POLICY, "backend": backend}
    if backend == "llama":
        return given | {"model_path": tiny_gguf("dense", folder), "probe": False}
    return given | {"stub": {"seconds_per_token": 0.001}}


class Saved:
    """The rows that engines announced, those of each by itself."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.by_actor: dict[int, list[SaveRow]] = {}
        save = ModelActor._save

        def noted(actor: ModelActor, effect: SaveRow) -> None:
            if effect.captured.payload is not None:
                self.by_actor.setdefault(id(actor), []).append(effect)
            save(actor, effect)

        monkeypatch.setattr(ModelActor, "_save", noted)

    def spans(self) -> list[tuple[int, int]]:
        return sorted((one.captured.start, one.captured.end) for rows in self.by_actor.values() for one in rows)

    def last(self) -> int:
        """How many were not made on the way, but at an end."""
        rows = [one.captured for rows in self.by_actor.values() for one in rows]
        return sum(row.reason not in ("cold", "continued") for row in rows)


async def undisturbed(given: Any, *prompts: list[int]) -> list[list[int]]:
    async with erllama.Runtime() as runtime:
        model = await runtime.load_model("m", given)
        return [(await model.complete(one, response_tokens=60, **REPLY)).generated for one in prompts]


@pytest.mark.parametrize("isolation", ["thread", "process"])
@pytest.mark.parametrize("backend", ["stub", "llama"])
async def test_what_was_announced_is_whole_and_nothing_comes_after_it(
    backend: str, isolation: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two replies are under way and a session is idle; its end, an eviction and the unloading find nothing to save."""
    given, saved = config(backend, isolation, tmp_path), Saved(monkeypatch)
    expected = await undisturbed(given, *map(prompt, range(3)))
    saved.by_actor.clear()
    async with erllama.Runtime() as runtime:
        model = await runtime.load_model("m", given)
        session = model.session()
        await session.complete(prompt(2), response_tokens=20, **REPLY)
        told, last = model.counters.generated_tokens, saved.last()
        failing = [
            asyncio.create_task(model.complete(prompt(n), response_tokens=1000, on_crash="fail", **REPLY))
            for n in range(2)
        ]
        await until(lambda: model.counters.generated_tokens > told + 80)
        model.inject_fault("decode")
        ended = await asyncio.gather(*failing, return_exceptions=True)
        assert [type(one) for one in ended] == [erllama.ModelCrashed] * 2
        await until(lambda: model.info.restarts == 1 and model.phase == "idle")
        announced = saved.spans()
        assert saved.last() == last
        assert len(announced) >= 8
        await session.end()
        await model.evict()
        await model.unload()
        await runtime.cache.flush()
        assert saved.spans() == announced
        assert sorted((row.start, row.end) for row in await runtime.cache.rows()) == announced
        model = await runtime.load_model("m", given)
        for number in range(3):
            again = await model.complete([*prompt(number), *expected[number][:40]], response_tokens=20, **REPLY)
            assert again.generated == expected[number][40:]
            assert again.cache_delta.read >= 64 - 16 * (number == 2)
