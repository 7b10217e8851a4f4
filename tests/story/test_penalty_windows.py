"""What a chain looks back on is the context, wherever a request goes on: after a restore, a park and a crash.

The tiny model computes in 32 bits, so that a reply does not depend on what is restored and what is computed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers.crowd import together
from helpers.tiny_gguf import tiny_gguf
from helpers.watched import Watch

import erllama_py as erllama

pytestmark = pytest.mark.anyio

CELLS, REPLY, LONG = 256, 60, 120
LOOKS_BACK: dict[str, Any] = {
    "temperature": 0.0, "repetition_penalty": 1.3, "frequency_penalty": 0.4, "penalty_last_n": 48,
    "dry_multiplier": 0.8, "ignore_eos": True,
}  # fmt: skip
POLICY: dict[str, Any] = {
    "min_tokens": 8, "boundary_align_tokens": 16, "boundary_trim_tokens": 4, "continued_interval": 24,
}  # fmt: skip


def config(folder: Path, **context: Any) -> Any:
    exact = {"flash_attn": False, "type_k": "f32", "type_v": "f32", "n_threads": 1}
    sizes = {"n_ctx": CELLS, "n_seq_max": 1, "n_batch": 128, "n_ubatch": 32}
    return {"model_path": tiny_gguf("dense", folder), "context_opts": sizes | exact | context, "policy": POLICY}


def prompt(number: int) -> list[int]:
    """Token ids that begin differently."""
    return [(7 * number + 3 * place * place + 11) % 250 for place in range(40)]


@pytest.mark.slow
async def test_a_reply_goes_on_after_a_restart_and_after_a_crash_as_if_it_had_not_ended(tmp_path: Path) -> None:
    """The penalties of what was said before are those of the whole reply; so are those of an exact repeat."""
    tier = {"d": erllama.DiskTier(str(tmp_path / "tier"))}
    options = config(tmp_path) | {"tier": "disk", "tier_srv": "d"}
    async with erllama.Runtime(tiers=tier) as runtime:
        model = await runtime.load_model("m", options)
        whole = await model.complete(prompt(0), response_tokens=REPLY, **LOOKS_BACK)
        free = await model.complete(prompt(0), response_tokens=REPLY, temperature=0.0, ignore_eos=True)
        assert free.generated != whole.generated
    half = REPLY // 2
    said = [*prompt(0), *whole.generated[:half]]
    async with erllama.Runtime(tiers=tier) as runtime:
        model = await runtime.load_model("m", options)
        restored = await model.complete(said, response_tokens=half, **LOOKS_BACK)
        assert restored.stats.tier == "d"
        repeated = await model.complete(said, response_tokens=half, **LOOKS_BACK)
        assert repeated.cache_hit_kind in ("exact", "live")
        model.inject_fault("decode")
        with pytest.raises(erllama.ModelCrashed):
            await model.complete(said, response_tokens=half, on_crash="fail", **LOOKS_BACK)
        crashed = await model.complete(said, response_tokens=half, **LOOKS_BACK)
    assert [one.generated for one in (restored, repeated, crashed)] == [whole.generated[half:]] * 3


@pytest.mark.slow
async def test_parked_requests_look_back_on_what_they_said_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each reply is that of the prompt alone, and as long as `min_tokens` says: a park forgets no draw."""
    ends: dict[str, Any] = {"logit_bias": {"<|im_end|>": 1000.0}, "min_tokens": LONG, "ignore_eos": False}
    asked, watch = [prompt(number) for number in range(4)], Watch(monkeypatch)
    async with erllama.Runtime() as runtime:
        model = await runtime.load_model("m", config(tmp_path))
        alone = [(await together(model, [one], LOOKS_BACK | ends, length=LONG + 9))[0] for one in asked]
    async with erllama.Runtime() as runtime:
        model = await runtime.load_model("m", config(tmp_path, n_seq_max=4))
        replies = await together(model, asked, *[LOOKS_BACK | ends] * 4, length=LONG + 9)
    assert watch.parks
    assert [reply.generated for reply in replies] == [reply.generated for reply in alone]
    assert [(len(reply.generated), reply.finish_reason) for reply in replies] == [(LONG, "stop")] * 4
