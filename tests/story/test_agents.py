"""Agents: runs of `run_tools` on scripted models of each format, through crashes of the model and of the agent."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import pytest
from helpers.runtime import until
from helpers.scripted import scripted
from helpers.tool_replies import CONTROLS, ONE_CALL, WRITTEN, template_of

import erllama_py as erllama
from erllama_py.chat.tool_formats import FORMATS, ToolFormat
from judge.play import play
from judge.stories import ANY, FORCED, LONG, NESTED, NONE, PARALLEL, SINGLE, Story

pytestmark = pytest.mark.anyio

ALL = pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
STORIES = [SINGLE[0], PARALLEL[0], NESTED[2], NONE[0], FORCED[0], LONG[2]]
AT_ONCE = erllama.RestartLimits(backoff_first=0.0, backoff_max=0.0)


def filled(value: Any) -> Any:
    """Arguments with something in place of what may be anything."""
    if isinstance(value, dict):
        return {key: filled(one) for key, one in value.items()}
    if isinstance(value, list):
        return [filled(one) for one in value]
    return "something" if value is ANY else value


def perfect(story: Story, form: ToolFormat) -> Iterator[str]:
    """What a model says that makes no mistake."""
    for turn in story.turns:
        if turn.calls:
            yield WRITTEN[form.name]([(name, filled(arguments)) for name, arguments in turn.calls])
        yield "That is done."


@pytest.mark.either_loop
@pytest.mark.slow
@ALL
async def test_the_judges_conversations_go_well_in_each_format(form: ToolFormat) -> None:
    """Every call is valid and right, and no token is computed twice, tools and results in the prompts."""
    for story in STORIES:
        if form.name in ONE_CALL and max(len(turn.calls) for turn in story.turns) > 1:
            continue
        replies = list(perfect(story, form))
        context = {"n_ctx": 16_384}
        async with scripted(
            *replies, controls=CONTROLS.get(form.name, ()), template=template_of(form.name), context_opts=context
        ) as (_, model, script):  # fmt: skip
            score = await play(model, story)
        assert score.wrong == []
        assert (score.valid, score.right, score.twice) == (score.calls, score.turns, 0)
        assert len(script.prompts) == len(replies)


def hermes(*calls: tuple[str, dict[str, Any]]) -> str:
    return WRITTEN["hermes"](calls)


class Work:
    """Tools that count how often they are asked for."""

    def __init__(self) -> None:
        self.ran: list[int] = []

    async def work(self, number: int) -> str:
        """Works."""
        self.ran.append(number)
        return f"worked {number}"


def worker(prompt: str) -> str:
    """A model that has three things to do, two at first."""
    if "worked 3" in prompt:
        return "all is done"
    if "worked 2" in prompt:
        return hermes(("work", {"number": 3}))
    return hermes(("work", {"number": 1}), ("work", {"number": 2}))


@pytest.mark.slow
async def test_an_agent_that_crashes_goes_on_where_it_was() -> None:
    """Whenever it fails: what had finished is not done again, and the answer is the same."""
    for fails_after in range(12):
        work, messages, seen = Work(), list[Any]([{"role": "user", "content": "work"}]), 0

        async with scripted(worker, template=template_of("hermes")) as (runtime, model, script):

            async def agent(work: Work = work, messages: list[Any] = messages, fails: int = fails_after) -> str:
                nonlocal seen
                async with model.run_tools(messages, tools=[work.work], parallel_calls=1) as run:
                    async for event in run:
                        if isinstance(event, erllama.ToolCallDelta | erllama.TextDelta | erllama.Progress):
                            continue
                        seen += 1
                        if seen == fails + 1:
                            raise RuntimeError("a bug")
                return run.result.reply

            loop = await runtime.supervise("agent", agent, restart="transient", limits=AT_ONCE)
            ended = await loop.wait()
            assert isinstance(ended, erllama.Returned)
        assert ended.value in ("all is done", "")  # a run that was over asks for nothing
        assert [message["role"] for message in messages] == [
            "user", "assistant", "tool", "tool", "assistant", "tool", "assistant",
        ]  # fmt: skip
        assert [message["content"] for message in messages if message["role"] == "tool"] == [
            "worked 1", "worked 2", "worked 3",
        ]  # fmt: skip
        assert len(script.prompts) <= 4
        repeated = len(work.ran) - len(set(work.ran))
        assert repeated <= 1  # the one under way


@pytest.mark.slow  # a model comes back after a delay
@pytest.mark.parametrize(("on_crash", "attempts"), [("continue", (1,)), ("fail", (1, 2))])
async def test_a_model_that_crashes_is_asked_again_and_no_tool_is(
    on_crash: Literal["continue", "fail"], attempts: tuple[int, ...]
) -> None:
    """In the middle of each reply; where a reply goes on by itself, it is not asked for again either."""
    work, messages = Work(), list[Any]([{"role": "user", "content": "work"}])
    stub = {"seconds_per_token": 0.001}
    async with scripted(worker, template=template_of("hermes"), stub=stub) as (_, model, script):
        async with model.run_tools(messages, tools=[work.work], options={"on_crash": on_crash}) as run:
            seen = []
            async for event in run:
                if isinstance(event, erllama.RoundStarted):
                    seen.append((event.number, event.attempt))
                    if event.attempt == 1:
                        begun = len(script.prompts)
                        await until(lambda begun=begun: len(script.prompts) > begun)  # type: ignore[misc]  # bound here
                        model.inject_fault()
        assert run.result.reply == "all is done"
        assert seen == [(number, attempt) for number in (1, 2, 3) for attempt in attempts]
        assert work.ran == [1, 2, 3]
