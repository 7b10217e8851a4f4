"""What the cache's benchmarks have in common: which models, opened how, and prompts that nobody has seen."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import erllama_py as erllama
from erllama_py.cache.keys import Identity
from erllama_py.options.tiers import DiskTier, RamFileTier
from erllama_py.serve.models import fetch

MODELS = {"smollm2": "SmolLM2-135M", "gemma3": "Gemma 3 270M"}  # dense; a sliding window of 512
N_CTX = 4096
N_THREADS = 2
QUOTA = 8 << 30

TEXT = (
    "river stone window garden letter morning engine harbour winter paper candle bridge forest silver market ladder "
    "island thunder copper village mirror basket meadow lantern anchor feather station orchard compass velvet bright "
    "slow quiet heavy narrow early distant hollow gentle broken carries follows opens remembers crosses builds finds "
    "between under beyond against toward without after before because although while until where never always often"
)
WORDS = TEXT.split()


async def prompt(model: erllama.Model, number: int, length: int) -> list[int]:
    """Prompt `number` of `length` tokens: the same one in each process, and none like another."""
    chance = random.Random(number)
    tokens = await model.tokenize(" ".join(chance.choices(WORDS, k=length)))
    assert len(tokens) >= length
    return tokens[:length]


@asynccontextmanager
async def opened(
    name: str, root: Path, *, tier: str = "disk", policy: Mapping[str, Any] | None = None, n_threads: int = N_THREADS
) -> AsyncIterator[tuple[erllama.Runtime, erllama.Model]]:
    """A runtime with a tier at `root`, all of whose rows are known, and a model that saves to it.

    `tier` is a kind, `"disk"`, `"ram_file"` or `"ram"`, and the tier's name too; for `"ram"` the one at `root` is a
    disk tier that nothing is saved to.
    """
    specs: dict[str, DiskTier | RamFileTier] = {"disk": DiskTier(str(root), QUOTA)}
    if tier == "ram_file":
        specs = {"ram_file": RamFileTier(str(root), QUOTA)}
    config: Any = {
        "model_path": fetch(name),
        "context_opts": {"n_ctx": N_CTX, "n_seq_max": 1, "n_threads": n_threads},
        "tier": tier,
        "tier_srv": tier,
        "policy": policy or {},
    }
    async with erllama.Runtime(tiers=specs, ram_quota_bytes=2 << 30) as runtime:
        model = await runtime.load_model(name, config)
        await all_known(runtime)
        yield runtime, model


async def all_known(runtime: erllama.Runtime) -> None:
    """Wait until every tier has looked at all of its rows."""
    while any(tier.opened < 1.0 for tier in await runtime.cache.tiers()):  # noqa: ASYNC110  # there is no event for it
        await asyncio.sleep(0.01)


def identity_of(model: erllama.Model) -> Identity:
    """Under what the model's rows are kept."""
    info = model.info
    return Identity(bytes.fromhex(info.fingerprint), info.quant_bits, bytes.fromhex(info.ctx_params_hash))
