"""A row with which an engine ends when it is put back costs one crash: its tokens are computed, and it is not used
again."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from collections.abc import Iterable
from typing import Any

import pytest
from helpers.blows import known_children, stand_in, strike
from helpers.cache import PROMPT, ask, cold, ram_model, text
from helpers.strikes import one_thread

from erllama_py.cache.walk import Located
from erllama_py.engine.backend import RestoreStatus
from erllama_py.engine.jobs import Job, Restore
from erllama_py.engine.process.engine import EngineProcess
from erllama_py.engine.stub import StubBackend
from erllama_py.model.look_ups import LookUps

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

Span = tuple[int, int]
# A row of 64 tokens is put back in a sixth of the time that computing them takes: long enough to be hit in it.
SLOW: dict[str, Any] = {"seconds_per_token": 0.003, "seconds_per_copy": 0.03}


class Refused:
    """The spans of the rows that a model has refused."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.spans: list[Span] = []
        refuse = LookUps.refuse

        def noted(look_ups: LookUps, rows: Iterable[Located]) -> None:
            rows = list(rows)
            self.spans += [(row.meta.start, row.meta.end) for row in rows]
            refuse(look_ups, rows)

        monkeypatch.setattr(LookUps, "refuse", noted)


@pytest.mark.parametrize("bad", [(0, 64), (128, 192)])
async def test_a_row_that_raises_on_a_thread_is_put_back_once(monkeypatch: pytest.MonkeyPatch, bad: Span) -> None:
    """Rows before it are used again, and the reply is the undisturbed one; the request is not suspected."""
    tried, refused, restore = Counter[Span](), Refused(monkeypatch), StubBackend.restore

    def poisonous(backend: StubBackend, seq_id: int, start: int, end: int, payload: memoryview) -> RestoreStatus:
        tried[start, end] += 1
        if (start, end) == bad:
            raise RuntimeError("this row is poisonous")
        return restore(backend, seq_id, start, end, payload)

    async with ram_model() as (runtime, model):
        await ask(model, PROMPT)
        await ask(model, text(40, seed=1))
        await runtime.cache.flush()
        monkeypatch.setattr(StubBackend, "restore", poisonous)
        back = await ask(model, PROMPT)
        assert tried[bad] == 1
        assert refused.spans[0] == bad  # and what the engine was given already, and did not come to
        assert not any(tried[span] for span in refused.spans[1:])
        assert (model.info.restarts, model.counters.failed, model.counters.continued) == (1, 0, 1)
        assert back.cache_delta.read == bad[0]
        assert not model._board.trials("own")._suspects.records
        monkeypatch.setattr(StubBackend, "restore", restore)
        await runtime.cache.flush()
        await ask(model, text(40, seed=1))
        again = await ask(model, PROMPT)
    assert again.cache_hit_kind == "exact"  # it was saved anew
    assert back.reply == again.reply == await cold(PROMPT)


async def test_a_row_that_crashes_each_time_it_is_saved_anew_is_computed_from_then_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After two crashes; what comes before it is used all the same."""
    tried, restore = Counter[Span](), StubBackend.restore

    def poisonous(backend: StubBackend, seq_id: int, start: int, end: int, payload: memoryview) -> RestoreStatus:
        tried[start, end] += 1
        if (start, end) == (128, 192):
            raise RuntimeError("such a row is poisonous")
        return restore(backend, seq_id, start, end, payload)

    monkeypatch.setattr(StubBackend, "restore", poisonous)
    async with ram_model() as (runtime, model):
        replies = list[str]()
        for _ in range(5):
            replies.append((back := await ask(model, PROMPT)).reply)
            await ask(model, text(40, seed=1))
            await runtime.cache.flush()
        assert back.cache_delta.read == 128
        assert (tried[128, 192], model.info.restarts, model.counters.failed) == (2, 2, 0)
    assert set(replies) == {await cold(PROMPT)}


async def test_a_row_that_was_put_back_since_is_not_to_blame_for_good(monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that crashes now and then, and once more in the same row, does not lose it and all that follows it."""
    tried, restore = Counter[Span](), StubBackend.restore

    def moody(backend: StubBackend, seq_id: int, start: int, end: int, payload: memoryview) -> RestoreStatus:
        tried[start, end] += 1
        if (start, end) == (128, 192) and tried[start, end] in (1, 3):
            raise RuntimeError("not today")
        return restore(backend, seq_id, start, end, payload)

    monkeypatch.setattr(StubBackend, "restore", moody)
    async with ram_model() as (runtime, model):
        for _ in range(5):
            back = await ask(model, PROMPT)
            await ask(model, text(40, seed=1))
            await runtime.cache.flush()
        assert (tried[128, 192], model.info.restarts, model.counters.failed) == (4, 2, 0)
        assert back.cache_hit_kind == "exact"
        assert not model._board.crashed_rows
    assert back.reply == await cold(PROMPT)


@pytest.mark.parametrize("blow", ["SIGSEGV", "SIGABRT", "SIGKILL"])
async def test_a_row_in_which_a_process_ends_is_put_back_once(monkeypatch: pytest.MonkeyPatch, blow: Any) -> None:
    """But for an end that came from outside, of which no row is to blame."""
    sent, refused, submit = Counter[Span](), Refused(monkeypatch), EngineProcess.submit

    def noted(engine: EngineProcess, job: Job) -> None:
        if isinstance(job, Restore):
            sent[job.start, job.end] += 1
        submit(engine, job)

    made = known_children(monkeypatch)
    with one_thread() as pool:
        async with ram_model(stub=SLOW, isolation="process") as (runtime, model):
            await ask(model, PROMPT)
            await ask(model, text(40, seed=1))
            await runtime.cache.flush()
            monkeypatch.setattr(EngineProcess, "submit", noted)
            asking = asyncio.create_task(ask(model, PROMPT))
            loop, child = asyncio.get_running_loop(), made["m"][0]
            assert await loop.run_in_executor(pool, stand_in, child, "restore")
            await loop.run_in_executor(pool, strike, child, blow)
            back = await asking
            report, counters = model.info.last_crash, model.counters
            assert report is not None
            assert (report.signal, report.doing) == (blow, "restore")
            assert (model.info.restarts, counters.failed, counters.continued) == (1, 0, 1)
    if blow == signal.SIGKILL.name:
        assert not refused.spans
        assert 2 in sent.values()
    else:
        assert refused.spans
        assert {sent[span] for span in refused.spans} == {1}
    assert back.reply == await cold(PROMPT)
