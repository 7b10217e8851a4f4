"""Cells out of and into sequences while the engine thread works: what is copied when, and what is put back."""

from __future__ import annotations

import gc
import itertools
from typing import Any

import pytest
from helpers.engine import Driver, ends, engine, generate, stub
from helpers.runtime import until

from erllama_py.buffers import GRAIN, BufferPool
from erllama_py.engine.cells import Cells
from erllama_py.engine.jobs import (
    Cancel,
    Capture,
    Captured,
    CapturePlan,
    Drop,
    Finished,
    Outcome,
    PromptLogits,
    Restore,
    Restored,
    Text,
)
from erllama_py.engine.stub import StubBackend
from erllama_py.options.model import parse_model_config

pytestmark = pytest.mark.anyio

KINDS = [{"memory": "full"}, {"memory": "window", "n_swa": 16}, {"memory": "recurrent"}, {"memory": "hybrid"}]
SMALL = {"n_batch": 32, "n_ubatch": 8}


def plan(*prompt_ends: int, captured_to: int = 0, interval: int = 1000, min_tokens: int = 0) -> CapturePlan:
    return CapturePlan(captured_to=captured_to, prompt_ends=prompt_ends, interval=interval, min_tokens=min_tokens)


def captures(driver: Driver) -> list[Captured]:
    return [outcome for outcome in driver.outcomes if isinstance(outcome, Captured)]


async def finish(driver: Driver, request_id: int) -> Finished:
    done = await driver.until(ends(request_id))
    assert isinstance(done, Finished), done
    return done


def restore(copied: Captured, request_id: int, seq_id: int = 0) -> Restore:
    assert copied.payload is not None
    return Restore(
        request_id=request_id, seq_id=seq_id, start=copied.start, end=copied.end, payload=copied.payload.toreadonly()
    )


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind["memory"])
async def test_ranges_follow_each_other_and_end_where_they_should(kind: dict[str, Any]) -> None:
    """Prompt ends, then every interval of the reply, then the sequence's end; each starts where the last ended."""
    async with engine(stub(**kind, context_opts=SMALL)) as driver:
        driver.thread.submit(generate(1, range(70), max_new_tokens=20, saves=plan(20, 33, 60, interval=8)))
        done = await finish(driver, 1)
    copied = captures(driver)
    generated = len(done.token_ids)
    expected = [20, 33, 60, *range(78, done.held + 1, 8)]
    if done.held not in expected:
        expected.append(done.held)
    assert [one.end for one in copied] == expected
    assert [one.start for one in copied] == [0, *expected[:-1]]
    reasons = [one.reason for one in copied]
    assert reasons[:3] == ["cold"] * 3
    assert set(reasons[3:]) <= {"continued", "finish"}
    assert all(one.generated == done.token_ids[: max(0, one.end - 70)] for one in copied)
    assert done.captured_to == done.held == 70 + generated - (done.reason == "length")


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind["memory"])
async def test_a_restored_chain_goes_on_as_the_live_sequence_did(kind: dict[str, Any]) -> None:
    """Row by row into an emptied sequence, then the same reply; at each boundary of the chain."""
    prompt = list(range(100, 170))
    async with engine(stub(**kind, context_opts=SMALL)) as driver:
        driver.thread.submit(generate(1, prompt, saves=plan(20, 33, 60)))
        first = await finish(driver, 1)
        copied = captures(driver)
        for number, boundary in enumerate((20, 33, 60), 2):
            driver.thread.submit(Drop(0))
            for one in copied:
                if one.end <= boundary:
                    driver.thread.submit(restore(one, number))
            driver.thread.submit(generate(number, prompt, keep=boundary))
            again = await finish(driver, number)
            assert (again.text, again.prefill_tokens) == (first.text, 70 - boundary)
    assert all(outcome.ok for outcome in driver.outcomes if isinstance(outcome, Restored))


async def test_a_row_in_the_wrong_place_is_refused_and_the_rest_stays() -> None:
    """A gap is no chain: the sequence keeps what it had, and says how much that is."""
    prompt = list(range(100, 170))
    async with engine(stub(context_opts=SMALL)) as driver:
        driver.thread.submit(generate(1, prompt, saves=plan(20, 40, 60)))
        await finish(driver, 1)
        first, _, third = captures(driver)[:3]
        driver.thread.submit(Drop(0))
        driver.thread.submit(restore(first, 2))
        driver.thread.submit(restore(third, 2))
        refused = await driver.until(lambda outcome: isinstance(outcome, Restored) and not outcome.ok)
    assert isinstance(refused, Restored)
    assert (refused.end, refused.held) == (third.end, 20)


async def test_without_a_buffer_nothing_is_copied_and_the_next_range_is_longer() -> None:
    """Decoding never waits for room: the range is skipped and reported, and no hole is left."""
    buffers = BufferPool(GRAIN)
    held = buffers.take(1)
    async with engine(stub(context_opts=SMALL), buffers) as driver:
        driver.thread.submit(generate(1, range(70), max_new_tokens=0, saves=plan(20, 40)))
        await finish(driver, 1)
        assert [(one.start, one.end, one.payload, one.skipped) for one in captures(driver)] == [
            (0, 20, None, "no_buffer"), (0, 40, None, "no_buffer"), (0, 70, None, "no_buffer"),
        ]  # fmt: skip
        del held
        driver.batches.clear()
        gc.collect()
        driver.thread.submit(generate(2, range(70), keep=69, max_new_tokens=0, saves=plan()))
        done = await finish(driver, 2)
    assert [(one.start, one.end, one.skipped) for one in captures(driver)] == [(0, 70, None)]
    assert done.captured_to == 70


@pytest.mark.parametrize(("nbytes", "skipped"), [(GRAIN, "no_buffer"), (GRAIN + 1, "too_large")])
def test_a_range_that_no_buffer_will_ever_hold_is_reported_as_too_large(nbytes: int, skipped: str) -> None:
    """Buffers are lent in whole MiB, so what is left of the budget beside those is none."""

    class Backend(StubBackend):
        def capture(self, seq_id: int, start: int, end: int, take: Any) -> memoryview | None:
            return take(nbytes)  # type: ignore[no-any-return]  # it is what the cells pass

    buffers = BufferPool(2 * GRAIN - 1)
    held = buffers.take(1)
    cells = Cells(Backend("m", parse_model_config({"backend": "stub"})), buffers)
    assert cells.capture(1, 0, 0, 10, "evict", []).skipped == skipped
    del held
    assert (cells.capture(2, 0, 0, 10, "evict", []).payload is None) == (skipped == "too_large")


async def test_buffers_come_back_when_nothing_holds_the_bytes() -> None:
    """An outcome that is let go of gives its memory back."""
    buffers = BufferPool(64 * GRAIN)
    async with engine(stub(), buffers) as driver:
        driver.thread.submit(generate(1, range(70), max_new_tokens=0, saves=plan(20, 40)))
        await finish(driver, 1)
        assert buffers.leased == 3 * GRAIN
        driver.batches.clear()
        gc.collect()
        await until(lambda: buffers.leased == 0)  # the thread lets go of what it has posted by itself


async def test_a_token_does_not_wait_for_the_copy_after_it() -> None:
    """What was drawn in a tick is posted before cells are copied in it."""
    async with engine(stub()) as driver:
        driver.thread.submit(generate(1, range(40), stream=True, saves=plan(20)))
        await finish(driver, 1)
    place = {kind: next(n for n, batch in enumerate(driver.batches) if any(isinstance(one, kind) for one in batch))
             for kind in (Text, Captured)}  # fmt: skip
    assert place[Text] < place[Captured]


async def test_a_prompt_that_is_kept_whole_needs_no_decode() -> None:
    """With the logits at its end the first token is drawn at once, and it is the one that a decode would give."""
    async with engine(stub()) as driver:
        driver.thread.submit(generate(1, range(40), keep_logits=True, max_new_tokens=4))
        first = await finish(driver, 1)
        logits = next(outcome.logits for outcome in driver.outcomes if isinstance(outcome, PromptLogits))
        decodes = driver.backend.decodes
        driver.thread.submit(generate(2, range(40), keep=40, logits=logits, max_new_tokens=1))
        again = await finish(driver, 2)
        assert driver.backend.decodes == decodes
    assert (again.token_ids, again.prefill_tokens, again.decodes) == (first.token_ids[:1], 0, 0)


async def test_a_prompt_without_a_reply_is_computed_and_saved() -> None:
    """No token is drawn, and the whole prompt is copied out."""
    async with engine(stub()) as driver:
        driver.thread.submit(generate(1, range(40), max_new_tokens=0, saves=plan(32)))
        done = await finish(driver, 1)
    assert (done.token_ids, done.held, done.captured_to) == ([], 40, 40)
    assert [(one.start, one.end) for one in captures(driver)] == [(0, 32), (32, 40)]


async def test_an_idle_sequence_is_copied_on_demand() -> None:
    """With the reason that was asked for, and only what was asked for."""
    async with engine(stub()) as driver:
        driver.thread.submit(generate(1, range(40), max_new_tokens=0))
        await finish(driver, 1)
        driver.thread.submit(Capture(request_id=9, seq_id=0, start=8, end=40, reason="evict"))
        copied = await driver.until(lambda outcome: isinstance(outcome, Captured))
    assert isinstance(copied, Captured)
    assert (copied.request_id, copied.start, copied.end, copied.reason) == (9, 8, 40, "evict")


async def test_a_stopped_prefill_leaves_what_it_computed() -> None:
    """The cells that were decoded before the cancel are copied out when the request ends."""
    backend = stub(context_opts={"n_batch": 8, "n_ubatch": 8}, hang_decode_after=3)
    async with engine(backend) as driver:
        driver.thread.submit(generate(1, range(80), saves=plan(64)))
        await until(backend.hung.is_set)
        driver.thread.submit(Cancel(1))
        backend.release.set()
        done = await finish(driver, 1)
    assert done.reason == "cancelled"
    assert done.held >= 24
    assert [(one.start, one.end, one.reason) for one in captures(driver)] == [(0, done.held, "finish")]


async def test_keeping_more_than_there_is_computes_all_of_it_rather_than_lying() -> None:
    """A wrong count of kept tokens costs time, not a wrong reply, and not the engine either."""
    async with engine(stub()) as driver:
        driver.thread.submit(generate(1, range(60)))
        right = await finish(driver, 1)
        driver.thread.submit(Drop(0))
        driver.thread.submit(generate(2, range(60), keep=50))
        again = await finish(driver, 2)
    assert (again.text, again.prefill_tokens, again.held) == (right.text, 60, right.held)


async def test_rows_go_in_one_by_one_while_another_sequence_decodes() -> None:
    """Between two rows there is a decode of the sequence that runs."""
    prompt = list(range(100, 170))
    async with engine(stub(context_opts={"n_seq_max": 2})) as driver:
        driver.thread.submit(generate(1, prompt, max_new_tokens=0, saves=plan(20, 40, 60)))
        await finish(driver, 1)
        rows = captures(driver)[:3]
        before = len(driver.outcomes)
        driver.thread.submit(generate(2, [7, 8, 9], seq_id=1, max_new_tokens=500, stream=True))
        for row in rows:
            driver.thread.submit(restore(row, 3))
        await driver.until(lambda outcome: isinstance(outcome, Restored) and outcome.end == 60)
        await finish(driver, 2)
    seen: list[Outcome] = driver.outcomes[before:]
    places = [place for place, outcome in enumerate(seen) if isinstance(outcome, Restored)]
    assert len(places) == 3
    for left, right in itertools.pairwise(places):
        assert any(isinstance(outcome, Text) for outcome in seen[left:right])


@pytest.mark.parametrize("memory", ["recurrent", "hybrid"])
async def test_a_recurrent_state_is_copied_where_the_prompt_ends_before_it_moves_on(memory: str) -> None:
    """Also when nothing of the prompt had to be computed: the state is there only until the next decode."""
    async with engine(stub(memory=memory)) as driver:
        driver.thread.submit(generate(1, range(40), keep_logits=True, max_new_tokens=0))
        await finish(driver, 1)
        logits = next(outcome.logits for outcome in driver.outcomes if isinstance(outcome, PromptLogits))
        driver.thread.submit(generate(2, range(40), keep=40, logits=logits, max_new_tokens=4, saves=plan(40)))
        await finish(driver, 2)
    first = captures(driver)[0]
    assert (first.start, first.end, first.skipped) == (0, 40, None)
