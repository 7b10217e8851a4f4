"""Rows that turn out to be bad: never served, reported once, and the request starts from what is good."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
from helpers.cache import PROMPT, ask, cold, model_at, ram_model, row_files, text, tier_info, until_true
from helpers.directory_tier import hollow
from helpers.held_thread import HeldThread

import erllama_py as erllama
from erllama_py.engine.backend import RestoreStatus
from erllama_py.engine.stub import StubBackend
from erllama_py.tiers.scan import read_row

pytestmark = pytest.mark.anyio


@pytest.mark.either_loop
@pytest.mark.slow
@pytest.mark.parametrize("place", [0, 40, 300, 4100, -5])
async def test_a_flipped_bit_is_never_served(tmp_path: Path, place: int) -> None:
    """The request starts from the rows before it; the file is counted and set aside, and the row is saved again."""
    async with model_at(tmp_path) as (runtime, model):
        await ask(model, PROMPT)
        await runtime.cache.flush()
        third = next(row for row in await runtime.cache.rows() if row.end == 192)
    (path,) = [path for path in row_files(tmp_path) if third.key in path.name]
    content = bytearray(path.read_bytes())
    content[place] ^= 0x10
    path.write_bytes(content)
    async with model_at(tmp_path) as (runtime, model):
        warm = await ask(model, PROMPT)
        await runtime.cache.flush()
        counters = await runtime.cache.counters()
    assert warm.cache_delta.read == 128
    assert warm.reply == await cold(PROMPT)
    assert sum(count for name, count in counters.items() if name.startswith("bad.")) == 1
    async with model_at(tmp_path) as (runtime, model):
        again = await ask(model, PROMPT)
        assert not any(name.startswith("bad.") for name in await runtime.cache.counters())
    assert again.cache_hit_kind == "exact"
    assert again.reply == warm.reply


@pytest.mark.parametrize("when", ["opened", "read"])
async def test_what_a_tier_finds_is_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture, when: str) -> None:
    """By the tier, which knows which file it was; the cache counts it."""

    async def told() -> bool:
        return await bad_files(runtime) > 0

    async with model_at(tmp_path) as (runtime, model):
        await ask(model, PROMPT)
        await runtime.cache.flush()
        first = next(row for row in await runtime.cache.rows() if row.start == 0)
        (path,) = [path for path in row_files(tmp_path) if first.key in path.name]
        if when == "read":
            await ask(model, text(40, seed=1))
            path.write_bytes(path.read_bytes()[:-1] + b"?")
            await ask(model, PROMPT)
            await until_true(told)
    if when == "opened":
        path.write_bytes(b"torn")
        async with model_at(tmp_path) as (runtime, model):
            await until_true(told)
    assert len([record for record in caplog.records if record.levelno >= logging.WARNING]) == 1


async def bad_files(runtime: erllama.Runtime) -> float:
    """How many were counted."""
    return sum(count for name, count in (await runtime.cache.counters()).items() if name.startswith("bad."))


async def test_a_directory_that_is_deleted_costs_rows_and_no_reply(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The tier says that it cannot be written, and is well again by itself once it can."""
    root = tmp_path / "kv"
    async with model_at(root) as (runtime, model):
        await ask(model, PROMPT)
        await runtime.cache.flush()
        await ask(model, text(40, seed=1))
        await runtime.cache.flush()  # a row that is being written keeps its folder from being removed
        shutil.rmtree(root)
        root.write_text("in the way")
        gone = await ask(model, PROMPT)
        await runtime.cache.flush()
        info = await tier_info(runtime)
        counters = await runtime.cache.counters()
        root.unlink()
        for number in range(3):
            await ask(model, text(200, seed=20 + number))
            await runtime.cache.flush()
        assert (await tier_info(runtime)).problem is None
        healthy = await ask(model, PROMPT)
        await runtime.cache.flush()
    assert gone.reply == healthy.reply == await cold(PROMPT)
    assert info.problem is not None
    assert sum("cannot be written" in record.message for record in caplog.records) == 1
    assert gone.stats.miss_reason == "a row could not be read"
    assert counters["bad.gone"] >= 1
    assert counters["misses.unreadable"] == 1


@pytest.mark.parametrize("status", [RestoreStatus.BAD_BYTES, RestoreStatus.UNABLE])
async def test_a_row_that_the_engine_refuses_costs_that_row(
    monkeypatch: pytest.MonkeyPatch, status: RestoreStatus
) -> None:
    """The request starts from what is in the cells. A bad row is hidden, and saved again in its place; one that the
    engine was unable to take is there for the next request."""
    async with ram_model() as (runtime, model):
        await ask(model, PROMPT)
        await ask(model, text(40, seed=1))
        await runtime.cache.flush()
        restore = StubBackend.restore
        refused: list[int] = []

        def refuse_one(backend: StubBackend, seq_id: int, start: int, end: int, payload: memoryview) -> RestoreStatus:
            if end == 192 and not refused:
                refused.append(end)
                return status
            return restore(backend, seq_id, start, end, payload)

        monkeypatch.setattr(StubBackend, "restore", refuse_one)
        warm = await ask(model, PROMPT)
        known = {row.end for row in await runtime.cache.rows()}
        await runtime.cache.flush()
        counters = await runtime.cache.counters()
        await ask(model, text(40, seed=1))
        again = await ask(model, PROMPT)
    assert refused == [192]
    assert warm.cache_delta.read == 128
    assert warm.stats.miss_reason == "a row could not be read"
    assert counters.get("bad.refused", 0) == (status is RestoreStatus.BAD_BYTES)
    assert (192 in known) or status is RestoreStatus.BAD_BYTES
    assert again.cache_hit_kind == "exact"
    assert warm.reply == again.reply == await cold(PROMPT)


async def test_a_row_that_says_it_is_larger_than_any_memory_is_a_miss(tmp_path: Path) -> None:
    """A hole of 1 TiB with a right header: the request is answered, from what precedes it."""
    async with model_at(tmp_path) as (runtime, model):
        await ask(model, PROMPT)
        await ask(model, text(40, seed=1))
        await runtime.cache.flush()
        third = next(row for row in await runtime.cache.rows() if row.end == 192)
        (path,) = [path for path in row_files(tmp_path) if third.key in path.name]
        hollow(path, 1 << 40)
        warm = await ask(model, PROMPT)
    assert warm.cache_delta.read == 128
    assert warm.reply == await cold(PROMPT)


@pytest.mark.parametrize("error", [MemoryError, RuntimeError])
async def test_an_error_of_any_kind_while_a_row_is_read_is_a_miss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    """The request is answered, and the next one has the row."""

    def fail(*_: Any) -> None:
        raise error

    async with model_at(tmp_path) as (runtime, model):
        await ask(model, PROMPT)
        await ask(model, text(40, seed=1))
        await runtime.cache.flush()
        with monkeypatch.context() as patch:
            patch.setattr("erllama_py.tiers.directory.read_row", fail)
            missed = await ask(model, PROMPT)
        await ask(model, text(40, seed=1))
        again = await ask(model, PROMPT)
    assert (missed.cache_hit_kind, missed.stats.miss_reason) == ("cold", "a row could not be read")
    assert again.cache_delta.read > 0
    assert missed.reply == again.reply == await cold(PROMPT)


async def test_a_model_without_memory_for_a_copy_saves_nothing_and_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine thread does not end with it."""

    def full(*_: Any) -> None:
        raise MemoryError

    with monkeypatch.context() as system:
        system.setattr("erllama_py.buffers.shared_memory.allocate", full)
        async with ram_model() as (runtime, model):
            reply = (await ask(model, PROMPT)).reply
            counters = await runtime.cache.counters()
    assert counters["saves.dropped.no_buffer"] > 0
    assert reply == await cold(PROMPT)


async def test_a_tier_that_hangs_holds_a_request_no_longer_than_computing_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its rows are given up after that, and are there again when it answers."""
    monkeypatch.setattr("erllama_py.cache.policy.LEAST_READ_SECONDS", 0.02)
    async with model_at(tmp_path) as (runtime, model):
        await ask(model, PROMPT)
        await ask(model, text(40, seed=1))
        await runtime.cache.flush()
        with monkeypatch.context() as patch:
            held = HeldThread(patch, "erllama_py.tiers.directory.read_row", read_row)
            missed = await ask(model, PROMPT)
            assert held.reached.is_set()
            held.go_on()
        monkeypatch.setattr("erllama_py.cache.policy.LEAST_READ_SECONDS", 2.0)
        await ask(model, text(40, seed=1))
        again = await ask(model, PROMPT)
    assert (missed.cache_hit_kind, missed.stats.miss_reason) == ("cold", "a row could not be read")
    assert again.cache_delta.read > 0
    assert missed.reply == again.reply
