"""A suspect that was cleared leaves its engine until another was tried: nothing of it is lost, nor counted twice."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from helpers.coming_back import Comings, coming_back
from helpers.gated import WIDE
from helpers.runtime import assert_idle, until

import erllama_py as erllama
from erllama_py.engine.backend import Slice
from erllama_py.handle.going_on import GoingOn

pytestmark = [pytest.mark.anyio, pytest.mark.slow]
SAID = 200  # the token that they say
SAYING: dict[str, Any] = {
    "temperature": 0.0, "response_tokens": 200, "ignore_eos": True, "logit_bias": {SAID: 1000.0},
}  # fmt: skip
CONFIG: dict[str, Any] = {"context_opts": WIDE, "stub": {"seconds_per_token": 0.001}, "restarts": {"intensity": 9}}
PROMPTS = [[70 + number, *range(65, 85)] for number in range(2)]
PLACE = len(PROMPTS[0]) + 150  # far behind where they were suspected


async def asked(
    model: erllama.Model, comings: Comings, then: Callable[[Slice], bool] = lambda part: False
) -> list[Any]:
    """What two requests come to that are suspected together; after that `then` says which slices are poisonous."""
    calls = [asyncio.create_task(model.complete(prompt, **SAYING)) for prompt in PROMPTS]
    await until(lambda: model.counters.active == 2 and model.counters.generated_tokens > 20)
    comings.crash_twice(SAID, then)
    with anyio.fail_after(60):
        return await asyncio.gather(*calls, return_exceptions=True)


async def test_each_of_them_is_counted_once() -> None:
    """What an engine says of one that was withdrawn is no answer."""
    async with coming_back(**CONFIG) as (_, model, comings):
        assert [len(one.generated) for one in await asked(model, comings)] == [200, 200]
        assert model.info.restarts == 2
        assert_idle(model)
        assert dict(model.counters.finished) == {"length": 2}
        assert model.counters.prompt_tokens == sum(map(len, PROMPTS))


async def test_one_that_was_withdrawn_can_be_guilty_later() -> None:
    """Engines know it by another id then."""
    async with coming_back(**CONFIG) as (_, model, comings):
        ended = await asked(model, comings, lambda part: part.start <= PLACE < part.start + len(part.tokens))
        assert [(type(one), one.by_request) for one in ended] == [(erllama.ModelCrashed, True)] * 2
        await until(lambda: model.info.phase == "idle")
        assert model.info.restarts in {6, 8}  # they come there together, or each in its time
        assert_idle(model)


async def test_one_that_is_cancelled_as_it_is_withdrawn_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its engine has not heard of that."""
    withdraw, cancelled = GoingOn.withdraw, list[int]()

    def withdrawn(going_on: GoingOn) -> None:
        going_on.cancel()
        cancelled.append(going_on.id)
        withdraw(going_on)

    monkeypatch.setattr(GoingOn, "withdraw", withdrawn)
    async with coming_back(**CONFIG) as (_, model, comings):
        replies = await asked(model, comings)
        assert len(cancelled) == 1
        assert sorted(one.finish_reason for one in replies) == ["cancelled", "length"]
        await until(lambda: not model.counters.active)
        assert_idle(model)
