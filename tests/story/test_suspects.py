"""A request that crashes its model again and again: it runs alone, fails with the evidence, and the others go on."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import anyio
import pytest
from helpers.coming_back import Comings, Poisoned, coming_back
from helpers.gated import POISON, WIDE
from helpers.runtime import until

import erllama_py as erllama
from erllama_py.engine.backend import Slice
from erllama_py.engine.embedding import Part
from erllama_py.engine.stub_embedder import StubEmbedder
from erllama_py.handle.going_on import GoingOn

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.either_loop]
GREEDY: dict[str, Any] = {"temperature": 0.0, "response_tokens": 40, "ignore_eos": True}
BAD = [65, 66, 67, POISON, 68]
SAID = 200  # a token that is in no other reply
CONFIG: dict[str, Any] = {"context_opts": WIDE, "stub": {"seconds_per_token": 0.001}}


def good(number: int) -> list[int]:
    return [70 + number, *range(65, 85)]


def poisoned(comings: Comings) -> None:
    comings.poison = lambda part: POISON in part.tokens


async def undisturbed(*prompts: list[int], **options: Any) -> list[list[int]]:
    async with coming_back(**CONFIG) as (_, model, _comings):
        return [(await model.complete(prompt, **GREEDY | options)).generated for prompt in prompts]


async def test_a_poisonous_request_fails_after_three_crashes_and_the_others_go_on() -> None:
    """They are disturbed twice at most, and have the replies that they would have had."""
    expected = await undisturbed(*map(good, range(4)))
    async with coming_back(**CONFIG) as (_, model, comings):
        poisoned(comings)
        others = [asyncio.create_task(model.complete(good(number), **GREEDY)) for number in range(4)]
        await until(lambda: model.counters.generated_tokens > 40)
        with pytest.raises(erllama.ModelCrashed, match="in the end alone") as caught:
            await model.complete(BAD, **GREEDY)
        assert isinstance(caught.value.__cause__, Poisoned)
        assert (caught.value.by_request, caught.value.gave_up) == (True, False)
        assert [one.generated for one in await asyncio.gather(*others)] == expected
        await until(lambda: model.info.restarts == 3)
        assert model.counters.failed == 1
        assert (await model.complete("hello", **GREEDY)).generated
    tried = comings.made[2].beside
    assert all(len(sequences) == 1 for sequences in tried)
    assert not model._board.between


async def test_two_of_them_are_tried_one_after_the_other() -> None:
    """Whoever comes meanwhile waits, and is not in their crashes."""
    endless: dict[str, Any] = {"response_tokens": 1500, "ignore_eos": True, "logit_bias": {SAID: 1000.0}}
    async with coming_back(**CONFIG) as (_, model, comings):
        bad = [asyncio.create_task(model.complete(good(number), **endless)) for number in range(2)]
        await until(lambda: model.counters.active == 2)
        before = model.counters.generated_tokens  # of the first, where the second is late
        await until(lambda: model.counters.generated_tokens > before + 20)
        comings.crash_twice(SAID, lambda part: SAID in part.tokens)
        await until(lambda: model.info.restarts >= 2)
        late = asyncio.create_task(model.complete(good(1), **GREEDY))
        ended = await asyncio.gather(*bad, return_exceptions=True)
        assert all(isinstance(one, erllama.ModelCrashed) and "alone" in str(one) for one in ended)
        assert [(await late).generated] == await undisturbed(good(1))
        await until(lambda: model.info.restarts == 4)
    assert {len(sequences) for made in comings.made[2:4] for sequences in made.beside} == {1}


async def test_a_crash_while_one_that_was_cleared_leaves_its_engine_holds_nobody_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is out of there all the same, and the next suspect has its turn."""
    withdraw = GoingOn.withdraw
    saying: dict[str, Any] = GREEDY | {"response_tokens": 200, "logit_bias": {SAID: 1000.0}}
    async with coming_back(**CONFIG) as (_, model, comings):

        def withdrawn(going_on: GoingOn) -> None:
            withdraw(going_on)
            model.inject_fault("actor")

        monkeypatch.setattr(GoingOn, "withdraw", withdrawn)
        asked = [asyncio.create_task(model.complete(good(number), **saying)) for number in range(2)]
        await until(lambda: model.counters.active == 2 and model.counters.generated_tokens > 20)
        comings.crash_twice(SAID)
        with anyio.fail_after(20):
            assert [len(one.generated) for one in await asyncio.gather(*asked)] == [200, 200]
        assert model.info.restarts == 3


async def test_a_place_in_the_reply_is_poisonous_too() -> None:
    """What it has said until then was told once."""
    expected, place = await undisturbed(good(2)), len(good(2)) + 20
    async with coming_back(**CONFIG) as (_, model, comings):
        comings.poison = lambda part: part.start <= place < part.start + len(part.tokens)
        told: list[int] = []

        async def read() -> None:
            async with model.stream(good(2), **GREEDY) as events:
                async for event in events:
                    told.extend(event.token_ids if isinstance(event, erllama.TextDelta) else [])

        with pytest.raises(erllama.ModelCrashed, match="alone"):
            await read()
        assert told == expected[0][:21]
        await until(lambda: model.info.restarts == 3)


async def test_an_innocent_in_crashes_from_outside_is_not_suspected() -> None:
    """It comes on by some tokens each time, as often as the budget of its model allows."""
    (expected,) = await undisturbed(good(3))
    places = [len(good(3)) + further for further in (1, 3, 5, 7, 9)]

    def strikes(part: Slice) -> bool:
        """The first time that it gets there: the next time it does not."""
        reached = bool(places) and places[0] in range(part.start, part.start + len(part.tokens))
        return reached and bool(places.pop(0))

    async with coming_back(**CONFIG) as (_, model, comings):
        comings.poison, told = strikes, list[int]()
        async with model.stream(good(3), **GREEDY) as events:
            async for event in events:
                if isinstance(event, erllama.TextDelta):
                    told += event.token_ids
        assert told == expected
        assert model.info.restarts == 5


async def test_the_companion_s_suspects_are_tried_in_it() -> None:
    """The model itself goes on all the time."""
    async with coming_back(**CONFIG) as (_, model, comings):
        poisoned(comings)
        async with model.stream(good(1), **GREEDY | {"response_tokens": 400}) as events:
            await anext(events)
            with pytest.raises(erllama.ModelCrashed, match="alone"):
                await model.complete(BAD, reproducible=True, **GREEDY)
            assert (await model.complete(good(2), reproducible=True, **GREEDY)).generated
            assert [event async for event in events]
        assert model.info.restarts == 0


async def test_a_poisonous_text_is_not_embedded(monkeypatch: pytest.MonkeyPatch) -> None:
    """It fails after three embedders; the other texts have their vectors, and the model goes on."""
    compute = StubEmbedder.compute

    def poisonous(self: StubEmbedder, parts: Sequence[Part]) -> Any:
        if any(POISON in list(part.tokens) for part in parts):
            raise Poisoned("a part was poisonous")
        return compute(self, parts)

    async with coming_back() as (_, model, _comings):
        expected = await model.embed("good")
        monkeypatch.setattr(StubEmbedder, "compute", poisonous)
        bad = asyncio.create_task(model.embed([BAD]))
        others = [asyncio.create_task(model.embed("good")) for _ in range(3)]
        with pytest.raises(erllama.ModelCrashed, match="alone"):
            await bad
        assert all((one.vector == expected.vector).all() for one in await asyncio.gather(*others))
        assert model.info.restarts == 0
        assert model.counters.embeddings == 4
