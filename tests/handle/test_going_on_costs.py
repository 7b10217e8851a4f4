"""What requests cost that go on after a crash, and what they do not survive."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest
from helpers.coming_back import coming_back, crash
from helpers.runtime import STUB, until
from helpers.tiny_gguf import tiny_gguf

import erllama_py as erllama
from erllama_py.handle.caller import Caller
from erllama_py.handle.scores import Scoring

pytestmark = pytest.mark.anyio
GREEDY: dict[str, Any] = {"temperature": 0.0, "response_tokens": 60, "ignore_eos": True}
PROMPT = "hello again and again"


async def test_all_that_was_computed_is_charged_once() -> None:
    """Also what was computed again: at the end, with what the completion says."""
    spent = list[int]()
    async with coming_back() as (_, model, comings):
        with erllama.metered(spent.append):
            alone = await model.complete(PROMPT, **GREEDY)
            assert sum(spent) == alone.stats.prefill_tokens + 60
            await model.complete("another prompt, so that nothing is live", response_tokens=1)
            spent.clear()
            async with model.stream(PROMPT, **GREEDY) as stream:
                told = 0
                async for event in stream:
                    told += isinstance(event, erllama.TextDelta)
                    if told == 10 and not model.info.restarts:
                        await crash(model, comings)
                        comings.back.set()
        await until(lambda: bool(spent))
        assert isinstance(event, erllama.Done)
        stats = event.completion.stats
        assert sum(spent) == stats.prefill_tokens + 60
        assert stats.prefill_tokens >= alone.stats.prefill_tokens + 10


async def test_what_was_computed_is_charged_where_it_ends_between_two_lives() -> None:
    """Its prompt and what there is of its reply; and where nothing is, the prompt as far as it was read."""
    spent = list[int]()
    async with coming_back() as (_, model, comings):
        with erllama.metered(spent.append):
            async with model.stream(PROMPT, **GREEDY) as stream:
                async for event in stream:
                    if isinstance(event, erllama.TextDelta):
                        break
                await crash(model, comings)
                stream.cancel()
                last = [event async for event in stream][-1]
        await until(lambda: bool(spent))
        assert isinstance(last, erllama.Done)
        prompt = last.completion.prompt_tokens
        assert sum(spent) == prompt + len(last.completion.generated)


async def test_what_was_restored_is_not_charged() -> None:
    """Of a prompt that is read in three lives, each of which begins with the rows of those before."""
    spent, at = list[int](), [200, 400]
    context = {"n_ctx": 2048, "n_seq_max": 1, "n_batch": 32, "n_ubatch": 16}
    policy = {"min_tokens": 8, "boundary_align_tokens": 16, "boundary_trim_tokens": 4}
    async with coming_back(context_opts=context, policy=policy) as (_, model, comings):
        with erllama.metered(spent.append):
            async with model.stream("0123456789" * 60, **GREEDY) as stream:
                async for event in stream:
                    if isinstance(event, erllama.Progress) and at and event.done >= at[0]:
                        del at[0]
                        await crash(model, comings, "thread")
                        comings.back.set()
        await until(lambda: bool(spent))
        assert isinstance(event, erllama.Done)
        assert event.completion.stats.crashes == 2
        assert event.completion.stats.prefill_tokens < 400
        computed = model.counters.computed_tokens
        assert 600 < sum(spent) <= computed + 60


async def test_what_is_cancelled_between_two_lives_tells_what_was_computed_of_it() -> None:
    """As far as its model had told."""
    async with coming_back() as (_, model, comings), model.stream(PROMPT, **GREEDY) as stream:
        tokens = 0
        async for event in stream:
            tokens += isinstance(event, erllama.TextDelta)
            if tokens == 3:
                break
        await crash(model, comings)
        stream.cancel()
        last = [event async for event in stream][-1]
        assert isinstance(last, erllama.Done)
        stats = last.completion.stats
        assert stats.prefill_tokens == last.completion.prompt_tokens
        assert stats.decodes == len(last.completion.generated) - 1


async def test_what_is_cancelled_before_its_next_engine_begins_tells_of_the_first_one() -> None:
    """It waits for a place, since another goes first: what it has computed is charged, and it tells how it began."""
    spent = list[int]()
    async with coming_back() as (_, model, comings):
        await model.complete(PROMPT, **GREEDY)
        with erllama.metered(spent.append):
            entered = await model.stream(PROMPT, priority=0, **GREEDY | {"response_tokens": 900}).__aenter__()
        while not isinstance(await anext(entered), erllama.TextDelta):
            pass
        first = asyncio.create_task(model.complete("another", priority=1, **GREEDY | {"response_tokens": 900}))
        await until(lambda: model.counters.parked == 1)
        await crash(model, comings)
        comings.back.set()
        await until(lambda: model.phase == "generating" and model.counters.waiting == 1)
        entered.cancel()
        last = [event async for event in entered][-1]
        await entered.__aexit__(None, None, None)
        assert isinstance(last, erllama.Done)
        done = last.completion
        assert (done.cache_hit_kind, done.stats.miss_reason, done.stats.crashes) == ("live", None, 1)
        assert done.cache_delta.read == done.prompt_tokens - done.stats.prefill_tokens > 0
        await until(lambda: bool(spent))
        assert sum(spent) >= done.stats.prefill_tokens + len(done.generated)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)


@pytest.mark.slow
async def test_a_file_that_was_replaced_is_another_model(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What was said is not continued by it, which the log tells; the next request is answered by it."""
    path, other = tiny_gguf("dense", tmp_path), tiny_gguf("window", tmp_path)
    config: Any = {**STUB, "backend": "llama", "model_path": path}
    async with erllama.Runtime() as runtime:
        model = await runtime.load_model("m", config)
        async with model.stream("hello", **GREEDY | {"response_tokens": 1500}) as stream:
            await anext(stream)
            os.replace(other, path)
            model.inject_fault("actor")
            with pytest.raises(erllama.ModelCrashed, match="its file has changed"):
                [event async for event in stream]
        assert sum("its model came back as another one" in one.getMessage() for one in caplog.records) == 1
        assert (await model.complete("hello", response_tokens=2)).generated


@pytest.mark.parametrize("scores", [False, True])
async def test_a_request_that_was_made_for_another_file_is_not_computed(
    scores: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its model has crashed and come back before it was asked: what is saved is known by the file that it is of."""
    made_by: Any = Scoring._other if scores else Caller.request

    async def made(*args: Any, **given: Any) -> Any:
        request, board = await made_by(*args, **given), model._board
        assert board.identity is not None
        board.identity = msgspec.structs.replace(board.identity, fingerprint=bytes(32))
        return request

    async with coming_back() as (_, model, _comings):
        if scores:
            monkeypatch.setattr(Scoring, "_other", made)
        else:
            monkeypatch.setattr(Caller, "request", made)
        with pytest.raises(erllama.ModelCrashed, match="its file has changed"):
            await (model.score("hello", ["so", "or so"]) if scores else model.complete("hello", **GREEDY))
        assert model.queue_depth == 0
