"""A kind of tier is a class and a line of the registry: nothing else knows how many there are."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import pytest
from helpers.cache import PROMPT, TIER, ask, config, opened
from helpers.runtime import STUB

import erllama_py as erllama
from erllama_py.options.tiers import KINDS, TierSpec

pytestmark = pytest.mark.anyio


class TapeTier(TierSpec, frozen=True):
    """Slower than any other."""

    kind: ClassVar[str] = "tape"
    label: ClassVar[str] = "rows on a tape"
    speed: ClassVar[int] = 9


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one line."""
    monkeypatch.setitem(KINDS, TapeTier.kind, TapeTier)


@pytest.mark.parametrize("given", ["struct", "mapping"])
async def test_a_new_kind_is_started_named_listed_and_warm_again(tmp_path: Path, given: str) -> None:
    """A model saves to it by its kind, and the next runtime finds the rows."""
    tape: TapeTier | erllama.TierDict = TapeTier(tmp_path) if given == "struct" else {"kind": "tape", "root": tmp_path}
    replies = []
    for _ in range(2):
        async with erllama.Runtime(tiers={TIER: tape}) as runtime:
            await opened(runtime)
            model = await runtime.load_model("m", config(kind="tape"))
            replies.append(await ask(model, PROMPT))
            assert [tier.kind for tier in await runtime.cache.tiers() if tier.name == TIER] == ["tape"]
            assert TapeTier.label in str(runtime.tree())
    assert replies[0].reply == replies[1].reply
    assert [(reply.cache_hit_kind, reply.stats.tier) for reply in replies] == [("cold", None), ("exact", TIER)]


async def test_a_row_is_read_from_the_fastest_tier_that_has_it(tmp_path: Path) -> None:
    """By the rank of the kinds, whatever they are, and not by the order in which the tiers got it."""
    identity, tokens = erllama.Identity(bytes(32), 4, bytes(32)), list(range(300))
    async with erllama.Runtime(tiers={"t": TapeTier(tmp_path), "d": erllama.DiskTier(tmp_path / "disk")}) as runtime:
        await opened(runtime)
        for number, tier in enumerate(("t", "d", "ram"), 1):
            await runtime.cache.put(identity, tokens, 0, b"cells", tier=tier)
            await runtime.cache.flush()
            assert len(await runtime.cache.rows()) == number
            assert [read for _, read in (await runtime.cache.find(identity, tokens)).rows] == [tier]


async def test_a_kind_that_is_not_registered_is_refused() -> None:
    """By a model and by a tier, with those that there are."""
    async with erllama.Runtime() as runtime:
        with pytest.raises(erllama.InvalidOption, match="expected one of 'disk', 'ram', 'ram_file', 'tape', got 'x'"):
            await runtime.load_model({**STUB, "tier": "x"})
        with pytest.raises(erllama.InvalidOption, match="expected one of 'disk', 'ram_file', 'tape', got 'x'"):
            await runtime.start_tier("d", {"kind": "x"})
