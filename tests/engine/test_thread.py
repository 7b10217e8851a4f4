"""The border between the event loop and the engine thread, with a fast, a failing and a hanging stub."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Sequence
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import msgspec
import pytest
from helpers.crowd import prompts
from helpers.engine import Driver, ends, engine, generate, stub
from helpers.runtime import until

from erllama_py.engine.backend import BackendFailure, DecodeStatus, LoadCancelled, Slice
from erllama_py.engine.jobs import (
    Cancel,
    Capture,
    Died,
    DrillFault,
    Drop,
    Failed,
    Fault,
    Finished,
    Grant,
    Job,
    Prefilled,
    Restore,
    Restored,
    Text,
)
from erllama_py.engine.stub import StubBackend, StubSampler
from erllama_py.engine.thread import EngineThread
from erllama_py.errors import ContextOverflow, ModelLoadError
from erllama_py.options.model import ModelConfig, parse_model_config
from erllama_py.options.sampling import Sampling

pytestmark = pytest.mark.anyio


class Turnstile(StubBackend):
    """Each decode needs a permit; an abort lets it go, undone."""

    def __init__(self, model_id: str, config: ModelConfig) -> None:
        super().__init__(model_id, config)
        self.permits = threading.Semaphore(0)
        self.begun = 0

    def decode(self, slices: Sequence[Slice]) -> DecodeStatus:
        self.begun += 1
        while not self.permits.acquire(timeout=0.001):
            if self._abort.is_set():
                return DecodeStatus.ABORTED
        return super().decode(slices)


async def test_a_request_is_prefilled_generated_and_finished() -> None:
    """Progress, then the text, then one closing outcome with the counts."""
    async with engine(stub()) as driver:
        driver.thread.submit(generate(1, range(10), stream=True))
        done = await driver.until(ends(1))
    assert isinstance(done, Finished)
    assert (done.prefill_tokens, len(done.token_ids), done.held) == (10, 8, 17)
    assert driver.outcomes[0] == Prefilled(1, 10, 10)
    deltas = [outcome for outcome in driver.outcomes if isinstance(outcome, Text)]
    assert "".join(delta.text for delta in deltas) == done.text
    assert [token for delta in deltas for token in delta.token_ids] == done.token_ids


async def test_text_comes_whole_without_a_stream() -> None:
    """Without `stream` the loop is not woken for each token."""
    async with engine(stub()) as driver:
        driver.thread.submit(generate(1, range(10)))
        done = await driver.until(ends(1))
    assert isinstance(done, Finished)
    assert done.text
    assert not [outcome for outcome in driver.outcomes if isinstance(outcome, Text)]


async def test_each_tick_posts_one_batch() -> None:
    """One wake-up of the loop a tick: as many batches as decodes."""
    async with engine(stub()) as driver:
        driver.thread.submit(generate(1, range(10), stream=True))
        await driver.until(ends(1))
        assert len(driver.batches) == driver.backend.decodes


async def test_kept_cells_are_not_decoded_again() -> None:
    """With `keep` only the rest of the prompt is prefilled, and the reply is what a cold run gives."""
    async with engine(stub()) as driver:
        driver.thread.submit(generate(1, range(40), max_new_tokens=1))
        await driver.until(ends(1))
        driver.thread.submit(generate(2, range(50), keep=40))
        warm = await driver.until(ends(2))
        driver.thread.submit(generate(3, range(50), keep=0))
        cold = await driver.until(ends(3))
    assert isinstance(warm, Finished)
    assert isinstance(cold, Finished)
    assert (warm.prefill_tokens, cold.prefill_tokens) == (10, 50)
    assert warm.text == cold.text


async def test_a_cancel_is_seen_within_a_tick_while_prefilling() -> None:
    """The decode under way is aborted; what was decoded before it counts as held."""
    async with engine(stub(seconds_per_token=3600.0)) as driver:
        driver.thread.submit(generate(1, range(100)))
        while driver.backend.decodes == 0:
            await anyio.lowlevel.checkpoint()
        driver.thread.submit(Cancel(1))
        done = await driver.until(ends(1))
    assert isinstance(done, Finished)
    assert (done.reason, done.held) == ("cancelled", 0)
    assert driver.backend.decodes == 1


async def test_a_cancel_of_one_does_not_stop_the_decode_of_others() -> None:
    """It is heard after the decode, which both take part in; alone it would be stopped at once."""
    turnstile = Turnstile("test", parse_model_config({"backend": "stub", "context_opts": {"n_seq_max": 2}}))
    async with engine(turnstile) as driver:
        driver.thread.submit(generate(1, range(5), max_new_tokens=1))
        await until(lambda: turnstile.begun == 1)
        driver.thread.submit(generate(2, range(10)))
        driver.thread.submit(generate(3, range(20, 30), seq_id=1))
        turnstile.permits.release()
        await until(lambda: turnstile.begun == 2)
        driver.thread.submit(Cancel(2))
        turnstile.permits.release(100)
        cancelled, other = await driver.until(ends(2)), await driver.until(ends(3))
    assert isinstance(cancelled, Finished)
    assert isinstance(other, Finished)
    assert (cancelled.reason, cancelled.held) == ("cancelled", 10)
    assert (other.reason, other.prefill_tokens, turnstile.decodes) == ("length", 10, 9)


async def test_a_cancel_that_comes_before_the_decode_stops_it_too() -> None:
    """Jobs were taken, and the request is begun with: its decode ends as soon as it is asked for."""
    taken, go_on = threading.Event(), threading.Event()

    class Held(Turnstile):
        def sampler(self, sampling: Sampling, history: Sequence[int]) -> StubSampler:
            taken.set()
            go_on.wait(20)
            return super().sampler(sampling, history)

    async with engine(Held("test", parse_model_config({"backend": "stub"}))) as driver:
        driver.thread.submit(generate(1, range(5)))
        await until(taken.is_set)
        driver.thread.submit(Cancel(1))
        go_on.set()
        done = await driver.until(ends(1))
    assert isinstance(done, Finished)
    assert (done.reason, done.held) == ("cancelled", 0)


ROW = Restore(request_id=9, seq_id=2, start=0, end=8, payload=memoryview(b""))


@pytest.mark.parametrize("job", [Cancel(1), Grant(1, 1 << 30)], ids=lambda job: type(job).__name__)
async def test_a_request_at_work_does_not_wait_for_the_rows_of_others(job: Job) -> None:
    """A cancel, and more cells, are heard before the copies that wait, one of which is made in a tick."""
    turnstile = Turnstile("test", parse_model_config({"backend": "stub", "context_opts": {"n_seq_max": 3}}))
    async with engine(turnstile) as driver:
        few = {"limit": 20} if isinstance(job, Grant) else {"max_new_tokens": 100}
        driver.thread.submit(generate(1, prompts(1)[0], **few))
        driver.thread.submit(generate(2, range(10), seq_id=1, max_new_tokens=100))
        await until(lambda: turnstile.begun == 1)
        for again in (*[ROW] * 32, job):
            driver.thread.submit(again)
        turnstile.permits.release(200)
        end = await driver.until(ends(1))
        before = driver.outcomes[: driver.outcomes.index(end)]
    assert len([outcome for outcome in before if isinstance(outcome, Restored)]) < 16


async def test_a_grant_waits_for_the_drop_that_its_cells_come_from(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many copies are before that."""
    backend = stub(context_opts={"n_ctx": 40, "n_batch": 16, "n_ubatch": 8, "n_seq_max": 3})
    async with engine(backend) as driver:
        driver.thread.submit(generate(1, range(16), max_new_tokens=0, seq_id=2))
        await driver.until(ends(1))
        taken, go_on = threading.Event(), threading.Event()
        held = backend.capture

        def capture(*args: Any) -> Any:
            taken.set()
            go_on.wait(20)
            return held(*args)

        monkeypatch.setattr(backend, "capture", capture)
        driver.thread.submit(generate(2, range(20), max_new_tokens=20, limit=20))
        copy = Capture(request_id=-1, seq_id=2, start=0, end=16, reason="evict")
        driver.thread.submit(copy)
        await until(taken.is_set)
        then: list[Job] = [*[copy] * 12, Drop(2), Grant(2, 40)]
        for job in then:
            driver.thread.submit(job)
        go_on.set()
        assert isinstance(await driver.until(ends(2)), Finished)


async def test_a_cancel_of_nothing_does_nothing() -> None:
    """An id that is over or never was; the next request is served."""
    async with engine(stub()) as driver:
        driver.thread.submit(Cancel(77))
        driver.thread.submit(generate(1, range(5)))
        assert isinstance(await driver.until(ends(1)), Finished)


async def test_a_bad_grammar_fails_its_request_only() -> None:
    """The thread lives and serves the next."""
    async with engine(stub()) as driver:
        sampling = Sampling(grammar="nothing here")
        driver.thread.submit(generate(1, range(5), sampling=sampling))
        failed = await driver.until(ends(1))
        assert isinstance(failed, Failed)
        assert failed.failure.kind == "InvalidGrammar"
        driver.thread.submit(generate(2, range(5)))
        assert isinstance(await driver.until(ends(2)), Finished)


async def test_a_full_cache_fails_its_request_only() -> None:
    """Cells that run out are no reason to end the engine."""
    async with engine(stub(context_opts={"n_ctx": 16, "n_batch": 16})) as driver:
        driver.thread.submit(generate(1, range(12), max_new_tokens=50))
        failed = await driver.until(ends(1))
        assert isinstance(failed, Failed)
        error = failed.failure.error()
        assert isinstance(error, ContextOverflow)
        assert (error.prompt_tokens, error.n_ctx) == (12, 16)


@pytest.mark.parametrize(("where", "error"), [("thread", DrillFault), ("decode", BackendFailure)])
async def test_a_fault_ends_the_thread_and_says_so_last(where: Any, error: type[Exception]) -> None:
    """`Died` is the last outcome, `failure` the cause, and the backend is closed."""
    async with engine(stub()) as driver:
        driver.thread.submit(Fault(where))
        driver.thread.submit(generate(1, range(5)))
        await driver.thread.ended.wait()
        assert isinstance(driver.outcomes[-1], Died)
        assert isinstance(driver.thread.failure, error)
        assert driver.backend.vocabulary.closed


async def test_a_failed_load_raises_its_own_error_and_closes_the_backend() -> None:
    """The first error is the one that is seen."""
    backend = stub(fail_load=True)
    driver = Driver(backend)
    with pytest.raises(ModelLoadError):
        await driver.thread.load(lambda done: None)
    await driver.thread.ended.wait()
    assert backend.vocabulary.closed


async def test_a_load_reports_progress_up_to_one_and_can_be_stopped() -> None:
    """Stopped half-way, it frees what it had and tells no outcome."""
    told: list[float] = []
    driver = Driver(stub())
    await driver.thread.load(told.append)
    assert told == sorted(told)
    assert told[-1] == 1.0
    assert await driver.thread.stop(20)

    slow = Driver(stub(load_seconds=3600.0))
    async with anyio.create_task_group() as group:

        async def load() -> None:
            with pytest.raises(LoadCancelled):
                await slow.thread.load(lambda done: None)

        group.start_soon(load)
        await anyio.lowlevel.checkpoint()
        assert await slow.thread.stop(20)
    assert slow.backend.vocabulary.closed
    assert slow.outcomes == []


async def test_a_hanging_decode_is_reported_by_stop_not_waited_for() -> None:
    """`stop` answers false when the deadline has passed, and true once the decode comes back."""
    async with engine(stub(hang_decode_after=0)) as driver:
        driver.thread.submit(generate(1, range(5)))
        while not driver.backend.hung.is_set():
            await anyio.lowlevel.checkpoint()
        assert not await driver.thread.stop(0.0)


async def test_an_idle_thread_does_not_keep_its_last_prompt() -> None:
    """It lets go of the job before it waits for the next."""

    class Tokens(list[int]):
        pass

    async with engine(stub()) as driver:
        tokens = Tokens(range(100))
        gone = weakref.ref(tokens)
        driver.thread.submit(msgspec.structs.replace(generate(1, []), tokens=tokens))
        await driver.until(ends(1))
        del tokens
        # A job that does nothing: once it is taken, the frame of the one before is gone.
        driver.thread.submit(Cancel(99))
        driver.thread.submit(generate(2, [1]))
        await driver.until(ends(2))
        driver.batches.clear()
        gc.collect()
        assert gone() is None


async def test_outcomes_after_the_loop_is_gone_are_dropped() -> None:
    """A daemon thread that outlives its loop ends by itself instead of raising."""
    backend = stub()
    made: list[EngineThread] = []

    async def other_loop() -> None:
        driver = Driver(backend)
        await driver.thread.load(lambda done: None)
        made.append(driver.thread)

    def run() -> None:
        asyncio.run(other_loop())

    await anyio.to_thread.run_sync(run)
    made[0].submit(generate(1, range(5)))
    await anyio.to_thread.run_sync(made[0]._thread.join, 20)
    assert not made[0]._thread.is_alive()
