"""A model in numbers: what has ended is counted once, what is under way is seen, and nothing is lost in a crash."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
from helpers.both_backends import BACKENDS, loaded
from helpers.cache import PROMPT, ask, ram_model
from helpers.coming_back import coming_back
from helpers.crowd import crowded, prompts, together
from helpers.gated import UNLUCKY, arrived, gated
from helpers.runtime import STUB, assert_balanced, stub_runtime, until

import erllama_py as erllama
from erllama_py.engine.heartbeat import Heart
from erllama_py.engine.work import Work
from erllama_py.model.tally import Tally

pytestmark = pytest.mark.anyio

GREEDY: dict[str, Any] = {"temperature": 0.0, "ignore_eos": True}


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
async def test_tokens_and_decodes_are_those_of_the_completions(backend: str, tmp_path: Path) -> None:
    """A cold prompt, the same again, and one that is cancelled at the door: sums agree with what callers got."""
    async with loaded(backend, tmp_path) as model:
        assert model.counters.requests == 0
        first = await model.complete([5] * 200, response_tokens=9, **GREEDY)
        again = await model.complete([5] * 200, response_tokens=4, **GREEDY)
        counters = model.counters
        assert_balanced(counters)
        assert counters.finished == {"length": 2}
        assert counters.prompt_tokens == first.prompt_tokens + again.prompt_tokens == 400
        assert counters.reused_tokens == again.cache_delta.read > 0
        assert counters.computed_tokens == first.stats.prefill_tokens + again.stats.prefill_tokens
        assert counters.computed_tokens + counters.reused_tokens >= counters.prompt_tokens
        assert counters.generated_tokens == 13
        assert counters.decoded_tokens == counters.computed_tokens + 13 - 2  # the last of each is never decoded
        assert 13 - 2 < counters.decodes <= counters.decoded_tokens
        assert counters.tokens_per_decode == counters.decoded_tokens / counters.decodes
        assert counters.decode_seconds > 0.0
        assert counters.hits == {"cold": 1, again.cache_hit_kind: 1}
        assert (counters.loads, counters.restarts) == (1, 0)
        assert counters.load_seconds == model.info.load_seconds
        assert (counters.sequences, counters.cells) == (4, 512)
        assert 0 < counters.cells_kept == counters.cells_in_use <= 512


async def test_what_is_under_way_is_seen_at_once() -> None:
    """One at work, one in the queue, a third refused: before any decode has ended."""
    one: Any = {"n_ctx": 512, "n_seq_max": 1}
    async with gated(context=one, scheduler={"max_pending": 1}) as (_, model, gate):
        asked = [asyncio.create_task(model.complete([1, 2, number], response_tokens=2)) for number in (3, 4)]
        await arrived(model, 2)
        with pytest.raises(erllama.QueueFull):
            await model.complete([1, 2, 5])
        counters = model.counters
        assert (counters.active, counters.waiting, counters.refused, counters.requests) == (1, 1, 1, 3)
        assert (counters.sequences, counters.sequences_kept) == (1, 0)
        assert counters.cells_in_use >= 3
        assert counters.cells_kept == 0
        gate.gate.set()
        await asyncio.gather(*asked)
        counters = model.counters
        assert (counters.active, counters.waiting, sum(counters.finished.values())) == (0, 0, 2)
        assert counters.sequences_kept == 1
        assert_balanced(counters)


async def test_what_fails_alone_is_counted_as_failed_and_what_is_cancelled_as_cancelled() -> None:
    """A draw that fails, and a caller that goes away."""
    async with gated() as (_, model, gate):
        gate.gate.set()
        with pytest.raises(erllama.SamplerFailed):
            await model.complete([1, 2, 3], seed=UNLUCKY, response_tokens=50, ignore_eos=True)
        assert (model.counters.failed, model.counters.finished) == (1, {})
        gate.gate.clear()
        leaving = asyncio.create_task(model.complete([1, 2, 3], response_tokens=50))
        await arrived(model, 1)
        leaving.cancel()
        gate.gate.set()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        with anyio.fail_after(10):
            while model.counters.active:
                await anyio.lowlevel.checkpoint()
        assert (model.counters.failed, model.counters.finished) == (1, {"cancelled": 1})
        assert_balanced(model.counters)


@pytest.mark.slow
async def test_counts_go_on_over_a_crash() -> None:
    """None of them is smaller than before; what was open has failed, and the next load is counted."""
    async with coming_back() as (runtime, model, _comings):
        await model.complete("hello", response_tokens=4, **GREEDY)
        before = model.counters
        async with model.stream("hello again", response_tokens=1000, on_crash="fail", **GREEDY) as events:
            await anext(events)
            model.inject_fault("thread")
            with pytest.raises(erllama.ModelCrashed):
                [event async for event in events]
        await model.complete("hello", response_tokens=4, **GREEDY)
        after = runtime.model_counters("m")
        assert (after.failed, after.restarts, after.loads) == (1, 1, 2)
        assert after.finished == {"length": 2}
        assert after.decodes > before.decodes > 0
        assert after.generated_tokens > before.generated_tokens
        assert after.load_seconds > before.load_seconds
        assert_balanced(after)
        await model.unload()
        assert (model.counters.sequences, model.counters.decodes) == (0, after.decodes)


@pytest.mark.slow
async def test_what_a_process_had_computed_until_it_was_killed_is_counted() -> None:
    """Also what it had not told yet: it stands in the page that outlives it."""
    config: Any = {**STUB, "isolation": "process", "stub": {"seconds_per_token": 0.001}}
    async with erllama.Runtime() as runtime:
        model = await runtime.load_model("m", config)
        asking = asyncio.create_task(model.complete("hello", response_tokens=2000, on_crash="fail", **GREEDY))
        await until(lambda: model.counters.generated_tokens > 40)
        os.kill(model.info.pid or 0, signal.SIGKILL)
        with pytest.raises(erllama.ModelCrashed) as caught:
            await asking
        await until(lambda: model.info.restarts == 1 and model.info.phase == "idle")
        report, now = caught.value.report, model.counters
        assert report is not None
        assert (now.decodes, now.generated_tokens) == (report.counters["decodes"], report.counters["generated"])
        assert now.computed_tokens == report.counters["prompt_tokens"] > 0


@pytest.mark.slow
async def test_saves_are_counted_and_parks_are() -> None:
    """Rows that were handed over are what the cache says it has stored; each park once."""
    async with ram_model() as (runtime, model):
        await ask(model, PROMPT)
        await runtime.cache.flush()
        rows = await runtime.cache.rows()
        counters = model.counters
        assert counters.saved_rows == len(rows) > 0
        assert 0 < counters.saved_bytes <= sum(row.nbytes for row in rows)
        assert (counters.skipped_rows, counters.lost_rows) == (0, 0)
    async with crowded() as (_, model):
        replies = await together(model, prompts(8))
        assert model.counters.parks == sum(reply.stats.parks for reply in replies) > 0
        assert_balanced(model.counters)


async def test_reproducible_requests_and_embeddings_are_counted_in() -> None:
    """A second context counts with the first; embeddings have counts of their own."""
    async with stub_runtime() as (_, model):
        await model.complete("hello", response_tokens=4, **GREEDY)
        alone = model.counters
        await model.complete("hello", response_tokens=4, reproducible=True, **GREEDY)
        both = model.counters
        assert (both.requests, both.finished, both.loads) == (2, {"length": 2}, 1)
        assert both.generated_tokens == 8
        assert both.cells > alone.cells
        embeddings = await model.embed(["hello", "you"])
        counters = model.counters
        assert (counters.embeddings, counters.embeddings_failed) == (1, 0)
        assert counters.embedding_tokens == sum(embeddings.token_counts)
        assert counters.requests == 2


def test_work_of_engines_that_have_ended_is_kept() -> None:
    """Two engines, one of them gone: the sum is that of both. Two that have done as much are two all the same."""
    tally = Tally()
    first, idle, second = tally.begin_engine(), tally.begin_engine(), tally.begin_engine()
    tally.end_engine(idle)
    first.decodes, first.seconds = 3, 0.5
    tally.end_engine(first)
    second.decodes, second.parks = 4, 1
    both = Work(decodes=7, seconds=0.5, parks=1)
    assert msgspec.structs.astuple(tally.work) == msgspec.structs.astuple(both)
    tally.end_engine(second)
    assert msgspec.structs.astuple(tally.work) == msgspec.structs.astuple(both)


def test_a_decode_that_was_stopped_takes_time_and_is_no_decode() -> None:
    """Its seconds are spent all the same."""
    clock, work = iter((0.0, 2.0, 2.0, 3.0)), Work()
    heart = Heart(lambda: next(clock), work)
    heart.begins(8)
    heart.ends(done=False)
    heart.begins(8)
    heart.ends(done=True)
    assert (work.decodes, work.tokens, work.seconds) == (1, 8, 3.0)
