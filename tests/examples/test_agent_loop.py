"""The agent loop example: every task is answered once, whatever crashes on the way."""

from __future__ import annotations

from typing import Any

import pytest
from helpers.runtime import STUB, slow_stub, until
from helpers.scripted import scripted

import erllama_py as erllama
from docs.examples.agent_loop import Agent, Tasks, main
from erllama_py import tree

pytestmark = pytest.mark.anyio

CRASH = erllama.ModelCrashed("m", "a drill", gave_up=True)
QUESTIONS = ["one?", "", "three?"]  # an empty task is one too
AT_ONCE = erllama.RestartLimits(backoff_first=0.0, backoff_max=0.0)


class Counting(dict[str, str]):
    """Answers that count how often each is given."""

    def __init__(self) -> None:
        super().__init__()
        self.given: list[str] = []

    def __setitem__(self, task: str, answer: str) -> None:
        self.given.append(task)
        super().__setitem__(task, answer)


class Scripted:
    """A model whose runs end as given, and then well."""

    def __init__(self, *failures: Exception) -> None:
        self.asked: list[str] = []
        self._failures = iter(failures)

    async def run_tools(self, messages: list[dict[str, str]], **options: object) -> Any:
        self.asked.append(messages[0]["content"])
        if failure := next(self._failures, None):
            raise failure
        return Answer


class Answer:
    reply = "answer"


def agent_with(model: Any, *questions: str) -> Agent:
    """An agent, its tasks, and the end of them."""
    tasks = Tasks()
    for task in (*questions, None):
        tasks.put_nowait(task)
    agent = Agent(model, tasks)
    agent.answers = Counting()
    return agent


def given_by(agent: Agent) -> list[str]:
    assert isinstance(agent.answers, Counting)
    return agent.answers.given


async def test_it_answers_all_questions() -> None:
    """And ends when there are none left."""
    assert list(await main(STUB, QUESTIONS)) == QUESTIONS


def weather(prompt: str) -> str:
    """A model that asks the tool, and then passes on what it was told."""
    told = prompt.rpartition("mild, 16 degrees")
    return f"It is {told[1]}." if told[1] else CALL


CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'


async def test_it_asks_its_tool() -> None:
    """What the tool says is in the answer."""
    async with scripted(weather) as (_, model, script):
        agent = agent_with(model, "How is the weather in Paris?")
        await agent.run()
        assert agent.answers == {"How is the weather in Paris?": "It is mild, 16 degrees."}
        assert len(script.prompts) == 2


@pytest.mark.slow  # a model comes back after a delay, a longer one each time
async def test_it_outlives_the_crashes_of_its_model() -> None:
    """The reply under way is asked for again when the model is back; each task is answered once."""
    async with scripted(weather, stub={"seconds_per_token": 0.001}) as (runtime, model, _):
        agent = agent_with(model, *QUESTIONS)
        loop = await runtime.supervise("agent", agent.run, restart="transient", limits=AT_ONCE)
        for drill in range(3):
            await until(lambda: model.phase in ("prefilling", "generating"))
            model.inject_fault("decode" if drill else "actor")
            await until(lambda: model.phase == "restarting")
        assert await loop.wait() == erllama.Returned(None)
    assert given_by(agent) == QUESTIONS


@pytest.mark.parametrize(
    ("failures", "asked"),
    [([CRASH], 1), ([CRASH] * 3, 3), ([RuntimeError("a bug")], 1)],
    ids=["a model that crashes too often", "and again", "an error of its own"],
)
async def test_a_loop_that_raises_is_restarted_and_loses_no_task(failures: list[Exception], asked: int) -> None:
    """What the agent holds outlives the loop: the task that failed is taken up again, the others wait their turn."""
    async with erllama.Runtime() as runtime:
        model = Scripted(*failures)
        agent = agent_with(model, *QUESTIONS)
        loop = await runtime.supervise("agent", agent.run, restart="transient", limits=AT_ONCE)
        assert await loop.wait() == erllama.Returned(None)
    assert model.asked == [QUESTIONS[0]] * asked + QUESTIONS
    assert given_by(agent) == QUESTIONS


async def test_a_loop_that_keeps_failing_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """When its restart limits are used up, `main` raises; the loop's own error is the cause."""
    monkeypatch.setattr(tree, "USER_LIMITS", AT_ONCE)
    with pytest.raises(Exception, match="after 3 restarts") as caught:
        await main({**STUB, "context_opts": {"n_ctx": 8}}, ["a question that is longer than the context"])
    assert isinstance(caught.value.__cause__, erllama.ContextOverflow)


async def test_a_loop_that_is_stopped_drops_its_request_and_keeps_its_task() -> None:
    """The model is free at once, though the request had not got anywhere; a loop started later continues from there."""
    async with slow_stub() as (runtime, model, gate):
        agent = agent_with(model, *QUESTIONS)
        loop = await runtime.supervise("agent", agent.run, restart="transient")
        await until(lambda: model.queue_depth == 1)
        await loop.stop()
        assert await loop.wait() == erllama.Stopped()
        await until(lambda: model.queue_depth == 0)
        assert not gate.is_set()
        gate.set()
        again = await runtime.supervise("agent", agent.run, restart="transient")
        assert await again.wait() == erllama.Returned(None)
    assert given_by(agent) == QUESTIONS
