"""`n` replies to one prompt: each as if asked for alone, all or none, and the prompt computed once."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from helpers.both_backends import BACKENDS, loaded
from helpers.gated import UNLUCKY, arrived, gated
from helpers.runtime import stub_runtime, until
from helpers.tiny_gguf import KINDS, Kind

import erllama_py as erllama
from erllama_py.errors import SamplerFailed
from erllama_py.model import open_request

pytestmark = pytest.mark.anyio

HOT: dict[str, Any] = {"response_tokens": 10, "seed": 5}
PROMPT = "once upon a time there was a user who asked for a story of her own, and then for another one"


async def at_rest(model: erllama.Model) -> None:
    """Wait until nothing runs or waits."""
    await until(lambda: model.queue_depth == 0 and model.phase == "idle")


async def test_each_reply_is_what_its_seed_gives_alone() -> None:
    """The first is the completion itself; they have the seeds from `seed` on."""
    async with stub_runtime() as (_, model):
        alone = [(await model.complete(PROMPT, response_tokens=10, seed=seed)).reply for seed in (5, 6, 7, 8)]
        done = await model.complete(PROMPT, n=4, **HOT)
    assert [one.reply for one in done.alternatives] == alone
    assert [one.stats.seed for one in done.alternatives] == [5, 6, 7, 8]
    assert len(set(alone)) > 1
    assert (done.reply, done.generated) == (done.alternatives[0].reply, done.alternatives[0].generated)
    assert [one.alternatives for one in done.alternatives] == [()] * 4


async def test_one_reply_has_no_alternatives() -> None:
    """`n` is 1 by itself; the last seed, which draws what the first does, is followed by the second."""
    async with stub_runtime() as (_, model):
        assert (await model.complete(PROMPT, **HOT)).alternatives == ()
        last = await model.complete(PROMPT, n=2, response_tokens=2, seed=(1 << 32) - 1)
    assert [one.stats.seed for one in last.alternatives] == [(1 << 32) - 1, 1]


async def test_the_prompt_is_computed_once(model: erllama.Model) -> None:
    """By the first; the others share its cells and compute the last token, to draw from."""
    done = await model.complete(PROMPT, n=4, **HOT)
    first, *others = done.alternatives
    assert first.stats.prefill_tokens == first.prompt_tokens
    assert [one.stats.prefill_tokens for one in others] == [1, 1, 1]
    assert [one.cache_hit_kind for one in done.alternatives] == ["cold", "live", "live", "live"]


async def test_they_are_decoded_side_by_side() -> None:
    """All four are rows of one decode, a few decodes after the first has read the prompt."""
    async with gated() as (_, model, gate), model.stream(PROMPT, n=4, seed=5, ignore_eos=True) as events:
        for _ in range(50):
            await gate.shut(1)
            if len(gate.parts[-1]) == 4:
                break
        assert len(gate.parts[-1]) == 4
        events.cancel()


@pytest.mark.either_loop
@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", KINDS)
async def test_every_kind_of_memory_gives_them(tmp_path: Path, backend: str, kind: Kind) -> None:
    """Also more of them than there are sequences, in turns; where cells cannot be shared each computes the prompt."""
    async with loaded(backend, tmp_path, kind) as model:
        done = await model.complete(PROMPT, n=7, **HOT)
        assert len(done.alternatives) == 7
        for one in done.alternatives:
            assert one.finish_reason in ("length", "stop")
            assert one.prompt_tokens == done.prompt_tokens
        await at_rest(model)


async def test_the_events_of_all_come_with_their_index(model: erllama.Model) -> None:
    """One stream, one `Done`; put together by index they are the replies."""
    async with model.stream(PROMPT, n=3, logprobs=0, **HOT) as events:
        seen = [event async for event in events]
    done = seen[-1]
    assert isinstance(done, erllama.Done)
    texts, tokens = ["", "", ""], [0, 0, 0]
    for event in seen[:-1]:
        assert isinstance(event, erllama.TextDelta | erllama.Progress)
        if isinstance(event, erllama.TextDelta):
            texts[event.index] += event.text
            tokens[event.index] += len(event.logprobs or ())
    assert texts == [one.reply for one in done.completion.alternatives]
    assert min(tokens) > 0
    assert {event.index for event in seen[:-1] if isinstance(event, erllama.Progress)} == {0, 1, 2}


async def test_chats_have_alternatives_and_sessions_refuse_them(model: erllama.Model) -> None:
    """A conversation goes on from one reply; before anything is asked of the model."""
    said = [{"role": "user", "content": "hello"}]
    assert len((await model.chat(said, n=2, **HOT)).alternatives) == 2
    wrong: dict[str, Any] = {"n": 2}
    async with model.session() as session:
        with pytest.raises(erllama.InvalidOption, match="a session goes on from one reply"):
            await session.chat("hello", **wrong)
        assert session.messages == []
    with pytest.raises(erllama.InvalidOption, match="a session goes on from one reply"):
        await model.complete("hello", session_id="mine", **wrong)
    with pytest.raises(erllama.InvalidOption, match="all replies would be the same"):
        await model.complete("hello", temperature=0.0, **wrong)


async def test_a_prompt_that_is_only_computed_is_so_once(model: erllama.Model) -> None:
    """There is no reply to draw twice."""
    done = await model.prefill_only(PROMPT, n=4)
    assert (done.alternatives, done.stats.prefill_tokens) == ((), done.prompt_tokens)


# --- cancelled, late, failed, left -------------------------------------------------------------------------------


async def test_a_cancel_by_id_or_by_stream_ends_all() -> None:
    """Each with what it has."""
    async with gated() as (_, model, gate):
        for by_id in (True, False):
            async with model.stream(PROMPT, n=3, seed=5, ignore_eos=True) as events:
                await gate.shut(3)
                if by_id:
                    model.cancel(events.request_id)
                else:
                    events.cancel()
                gate.gate.set()
                done = [event async for event in events][-1]
            assert isinstance(done, erllama.Done)
            assert [one.finish_reason for one in done.completion.alternatives] == ["cancelled"] * 3
            await at_rest(model)
        assert model._board.alternatives == {}


@pytest.mark.slow
async def test_a_cancel_by_id_ends_the_others_when_the_first_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """The id is that of all of them."""
    monkeypatch.setattr(open_request, "SETTLE_SECONDS", 0.0)
    async with gated() as (_, model, gate):
        gate.gate.set()
        ends = [(await model.complete(PROMPT, seed=seed, response_tokens=40)).finish_reason for seed in range(40)]
        seed = next(seed for seed in range(39) if ends[seed : seed + 2] == ["stop", "length"])
        gate.gate.clear()
        async with model.stream(PROMPT, n=2, seed=seed) as events:
            await arrived(model, 2)
            for _ in range(40):
                await gate.shut(1)
                if model.queue_depth == 1:
                    break
            model.cancel(events.request_id)
            done = [event async for event in events][-1]
        assert isinstance(done, erllama.Done)
        assert [one.finish_reason for one in done.completion.alternatives] == ["stop", "cancelled"]


async def test_a_stream_that_is_left_ends_all() -> None:
    """Nothing of it goes on."""
    async with gated() as (_, model, gate):
        async with model.stream(PROMPT, n=3, seed=5):
            await gate.shut(3)
        gate.gate.set()
        await at_rest(model)
        assert model._board.alternatives == {}


async def test_a_caller_that_is_cancelled_ends_all() -> None:
    """Those that wait for a sequence too."""
    async with gated() as (_, model, gate):
        waiting = asyncio.ensure_future(model.complete(PROMPT, n=12, seed=5))
        await arrived(model, 12)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        gate.gate.set()
        await at_rest(model)
        assert model._board.alternatives == {}


async def test_a_deadline_is_that_of_all() -> None:
    """Those that never had a sequence are there with nothing; one that passes before there is a request gives all."""
    async with gated() as (_, model, gate):
        waiting = asyncio.ensure_future(model.complete(PROMPT, n=10, seed=5, deadline=0.05))
        await arrived(model, 10)
        done = await waiting
        assert [one.finish_reason for one in done.alternatives] == ["deadline"] * 10
        late = await model.complete(PROMPT * 100, n=3, seed=5, deadline=1e-6)
        assert [one.finish_reason for one in late.alternatives] == ["deadline"] * 3
        gate.gate.set()
        await at_rest(model)


async def test_one_that_fails_fails_the_call_and_ends_the_others() -> None:
    """With its own error, and nothing is left over."""
    async with gated() as (_, model, gate):
        gate.gate.set()
        with pytest.raises(SamplerFailed, match="the draw failed"):
            await model.complete(PROMPT, n=4, seed=UNLUCKY - 2, response_tokens=3000)
        await at_rest(model)
        assert model._board.alternatives == {}


async def test_a_crash_fails_the_call_once() -> None:
    """As that of a single request."""
    async with gated() as (_, model, gate):
        waiting = asyncio.ensure_future(model.complete(PROMPT, n=3, seed=5, on_crash="fail"))
        await arrived(model, 3)
        model.inject_fault()
        gate.gate.set()
        with pytest.raises(erllama.ModelCrashed):
            await waiting
        assert model._board.alternatives == {}


@pytest.mark.parametrize("where", ["actor", "decode"])
async def test_all_go_on_after_a_crash(where: Any) -> None:
    """Each draws what it would have drawn."""
    async with gated() as (_, model, gate):
        gate.gate.set()
        alone = await model.complete(PROMPT, n=3, seed=5, response_tokens=30, ignore_eos=True)
        gate.shut_after = len(gate.backends[0].parts) + 10
        waiting = asyncio.ensure_future(model.complete(PROMPT, n=3, seed=5, response_tokens=30, ignore_eos=True))
        await until(lambda: not gate.gate.is_set())
        model.inject_fault(where)
        gate.shut_after = None
        gate.gate.set()
        done = await waiting
        assert [one.generated for one in done.alternatives] == [one.generated for one in alone.alternatives]
        assert (model._board.alternatives, model._board.calls) == ({}, {})
        assert model.info.restarts == 1


# --- the queue ---------------------------------------------------------------------------------------------------


async def test_a_full_queue_refuses_all_and_a_place_in_it_lets_all_in() -> None:
    """The first needs room like any other request, and brings the rest with it."""
    limits: Any = {"n_ctx": 4096, "n_seq_max": 2}
    async with gated(context=limits, scheduler={"max_pending": 2}) as (_, model, gate):
        crowd = [asyncio.ensure_future(model.complete(f"{PROMPT} {k}", seed=1, response_tokens=2)) for k in range(3)]
        await arrived(model, 3)
        rest = asyncio.ensure_future(model.complete(PROMPT, n=6, **HOT))
        await arrived(model, 9)
        with pytest.raises(erllama.QueueFull):
            await model.complete(PROMPT, n=3, **HOT)
        assert model.queue_depth == 9
        gate.gate.set()
        assert len((await rest).alternatives) == 6
        await asyncio.gather(*crowd)
        await at_rest(model)
