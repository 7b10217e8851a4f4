"""What tiers are filled with and emptied of: back-pressure, quotas, eviction, memory pressure."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers.cache import (
    PROMPT,
    TIER,
    Gate,
    Held,
    ask,
    cold,
    config,
    model_at,
    ram_model,
    row_files,
    spans,
    text,
    tier_info,
    until_true,
)
from helpers.fake_cache import bytes_in, temp_files

import erllama_py as erllama
from erllama_py.engine.backend import Backend
from erllama_py.engine.stub import StubBackend
from erllama_py.options.model import ModelConfig
from erllama_py.tiers.directory import DirectoryTier
from erllama_py.tiers.messages import Put, StoredRow
from erllama_py.tiers.ram import RamTier

pytestmark = pytest.mark.anyio

MIB = 1 << 20
# Rows of some 8 KiB, four a conversation: a tier of the smallest quota holds about thirty of them.
CONVERSATIONS = 40

# --- back-pressure -------------------------------------------------------------------------------------------


async def test_what_finds_no_buffer_is_dropped_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tier that does not keep up costs rows, never a reply: and not one row more waits than there are buffers."""
    async with ram_model(runtime_options={"save_buffer_bytes": 2 << 20}) as (runtime, model):
        gate = Gate(monkeypatch)
        done = await ask(model, PROMPT, 100)
        assert done.reply == await cold(PROMPT, 100)
        assert (await runtime.cache.counters())["saves.dropped.no_buffer"] > 0
        gate.open()
        await runtime.cache.flush()
        assert len(await runtime.cache.rows()) == 2
        # Once there is room again, one row holds all that was left out.
        await runtime.evict(model)
        warm = await ask(model, PROMPT + done.reply + "!")
    assert warm.cache_delta.read == done.committed_tokens
    assert warm.reply == await cold(PROMPT + done.reply + "!")


async def test_a_tier_that_is_slow_does_not_slow_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    """With every save held up, a reply takes as many decodes as ever and comes to its end."""
    made: list[StubBackend] = []

    def make(model_id: str, config: ModelConfig) -> Backend:
        made.append(StubBackend(model_id, config))
        return made[-1]

    async with ram_model(make=make) as (_, model):
        gate = Gate(monkeypatch)
        done = await ask(model, PROMPT, 200)
        await gate.reached.wait()
        assert not gate.opened
        assert made[0].decodes == 2 + 199  # the prompt in two batches, then a token each
        gate.open()
    assert done.reply == await cold(PROMPT, 200)


# --- room ----------------------------------------------------------------------------------------------------


@pytest.mark.either_loop
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["disk", "ram_file"])
async def test_a_full_tier_gives_up_leaves_and_is_never_above_its_quota(tmp_path: Path, kind: str) -> None:
    """What is used least goes, from the end of conversations; what is left can all be reached from position 0."""
    system = text(200, seed=7)
    async with model_at(tmp_path, kind=kind, quota_bytes=MIB) as (runtime, model):
        for number in range(CONVERSATIONS):
            done = await ask(model, system + text(200, seed=100 + number))
            await runtime.cache.flush()
            assert bytes_in(tmp_path) <= MIB
            assert done.cache_delta.read >= (0 if number == 0 else 192)
        info = await tier_info(runtime)
        assert MIB // 2 < info.used_bytes <= MIB
        rows = await runtime.cache.rows()
        starts = {0: None} | {row.key: row.end for row in rows}
        assert all(row.start == 0 or starts.get(row.parent) == row.start for row in rows)
        assert (await runtime.cache.counters())[f"evicted.{TIER}"] > 0
        assert {(0, 64), (64, 128), (128, 192)} <= {(row.start, row.end) for row in rows}
        last = await ask(model, system + text(200, seed=100 + number))
    assert last.cache_hit_kind == "live"
    async with model_at(tmp_path, kind=kind, quota_bytes=MIB) as (_, model):
        warm = await ask(model, system + text(200, seed=100 + number))
    assert warm.cache_hit_kind == "exact"
    assert warm.reply == await cold(system + text(200, seed=100 + number))
    assert temp_files(tmp_path) == []


async def test_rows_in_use_are_not_evicted(monkeypatch: pytest.MonkeyPatch) -> None:
    """While a look-up holds them they are pinned; afterwards they can go."""
    async with ram_model() as (runtime, model):
        await ask(model, PROMPT)
        await runtime.cache.flush()
        await ask(model, text(40, seed=1))
        await runtime.cache.flush()
        reads = Held(monkeypatch, RamTier, "get")
        asked = asyncio.create_task(ask(model, PROMPT))
        await reads.reached.wait()
        await runtime.cache.evict_bytes(1 << 30)
        assert {(0, 64), (64, 128), (128, 192), (192, 256), (256, 300)} == await spans(runtime)
        reads.open()
        warm = await asked
        await runtime.cache.flush()
        assert await runtime.cache.evict_bytes(1 << 30) > 0
        assert await runtime.cache.rows() == []
        assert (await tier_info(runtime, "ram")).used_bytes == 0
    assert warm.cache_hit_kind == "exact"
    assert warm.reply == await cold(PROMPT)


async def test_bytes_can_be_freed_in_some_tiers(tmp_path: Path) -> None:
    """By kind or by name; a miss says afterwards that the row was evicted."""
    async with model_at(tmp_path) as (runtime, model):
        other = await runtime.load_model("other", config(cache_salt="x"))
        for one in (model, other):
            await ask(one, PROMPT)
        await runtime.cache.flush()
        ram, disk = await tier_info(runtime, "ram"), await tier_info(runtime)
        assert await runtime.cache.evict_bytes(1) > 0
        assert (await tier_info(runtime)).used_bytes == disk.used_bytes
        assert (await tier_info(runtime, "ram")).rows == ram.rows - 1
        assert await runtime.cache.evict_bytes(1 << 30, [TIER]) == disk.used_bytes
        assert row_files(tmp_path) == []
        assert await runtime.cache.evict_bytes(1 << 30, ["no such tier"]) == 0
        why = await model.explain(PROMPT)
        assert (why.hit_tokens, why.miss_reason) == (0, "what followed token 0 was evicted")
        assert (await other.explain(PROMPT)).hit_tokens == 300
        gone = await ask(model, PROMPT + "!")
    assert gone.reply == await cold(PROMPT + "!")


async def test_gc_removes_what_nothing_can_reach(tmp_path: Path) -> None:
    """A row whose parent is gone is no use to anybody; what can be reached stays."""
    async with model_at(tmp_path) as (runtime, model):
        await ask(model, PROMPT)
        await runtime.cache.flush()
        first = next(row for row in await runtime.cache.rows() if row.end == 128)
    (path,) = [path for path in row_files(tmp_path) if first.key in path.name]
    path.unlink()
    async with model_at(tmp_path) as (runtime, model):
        assert len(await runtime.cache.rows()) == 5
        assert (await model.explain(PROMPT)).hit_tokens == 64
        assert await runtime.cache.gc() > 0
        assert await spans(runtime) == {(0, 64)}
        assert len(row_files(tmp_path)) == 1
        assert await runtime.cache.gc() == 0
        warm = await ask(model, PROMPT)
        assert warm.cache_delta.read == 64
    assert warm.reply == await cold(PROMPT)
    async with model_at(tmp_path) as (_, model):
        assert (await ask(model, PROMPT)).cache_hit_kind == "exact"


async def test_memory_pressure_frees_rows_in_memory(tmp_path: Path) -> None:
    """A source that says that memory is full makes the tiers in memory give way, and leaves the disk alone."""
    full = False

    def source() -> tuple[float, float]:
        return (95, 100) if full else (10, 100)

    pressure = {"source": source, "interval_ms": 10, "min_evict_bytes": 1 << 30}
    async with model_at(tmp_path, runtime_options={"pressure": pressure}) as (runtime, model):
        other = await runtime.load_model("other", config())
        for one, prompt in ((model, PROMPT), (other, text(300, seed=8))):
            await ask(one, prompt)
        await runtime.cache.flush()
        kept = await spans(runtime, TIER)
        full = True

        async def is_empty() -> bool:
            return (await tier_info(runtime, "ram")).used_bytes == 0

        async def is_counted() -> bool:
            seen = await runtime.pressure()
            return seen is not None and seen.evicted_bytes > 0 and (seen.total, seen.problem) == (100, None)

        await until_true(is_empty)
        await until_true(is_counted)
        assert await spans(runtime, TIER) == kept
        assert (await ask(other, PROMPT)).stats.tier == TIER


async def test_where_nothing_watches_the_memory_there_is_nothing_to_say(tmp_path: Path) -> None:
    """As by default."""
    async with model_at(tmp_path) as (runtime, _):
        assert await runtime.pressure() is None
    with pytest.raises(erllama.RuntimeClosed):
        await runtime.pressure()


async def test_a_tier_that_is_stopped_while_rows_are_removed_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its rows stay where they are; the others go, and what was freed is said."""
    async with model_at(tmp_path) as (runtime, model):
        other = await runtime.load_model("other", config())
        for one in (other, model):
            await ask(one, PROMPT)
        await runtime.cache.flush()
        deletes = Held(monkeypatch, RamTier, "delete")
        evicting = asyncio.create_task(runtime.cache.evict_bytes(1 << 30, ["ram", "disk"]))
        await deletes.reached.wait()
        await runtime.stop_tier(TIER)
        deletes.open()
        assert await evicting > 0
        assert await spans(runtime) == set()
        assert (await ask(model, PROMPT + "!")).reply == await cold(PROMPT + "!")


async def test_rows_that_are_to_go_are_not_found_while_others_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row that an eviction has chosen cannot be pinned or extended, however slow the tier before it is."""
    async with model_at(tmp_path) as (runtime, model):
        other = await runtime.load_model("other", config())
        for one in (other, model):
            await ask(one, text(200, seed=5) if one is other else PROMPT)
            await ask(one, text(40, seed=1))
        await runtime.cache.flush()
        deletes = Held(monkeypatch, RamTier, "delete")
        evicting = asyncio.create_task(runtime.cache.evict_bytes(1 << 30, ["ram", "disk"]))
        await deletes.reached.wait()
        gone = await ask(model, PROMPT)
        deletes.open()
        await evicting
        await runtime.cache.flush()
        await ask(model, text(40, seed=2))
        warm = await ask(model, PROMPT)
    assert gone.cache_hit_kind == "cold"
    assert gone.stats.miss_reason == "what followed token 0 was evicted"
    assert warm.cache_hit_kind == "exact"
    assert gone.reply == warm.reply == await cold(PROMPT)


@pytest.mark.either_loop
@pytest.mark.slow
@pytest.mark.parametrize("disk", ["keeps up", "waits for replies"])
async def test_unknown_bytes_cost_rows_and_not_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, disk: str
) -> None:
    """A foreign file takes a part of the quota: old rows go for new ones, as they would without it.

    Also where all rows of a conversation are reserved before the first of them finds the tier full: each makes its own
    room, and no save is lost.
    """
    put, go_on = DirectoryTier.put, asyncio.Event()

    async def late(tier: DirectoryTier, message: Put) -> StoredRow:
        await go_on.wait()
        return await put(tier, message)

    if disk == "waits for replies":
        monkeypatch.setattr(DirectoryTier, "put", late)
    async with model_at(tmp_path) as (_, model):
        go_on.set()
        await ask(model, text(40, seed=1))
    (tmp_path / "notes.bin").write_bytes(bytes(300_000))
    async with model_at(tmp_path, quota_bytes=MIB) as (runtime, model):
        for number in range(CONVERSATIONS):
            go_on.clear()
            await ask(model, text(250, seed=100 + number))
            go_on.set()
            await runtime.cache.flush()
        counters = await runtime.cache.counters()
        used = (await tier_info(runtime)).used_bytes
        # What the last save has lost is made up for, and nothing else is saved that could push these rows out.
        await runtime.evict(model)
        warm = await ask(model, text(250, seed=100 + number))
    assert MIB // 2 < used <= MIB - 300_000
    assert counters[f"evicted.{TIER}"] > 0
    assert not [name for name in counters if name.startswith("saves.dropped")]
    assert warm.cache_hit_kind == "exact"


@pytest.mark.slow
async def test_files_that_were_set_aside_outlive_a_full_tier(tmp_path: Path) -> None:
    """They are evidence: rows are given up for room, and evidence only when that is asked for."""
    async with model_at(tmp_path, quota_bytes=MIB) as (runtime, model):
        await ask(model, PROMPT)
    for path in row_files(tmp_path)[:2]:
        path.write_bytes(b"torn")
    async with model_at(tmp_path, quota_bytes=MIB) as (runtime, model):
        for number in range(CONVERSATIONS):
            await ask(model, text(250, seed=100 + number))
            await runtime.cache.flush()
        assert (await runtime.cache.counters())[f"evicted.{TIER}"] > 0
        assert len(list((tmp_path / "aside").iterdir())) == 2
        await runtime.cache.gc()
        assert list((tmp_path / "aside").iterdir()) == []


@pytest.mark.slow
async def test_a_quota_that_shrank_is_kept_when_the_tier_is_opened_again(tmp_path: Path) -> None:
    """What is too much goes, from the end of conversations; the rest is served."""
    async with model_at(tmp_path) as (runtime, model):
        for number in range(CONVERSATIONS):
            await ask(model, text(250, seed=100 + number))
        await runtime.cache.flush()
        before = (await tier_info(runtime)).used_bytes
    assert before > MIB
    async with model_at(tmp_path, quota_bytes=MIB) as (runtime, model):

        async def fits() -> bool:
            return (await tier_info(runtime)).used_bytes <= MIB

        await until_true(fits)
        assert (await tier_info(runtime)).used_bytes > MIB - (1 << 15)
        assert bytes_in(tmp_path) <= MIB
        rows = await runtime.cache.rows()
        ends = {0: None} | {row.key: row.end for row in rows}
        assert all(row.start == 0 or ends.get(row.parent) == row.start for row in rows)


@pytest.mark.parametrize(("available", "quota"), [(640 * MIB, 64 * MIB), (5 * MIB, MIB)])
async def test_the_tier_in_memory_may_fill_a_tenth_of_what_is_free(
    monkeypatch: pytest.MonkeyPatch, available: int, quota: int
) -> None:
    """Of what was free when the runtime was made, and a MiB at least."""
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=available, total=1 << 40))
    async with erllama.Runtime() as runtime:
        assert (await tier_info(runtime, "ram")).quota_bytes == quota
