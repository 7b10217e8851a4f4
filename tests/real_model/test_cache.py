"""The shared cache with SmolLM2 and Gemma 3: warm after a restart, with the same tokens, computing only what is new."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy
import pytest
from helpers.cache import opened

import erllama_py as erllama
from erllama_py.buffers import GRAIN
from erllama_py.serve.models import fetch

pytestmark = [pytest.mark.anyio, pytest.mark.real_model, pytest.mark.slow]

GREEDY: dict[str, Any] = {"temperature": 0.0, "response_tokens": 16}
SYSTEM = (
    "You are a patient teacher. You answer in one short sentence, in plain words, and compare things with what a child "
    "can see or touch: a ball, a cup of water, a lamp, a bicycle, a garden. "
) * 4


def tiers(root: Path) -> dict[str, erllama.DiskTier]:
    return {"d": erllama.DiskTier(str(root), quota_bytes=1 << 30)}


def config(name: str, **context: Any) -> Any:
    """Without flash attention, whose rounding on the CPU depends on where a prompt is cut into batches."""
    sizes = {"n_ctx": 1024, "n_seq_max": 1, "n_threads": 2, "flash_attn": False}
    return {
        "model_path": fetch(name), "context_opts": sizes | context, "tier": "disk", "tier_srv": "d",
        "policy": {"session_resume_wait_ms": 60_000},
    }  # fmt: skip


async def test_the_first_rows_are_copied_into_memory_that_was_used_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Buffers of their size are made while the model loads, none while it decodes."""
    made: list[int] = []
    empty = numpy.empty

    def recorded(shape: Any, *args: Any, **more: Any) -> Any:
        if isinstance(shape, int) and shape >= GRAIN:
            made.append(shape)
        return empty(shape, *args, **more)

    monkeypatch.setattr(numpy, "empty", recorded)
    async with erllama.Runtime(tiers=tiers(tmp_path)) as runtime:
        model = await runtime.load_model("m", config("smollm2") | {"policy": {"cold_max_tokens": 128}})
        assert (len(made), len(set(made))) == (4, 1)
        tokens = (await model.tokenize("The lighthouse keeper carried wood up the hill every evening. " * 60))[:512]
        done = await model.complete(tokens, response_tokens=1)
        await runtime.cache.flush()
        assert (done.cache_delta.created, len(made)) == (512, 4)


@pytest.mark.parametrize("name", ["smollm2", "gemma3"])
async def test_a_restored_prompt_goes_on_as_the_live_one(name: str, tmp_path: Path) -> None:
    """From the same position, token for token; in a wider context too."""
    async with erllama.Runtime(tiers=tiers(tmp_path)) as runtime:
        model = await runtime.load_model("m", config(name))
        start = (await model.tokenize("The lighthouse keeper carried wood up the hill every evening. " * 60))[:512]
        prompt = [*start, *(await model.tokenize("Then a ship came. " * 30, add_bos=False))[:88]]
        cold = await model.complete(start, **GREEDY)
        # From position 512, as the restored one will go on.
        live = await model.complete(prompt, **GREEDY)
        assert (cold.cache_hit_kind, live.cache_hit_kind, live.cache_delta.read) == ("cold", "live", 512)
    async with erllama.Runtime(tiers=tiers(tmp_path)) as runtime:
        model = await runtime.load_model("m", config(name, n_ctx=1536))
        await opened(runtime)
        assert (await model.explain(start)).hit_tokens == 512
        first = await model.complete(start, **GREEDY)
        assert (first.cache_hit_kind, first.stats.prefill_tokens) == ("exact", 1)
        restored = await model.complete(prompt, **GREEDY)
        assert restored.generated == live.generated


async def test_another_chat_with_the_same_teacher_computes_only_its_own_question(tmp_path: Path) -> None:
    """After a restart, eight of them: nothing of the system prompt is computed again."""
    questions = ["What is rain?", "Why is grass green?", "What is a shadow?", "How do birds fly?", "What is ice?",
                 "Why do we sleep?", "What is a magnet?", "What is wind?"]  # fmt: skip

    def chat(question: str) -> list[dict[str, str]]:
        return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": question}]

    async with erllama.Runtime(tiers=tiers(tmp_path)) as runtime:
        model = await runtime.load_model("m", config("smollm2"))
        await model.chat(chat("What is the moon?"), **GREEDY)
        system = len(await model.apply_chat_template([chat("")[0]], add_generation_prompt=False))
    async with erllama.Runtime(tiers=tiers(tmp_path)) as runtime:
        model = await runtime.load_model("m", config("smollm2"))
        for question in questions:
            done = await model.chat(chat(question), **GREEDY)
            assert done.cache_delta.read >= system - 4
            assert done.stats.prefill_tokens <= done.prompt_tokens - system + 4


async def test_a_chat_writes_and_computes_each_turn_once(tmp_path: Path) -> None:
    """Also with a restart in between: the bytes of all rows are those of one copy of the final state."""
    turns, history = 6, [{"role": "system", "content": SYSTEM}]
    computed, lengths = [], [0]
    for life in range(2):
        async with erllama.Runtime(tiers=tiers(tmp_path)) as runtime:
            model = await runtime.load_model("m", config("smollm2"))
            for turn in range(turns // 2):
                history.append({"role": "user", "content": f"Tell me thing number {life * 10 + turn}."})
                done = await model.chat(history, **GREEDY)
                history.append({"role": "assistant", "content": done.reply})
                computed.append(done.stats.prefill_tokens)
                lengths.append(done.committed_tokens)
            await runtime.cache.flush()
            rows = await runtime.cache.rows()
    for turn in range(1, turns):
        # What is new: the end of the last reply, the next question, the header of the answer.
        assert computed[turn] <= lengths[turn + 1] - lengths[turn] + 4
    cells = next(row for row in rows if row.reason != "turn")  # those count too, and are little
    per_token = cells.nbytes / (cells.end - cells.start)
    assert sum(row.nbytes for row in rows) <= 1.1 * per_token * lengths[-1]
