"""Exact turns on both backends, with every kind of memory: turns of a client without state, also over restarts and in
another process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest
from helpers.both_backends import BACKENDS, SIZES, loaded
from helpers.project import TOP
from helpers.stateless import is_all_new, on_disk, question, sent_back
from helpers.tiny_gguf import Kind, tiny_gguf

import erllama_py as erllama

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

KINDS = get_args(Kind)
SHORT: dict[str, Any] = {"response_tokens": 12, "seed": 7, "temperature": 1.0}
LONG: dict[str, Any] = {"n_ctx": 2048, "n_seq_max": 1, "n_batch": 512, "n_ubatch": 128}


@pytest.mark.either_loop
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("backend", BACKENDS)
async def test_every_turn_computes_only_what_is_new(backend: str, kind: Kind, tmp_path: Path) -> None:
    """Whatever random text the model says: tokens that no tokenizer would make of it, characters cut in half."""
    async with loaded(backend, tmp_path, kind, LONG) as model:
        chat, before = [question(0)], None
        for number in range(1, 7):
            done = await model.chat(chat, **SHORT)
            if before is not None:
                assert is_all_new(before, done)
            chat, before = [*chat, sent_back(done), question(number)], done


SCRIPT = """
import asyncio, json, sys
import erllama_py as erllama
async def main(config, root, chat, options):
    tiers = {"d": {"kind": "disk", "root": root, "quota_bytes": 64 << 20}}
    async with erllama.Runtime(tiers=tiers) as runtime:
        model = await runtime.load_model("m", config)
        done = await model.chat(chat, **options)
        await runtime.cache.flush()
        counters = await runtime.cache.counters()
        await model.unload()
    print(json.dumps([done.reply, done.prompt_tokens, done.committed_tokens, done.stats.prefill_tokens,
                      counters.get("turns.found", 0)]))
asyncio.run(main(*json.loads(sys.argv[1])))
"""


@pytest.mark.parametrize("backend", BACKENDS)
def test_turns_are_recognised_in_another_process(backend: str, tmp_path: Path) -> None:
    """Every turn in a process of its own, over one directory: each restores what the one before has left."""
    config: dict[str, Any] = {
        "context_opts": {**SIZES, **LONG}, "tier": "disk", "tier_srv": "d", "backend": backend,
        "policy": {"min_tokens": 1, "cold_min_tokens": 1},
    }  # fmt: skip
    if backend == "llama":
        config["model_path"] = str(tiny_gguf("dense", tmp_path))
    chat: list[dict[str, Any]] = [question(0)]
    committed = 0
    for number in range(3):
        asked = json.dumps([config, str(tmp_path / "rows"), chat, SHORT])
        ran = subprocess.run(
            [sys.executable, "-c", SCRIPT, asked], capture_output=True, text=True, check=True, cwd=TOP, timeout=120
        )
        reply, prompt, now_committed, computed, found = json.loads(ran.stdout.splitlines()[-1])
        if number:
            assert found == 1
            assert computed <= prompt - committed + 1
        committed = now_committed
        chat += [{"role": "assistant", "content": f"{reply}\n"}, question(number + 1)]


def damage(root: Path) -> None:
    """Flip a bit of the only turn there."""
    [turn] = [path for path in root.glob("rows/*.row") if path.read_bytes()[8] == 2]
    data = bytearray(turn.read_bytes())
    data[260] ^= 1
    turn.write_bytes(data)


async def test_a_damaged_turn_is_not_known(tmp_path: Path) -> None:
    """One flipped bit, and the conversation is rendered; the tokens of a turn are never half right."""
    config: Any = {"tier": "disk", "tier_srv": "d", "context_opts": {**SIZES, **LONG}, "backend": "stub"}
    chat: list[dict[str, Any]] = [question(0)]
    async with erllama.Runtime(tiers=on_disk(tmp_path)) as runtime:
        done = await (await runtime.load_model("m", config)).chat(chat, **SHORT)
    chat += [sent_back(done), question(1)]
    damage(tmp_path)
    async with erllama.Runtime(tiers=on_disk(tmp_path)) as runtime:
        model = await runtime.load_model("m", config)
        await model.chat(chat, **SHORT)
        counters = await runtime.cache.counters()
        assert (counters["turns.unknown"], counters["bad.flipped"]) == (1, 1)
