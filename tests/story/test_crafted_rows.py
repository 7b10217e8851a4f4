"""Rows with right checksums that no engine has written: they cost computing, and are never believed.

Through llama.cpp, on tiny models of every kind of memory. Each reply must be that of a runtime without a past, and with
the next one the cache is as good as before.
"""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import Any

import pytest
from helpers.backends import MEMORY
from helpers.cache import opened
from helpers.crafted_rows import Change, outside, rewrite, with_logits, without_numbers
from helpers.tiny_gguf import KINDS, Kind, tiny_gguf

import erllama_py as erllama

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

POLICY: dict[str, Any] = {
    "min_tokens": 32, "boundary_align_tokens": 32, "boundary_trim_tokens": 8, "continued_interval": 20,
}  # fmt: skip
PROMPT = [(7 * i + i * i) % 250 for i in range(150)]
OTHER = [(11 * i + 3) % 250 for i in range(150)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


def options(path: Path) -> Any:
    sizes = {"n_ctx": 640, "n_seq_max": 1, "n_batch": 128, "n_ubatch": 64, "n_threads": 1}
    return {"model_path": path, "context_opts": sizes, "tier": "disk", "tier_srv": "d", "policy": POLICY}


class Asked:
    """What a new runtime over a tier has answered, and counted."""

    def __init__(self, completions: list[erllama.Completion], counters: dict[str, float]) -> None:
        self.completions, self.counters = completions, counters

    @property
    def replies(self) -> list[list[int]]:
        return [one.generated for one in self.completions]


async def ask(root: Path, model_path: Path, *prompts: list[int]) -> Asked:
    """Ask one prompt after the other; between two of them all is saved, and nothing is live."""
    async with erllama.Runtime(tiers={"d": erllama.DiskTier(str(root), quota_bytes=1 << 30)}) as runtime:
        await opened(runtime)
        model = await runtime.load_model("m", options(model_path))
        completions = []
        for prompt in prompts:
            completions.append(await model.complete(prompt, temperature=0.0, response_tokens=12))
            await runtime.evict("m")
            await runtime.cache.flush()
        return Asked(completions, await runtime.cache.counters())


def spoil(root: Path, change: Change) -> int:
    """Write all rows again; how many there are."""
    files = sorted((root / "rows").glob("*.row"))
    for path in files:
        rewrite(path, change)
    return len(files)


NOT_A_NUMBER = struct.pack("<f", math.nan)
CHANGES: dict[str, Any] = {
    "cells that are no numbers": without_numbers,
    "cells outside": outside,
    "short logits": lambda _: with_logits(lambda logits: logits[:-4]),
    "logits that are no numbers": lambda _: with_logits(lambda logits: NOT_A_NUMBER + logits[4:]),
}


# Of the others no row in the middle of a prompt has logits.
CASES = [(kind, how) for kind in KINDS for how in CHANGES if "logits" not in how or kind in ("recurrent", "hybrid")]


@pytest.mark.either_loop
@pytest.mark.parametrize(("kind", "how"), CASES)
async def test_a_crafted_row_costs_computing_once(folder: Path, tmp_path: Path, kind: Kind, how: str) -> None:
    """No request fails or says anything else; the rows are saved again, and found after that."""
    path, root = tiny_gguf(kind, folder), tmp_path / "t"
    expected = await ask(tmp_path / "fresh", path, PROMPT, OTHER)
    await ask(root, path, PROMPT)
    rows = spoil(root, CHANGES[how](MEMORY[kind]))
    # Each time the first of the bad rows is found out, and saved again.
    asked = await ask(root, path, PROMPT, OTHER, *[PROMPT] * rows, PROMPT, OTHER)
    first, second = expected.replies
    assert asked.replies == [first, second, *[first] * rows, first, second]
    assert asked.counters["bad.refused"] > 0
    assert [one.cache_hit_kind for one in asked.completions[-2:]] == ["exact", "exact"]
    again = await ask(root, path, PROMPT, OTHER)
    assert again.replies == [first, second]
    assert [one.cache_hit_kind for one in again.completions] == ["exact", "exact"]
    assert "bad.refused" not in again.counters
