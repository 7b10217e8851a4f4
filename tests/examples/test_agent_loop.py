"""The agent loop example: every question is answered once, whatever crashes on the way."""

from __future__ import annotations

import pytest
from helpers.runtime import STUB, stub_runtime, until

import erllama_py as erllama
from docs.examples.agent_loop import Agent, main

pytestmark = pytest.mark.anyio

QUESTIONS = ["one?", "two?", "three?"]


async def test_it_answers_all_questions() -> None:
    """And ends when there are none left."""
    assert list(await main(STUB, QUESTIONS)) == QUESTIONS


async def test_it_outlives_the_crashes_of_its_model() -> None:
    """The question under way is asked again when the model is back."""
    async with stub_runtime(seconds_per_token=0.001) as (runtime, model):
        agent = Agent(model, list(QUESTIONS))
        loop = await runtime.supervise("agent", agent.run, restart="transient")
        for answered in range(3):
            await until(lambda: model.phase in ("prefilling", "generating"))
            model.inject_fault("decode" if answered else "actor")
            await until(lambda: model.phase == "restarting")
        assert await loop.wait() == erllama.Returned(None)
    assert list(agent.answers) == QUESTIONS


async def test_a_loop_that_raises_is_restarted_and_loses_no_question() -> None:
    """What the agent holds outlives the loop; the question that failed is taken up again."""
    async with stub_runtime() as (runtime, model):
        agent = Agent(model, list(QUESTIONS))
        failures = iter([RuntimeError("a tool that is down")])
        answer = agent._ask

        async def ask(question: str) -> str:
            if question == "two?" and (failure := next(failures, None)):
                raise failure
            return await answer(question)

        agent._ask = ask  # type: ignore[method-assign]  # the tool that fails once
        loop = await runtime.supervise("agent", agent.run, restart="transient")
        assert await loop.wait() == erllama.Returned(None)
    assert list(agent.answers) == QUESTIONS
    assert not agent.open
