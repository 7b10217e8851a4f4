"""What is shown of a reading: rates, hits by tier, a bound for each list, and no folder of the machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from helpers.served import served
from hypothesis import given
from hypothesis import strategies as st

import erllama_py as erllama
from erllama_py.serve.operations.health import Health
from erllama_py.serve.page.rates import per_second
from erllama_py.serve.page.reading import read
from erllama_py.serve.page.snapshot import MOST_CHILDREN, MOST_SEQUENCES, Branch, Reading, branch, snapshot

NUMBERS = st.floats(0.0, 1e12)


def reading(**given: Any) -> Reading:
    """One of a server without a model."""
    fields: dict[str, Any] = {
        "at": 1000.0, "clock": 5.0, "health": Health(status="ok"), "since": 900.0, "open": 1, "open_limit": 8,
        "draining": False, "drills": True,
    }  # fmt: skip
    return Reading(**fields | given)


def node(name: str, *children: erllama.TreeNode, **given: Any) -> erllama.TreeNode:
    """A part of a tree that runs."""
    fields: dict[str, Any] = {"kind": "actor", "state": "running", "restarts": 0, "uptime": 1.0, "last_failure": None}
    return erllama.TreeNode(name, children=children, **fields | given)


@given(NUMBERS, NUMBERS, st.floats(0.001, 1e6))
def test_a_rate_times_its_seconds_is_what_was_added(before: float, more: float, seconds: float) -> None:
    """And is never below 0."""
    found = per_second(before + more, before, seconds)
    assert found is not None
    assert found >= 0.0
    assert found * seconds == pytest.approx(before + more - before)


@pytest.mark.parametrize(("now", "before", "seconds"), [(5.0, None, 1.0), (5.0, 9.0, 1.0), (5.0, 1.0, 0.0)])
def test_a_rate_that_is_not_known_is_none(now: float, before: float | None, seconds: float) -> None:
    """Nothing to compare with, a counter that began again, no time."""
    assert per_second(now, before, seconds) is None


@given(st.integers(0, 3 * MOST_CHILDREN))
def test_of_many_children_the_first_are_shown_and_the_rest_counted(count: int) -> None:
    """Each is shown or counted, in their order."""
    shown = branch(node("user", *(node(f"agent {number}") for number in range(count))))
    assert [one.name for one in shown.children] == [f"agent {number}" for number in range(min(count, MOST_CHILDREN))]
    assert len(shown.children) + shown.left_out == count


def test_no_folder_of_the_machine_is_shown(tmp_path: Path) -> None:
    """Neither in the tree nor in what is wrong with a tier."""
    tree = node("runtime", node("model:m", last_failure=f"no such file: {tmp_path}/m.gguf", detail=f"in {tmp_path}/x"))
    tier = erllama.TierInfo(
        name="disk", kind="disk", quota_bytes=9, used_bytes=3, rows=1, opened=1.0, problem=f"{tmp_path}/kv is full"
    )
    text = msgspec.json.encode(snapshot(reading(tree=tree, tiers=(tier,)))).decode()
    assert str(tmp_path.parent) not in text
    assert "m.gguf" in text
    assert "kv is full" in text


def test_hits_and_misses_are_told_apart_by_their_counters() -> None:
    """Those of tiers stand with the tiers; a cache that does not answer is None, and so are its tiers."""
    tier = erllama.TierInfo(name="disk", kind="disk", quota_bytes=9, used_bytes=3, rows=1, opened=1.0, problem=None)
    counters = {"hits.exact": 2.0, "hits.tier.disk": 2.0, "misses.empty": 1.0, "saves.cold": 7.0}
    shown = snapshot(reading(cache=counters, tiers=(tier,)))
    assert shown.cache is not None
    assert (shown.cache.hits, shown.cache.misses) == ({"exact": 2}, {"empty": 1})
    assert [one.hits for one in shown.tiers or ()] == [2]
    assert (snapshot(reading()).cache, snapshot(reading()).tiers) == (None, None)


@pytest.mark.anyio
async def test_what_a_server_does_is_read_whole() -> None:
    """Two readings around a reply: tokens a second are those that it took, and why its prompt was computed is said."""
    async with served(aliases={"other": "tiny"}) as at:
        before = await read(at.app.service)
        ask: Any = {
            "model": "tiny",
            "messages": [{"role": "user", "content": "the heron of Lindau " * 9}],
            "max_tokens": 8,
        }
        assert (await at.client.post("/v1/chat/completions", json=ask)).status_code == 200
        now = msgspec.structs.replace(await read(at.app.service), clock=before.clock + 2.0)
        shown = snapshot(now, before)
        (model,) = shown.models
        counters = at.model.counters
        assert (model.id, model.aliases, model.standing.state) == ("tiny", ("other",), "loaded")
        assert model.work is not None
        assert model.work.phase == "idle"
        assert model.work.generated_per_second == counters.generated_tokens / 2 > 0
        assert model.work.computed_per_second == counters.computed_tokens / 2 > 0
        assert [one.doing for one in model.work.sequences].count("kept") == 1
        assert shown.memory is not None
        assert shown.memory.used_bytes == at.model.info.memory_estimate
        assert (shown.server.status, shown.server.open) == ("ok", 0)
        assert [one.name for one in shown.tiers or ()] == ["ram"]
        (missed,) = shown.missed
        assert (missed.api, missed.model, missed.hit, missed.cached_tokens) == ("openai", "tiny", "cold", 0)
        assert missed.why == "nothing is saved for this model"
        assert b"heron" not in msgspec.json.encode(shown)


@pytest.mark.anyio
async def test_models_that_are_not_there_yet_stand_beside_the_others() -> None:
    """With where they stand, and nothing of what they do."""
    async with served(only=["tiny", "large"], aliases={"big": "large"}) as at:
        first, second = snapshot(await read(at.app.service)).models
        assert (first.id, first.standing.state, first.work is None) == ("tiny", "loaded", False)
        assert (second.id, second.aliases, second.standing.state, second.work) == ("large", ("big",), "loading", None)


@pytest.mark.anyio
async def test_a_closed_runtime_can_be_read() -> None:
    """With what is left of its tree; nothing is raised."""
    async with served() as at:
        await at.runtime.__aexit__(None, None, None)
        shown = snapshot(await read(at.app.service))
        assert (shown.models, shown.memory, shown.cache, shown.tiers) == ((), None, None, None)
        assert isinstance(shown.tree, Branch)
        assert shown.tree.state == "stopped"
        assert shown.server.status != "ok"


@pytest.mark.anyio
async def test_of_many_sequences_the_first_are_shown_and_the_rest_counted() -> None:
    """A model may have hundreds."""
    async with served({"context_opts": {"n_ctx": 4096, "n_seq_max": MOST_SEQUENCES + 6}}) as at:
        (model,) = snapshot(await read(at.app.service)).models
        assert model.work is not None
        assert (len(model.work.sequences), model.work.sequences_left_out) == (MOST_SEQUENCES, 6)
