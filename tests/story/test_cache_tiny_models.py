"""The shared cache through llama.cpp, on tiny random GGUFs of every kind of memory: what is restored is what was live.

The weights are in 32 bits, so that a reply does not depend on where a prompt was cut into batches: each warm reply
must be, token for token, the one of a runtime without a past.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
from helpers.runtime import until
from helpers.tiny_gguf import Kind, tiny_gguf

import erllama_py as erllama

pytestmark = pytest.mark.anyio

KINDS: tuple[Kind, ...] = ("dense", "window", "recurrent", "hybrid")
GREEDY: dict[str, Any] = {"temperature": 0.0, "response_tokens": 12}
SEEDED: dict[str, Any] = {"temperature": 0.9, "seed": 7, "response_tokens": 12}
POLICY: dict[str, Any] = {
    "min_tokens": 32, "boundary_align_tokens": 32, "boundary_trim_tokens": 8, "continued_interval": 20,
    "session_resume_wait_ms": 60_000,
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


def config(path: Path, *, policy: dict[str, Any] | None = None, **context: Any) -> Any:
    sizes = {"n_ctx": 640, "n_seq_max": 1, "n_batch": 128, "n_ubatch": 64, "n_threads": 1}
    return {
        "model_path": path, "context_opts": sizes | context, "tier": "disk", "tier_srv": "d",
        "policy": POLICY | (policy or {}),
    }  # fmt: skip


async def ask(root: Path, options: Any, *prompts: list[int], **request: Any) -> list[erllama.Completion]:
    """The answers of a new runtime over the tier in `root`, one after the other."""
    async with erllama.Runtime(tiers={"d": erllama.DiskTier(str(root), quota_bytes=1 << 30)}) as runtime:
        model = await runtime.load_model("m", options)
        return [await model.complete(prompt, **(GREEDY | request)) for prompt in prompts]


def words(length: int, seed: int = 0) -> list[int]:
    """Tokens without any order; no two seeds begin alike."""
    digest = hashlib.shake_256(bytes([seed])).digest(length)
    return [number % 250 for number in digest]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("drawn", [GREEDY, SEEDED], ids=["greedy", "seeded"])
async def test_a_repeat_after_a_restart_says_the_same(
    folder: Path, tmp_path: Path, kind: Kind, drawn: dict[str, Any]
) -> None:
    """Also with a seed. A recurrent model draws from the logits that were saved, the others compute one token."""
    options, prompt = config(tiny_gguf(kind, folder)), words(150)
    (cold,) = await ask(tmp_path / "t", options, prompt, **drawn)
    (warm,) = await ask(tmp_path / "t", options, prompt, **drawn)
    assert warm.generated == cold.generated
    assert (cold.cache_hit_kind, warm.cache_hit_kind, warm.stats.tier) == ("cold", "exact", "d")
    assert warm.stats.prefill_tokens == (0 if kind in ("recurrent", "hybrid") else 1)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
async def test_the_next_turn_after_a_restart_extends_the_reply(folder: Path, tmp_path: Path, kind: Kind) -> None:
    """From the end of the last row, which lies where the reply ended, with nothing computed twice."""
    options, prompt = config(tiny_gguf(kind, folder)), words(150)
    (first,) = await ask(tmp_path / "t", options, prompt, response_tokens=50)
    turn = [*prompt, *first.generated, *words(20, 1)]
    (warm,) = await ask(tmp_path / "t", options, turn)
    (cold,) = await ask(tmp_path / "other", options, turn)
    assert warm.generated == cold.generated
    assert warm.cache_hit_kind == "partial"
    assert warm.cache_delta.read == first.committed_tokens


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
async def test_another_end_after_a_restart_starts_where_they_part(folder: Path, tmp_path: Path, kind: Kind) -> None:
    """Full attention at the token, a window there too or at a row's end, recurrent ones at the last row's end."""
    options, prompt = config(tiny_gguf(kind, folder)), words(200)
    await ask(tmp_path / "t", options, prompt)
    other = [*prompt[:150], *words(30, 2)]
    (warm,) = await ask(tmp_path / "t", options, other)
    (cold,) = await ask(tmp_path / "other", options, other)
    assert warm.generated == cold.generated
    assert warm.cache_delta.read in ((150,) if kind == "dense" else (128, 150))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
async def test_rows_longer_than_the_window_are_never_cut(folder: Path, tmp_path: Path, kind: Kind) -> None:
    """The window is 64 tokens and rows span 128: cut inside, cells that are needed would not be there."""
    options = config(tiny_gguf(kind, folder), policy={"boundary_align_tokens": 128, "continued_interval": 500})
    prompt = words(400)
    await ask(tmp_path / "t", options, prompt)
    prompts = [[*prompt[:length], *words(10, length % 7 + 1)] for length in (100, 200, 300, 380)]
    warm = await ask(tmp_path / "t", options, *prompts)
    for prompt, answer in zip(prompts, warm, strict=True):
        (cold,) = await ask(tmp_path / "none", options | {"policy": {"min_tokens": None}}, prompt)
        assert answer.generated == cold.generated


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
async def test_a_wider_context_stays_warm(folder: Path, tmp_path: Path, kind: Kind) -> None:
    """And says the same."""
    path, prompt = tiny_gguf(kind, folder), words(150)
    (cold,) = await ask(tmp_path / "t", config(path, n_ctx=320), prompt)
    (warm,) = await ask(tmp_path / "t", config(path, n_ctx=1024, n_seq_max=3), prompt)
    assert (warm.cache_hit_kind, warm.generated) == ("exact", cold.generated)


@pytest.mark.slow
@pytest.mark.parametrize(
    "other",
    [{"type_k": "q8_0"}, {"flash_attn": False}, {"rope_freq_base": 5000.0}, {"type_v": "f32"}],
    ids=lambda change: next(iter(change)),
)
async def test_other_settings_do_not_hit(folder: Path, tmp_path: Path, other: dict[str, Any]) -> None:
    """What changes the bytes of a cell is in the key; and the reply is that of a fresh runtime."""
    path, prompt = tiny_gguf("dense", folder), words(150)
    await ask(tmp_path / "t", config(path), prompt)
    (changed,) = await ask(tmp_path / "t", config(path, **other), prompt)
    (fresh,) = await ask(tmp_path / "other", config(path, **other), prompt)
    assert (changed.cache_hit_kind, changed.generated) == ("cold", fresh.generated)
    assert "other settings" in (changed.stats.miss_reason or "")


@pytest.mark.slow
async def test_automatic_flash_attention_shares_rows_with_what_it_resolves_to(folder: Path, tmp_path: Path) -> None:
    """On a CPU that is on."""
    path, prompt = tiny_gguf("dense", folder), words(150)
    await ask(tmp_path / "t", config(path, flash_attn="auto"), prompt)
    (warm,) = await ask(tmp_path / "t", config(path, flash_attn=True), prompt)
    assert warm.cache_hit_kind == "exact"


@pytest.mark.slow
async def test_two_models_on_one_tier_never_meet(folder: Path, tmp_path: Path) -> None:
    """The same prompt, each with its own rows."""
    prompt = words(150)
    paths = [tiny_gguf("dense", folder), tiny_gguf("window", folder)]
    first = [(await ask(tmp_path / "t", config(path), prompt))[0] for path in paths]
    again = [(await ask(tmp_path / "t", config(path), prompt))[0] for path in paths]
    assert [one.cache_hit_kind for one in (*first, *again)] == ["cold", "cold", "exact", "exact"]
    assert [one.generated for one in again] == [one.generated for one in first]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
async def test_a_model_that_crashed_is_warm_from_memory(folder: Path, kind: Kind) -> None:
    """The rows of the tier in memory do not go with the model."""
    options = config(tiny_gguf(kind, folder)) | {"tier": "ram", "tier_srv": "ram"}
    prompt = words(150)
    async with erllama.Runtime() as runtime:
        model = await runtime.load_model("m", options)
        first = await model.complete(prompt, **GREEDY)
        await runtime.cache.flush()
        model.inject_fault("actor")
        await until(lambda: model.phase == "restarting")
        again = await model.complete(prompt, **GREEDY)
        assert again.generated == first.generated
        assert (again.cache_hit_kind, again.stats.tier) == ("exact", "ram")
