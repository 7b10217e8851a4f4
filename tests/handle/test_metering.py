"""What calls tell the meter of who pays: all that was computed, be there a caller for the result or not."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from helpers.embedding import TEXTS, encoder
from helpers.gated import UNLUCKY, arrived, gated
from helpers.runtime import drain, stub_runtime, until

import erllama_py as erllama
from erllama_py.model import open_request

pytestmark = pytest.mark.anyio
ALTERNATIVES = 3


async def test_a_call_tells_what_it_computed() -> None:
    """Of a prompt what the cache did not have, and the reply, each once; outside of the block nothing is told."""
    spent = list[int]()
    async with stub_runtime() as (_, model):
        with erllama.metered(spent.append):
            done = await model.complete("a prompt that is new", response_tokens=5, ignore_eos=True)
            assert spent == [done.stats.prefill_tokens + 5]
            again = await model.complete("a prompt that is new", response_tokens=5, ignore_eos=True)
            assert spent[1:] == [again.stats.prefill_tokens + 5]
            assert again.stats.prefill_tokens < done.stats.prefill_tokens
            await drain(model.stream("another", response_tokens=2, ignore_eos=True))
            warm = await model.prefill_only("a third one")
            assert spent[3:] == [warm.stats.prefill_tokens]
        await model.complete("nobody pays", response_tokens=1)
    assert len(spent) == 4


async def test_calls_that_are_made_of_others_tell_of_each() -> None:
    """Alternatives, scores, rankings by them: also of documents that are not among those that are shown."""
    spent = list[int]()
    async with stub_runtime() as (_, model):
        with erllama.metered(spent.append):
            done = await model.complete("several", response_tokens=4, ignore_eos=True, n=ALTERNATIVES)
            assert len(spent) == ALTERNATIVES
            assert sum(spent) >= done.stats.prefill_tokens + ALTERNATIVES * 4
            spent.clear()
            scores = await model.score("a prompt", ["one", "two"])
            assert sum(spent) == scores.prefill_tokens
            spent.clear()
            ranking = await model.rerank("a query", TEXTS, method="score", top_n=1)
            assert len(ranking) == 1
            assert sum(spent) > sum(map(len, TEXTS))


@pytest.mark.parametrize("engine", ["answers", "is busy"])
async def test_a_call_that_is_cancelled_tells_what_it_had_computed(
    engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once the engine has ended it: after its caller has gone, and after the caller has had an answer without it."""
    if engine == "is busy":
        monkeypatch.setattr(open_request, "SETTLE_SECONDS", 0.0)
    spent = list[int]()
    async with gated() as (_, model, gate):

        async def ask() -> None:
            with erllama.metered(spent.append):
                await model.complete("hello", response_tokens=1000, ignore_eos=True)

        asking = asyncio.create_task(ask())
        await arrived(model, 1)
        await gate.shut(5)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await until(lambda: model.counters.finished.get("cancelled", 0) == (engine == "is busy"))
        assert not spent
        gate.gate.set()
        await until(lambda: bool(spent))
        assert gate.computed <= spent[0] <= gate.computed + 1  # the last token is not computed any more


async def test_a_call_that_fails_tells_what_it_had_computed() -> None:
    """Its prompt, and the reply as far as it came: whoever pays for the other failures would else ask for free."""
    spent = list[int]()
    async with gated() as (_, model, gate):
        gate.gate.set()
        with erllama.metered(spent.append), pytest.raises(erllama.SamplerFailed):
            await model.complete("a prompt that is new", seed=UNLUCKY, temperature=1.0, response_tokens=50)
        await until(lambda: bool(spent))
        assert spent == [gate.computed]


async def test_calls_whose_model_is_unloaded_tell_what_they_had_computed() -> None:
    """Its callers learn that it is gone, and pay for what it did for them until then."""
    spent = list[int]()
    async with gated() as (_, model, gate):
        with erllama.metered(spent.append):
            asking = asyncio.create_task(model.complete("hello", response_tokens=1000, ignore_eos=True))
            await arrived(model, 1)
            await gate.shut(5)
            unloading = asyncio.create_task(model.unload())
            await until(lambda: model.phase == "unloaded")
            gate.gate.set()
            await unloading
        with pytest.raises(erllama.ModelNotLoaded):
            await asking
    assert len(spent) == 1
    assert gate.computed <= spent[0] <= gate.computed + 1


async def test_embeddings_tell_of_each_decode(tmp_path: Path) -> None:
    """Of a call that is cancelled those that were done, and of one that goes on all of them."""
    spent = list[int]()
    async with encoder("stub", tmp_path) as model:

        def told(tokens: int) -> None:
            spent.append(tokens)
            asking.cancel()

        async def ask() -> None:
            with erllama.metered(told):
                await model.embed(TEXTS * 50)

        whole = list[int]()
        with erllama.metered(whole.append):
            found = await model.embed(TEXTS * 50)
        assert sum(whole) == sum(found.token_counts)
        asking = asyncio.create_task(ask())
        await asyncio.gather(asking, return_exceptions=True)
        assert asking.cancelled()
        assert 0 < sum(spent) < sum(whole)


async def test_a_meter_that_fails_fails_nobody(tmp_path: Path) -> None:
    """Neither the call nor the model."""

    def fail(tokens: int) -> None:
        raise ZeroDivisionError

    asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
    async with encoder("stub", tmp_path) as model, stub_runtime() as (_, other):
        with erllama.metered(fail):
            assert len(await model.embed(TEXTS)) == len(TEXTS)
            assert (await other.complete("hello", response_tokens=1)).prompt_tokens
        assert len(await model.embed(TEXTS)) == len(TEXTS)
