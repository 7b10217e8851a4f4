"""Plays one conversation through `run_tools` and counts: valid calls, right ones, tokens computed twice."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import erllama_py as erllama
from judge.functions import FUNCTIONS
from judge.stories import ANY, Calls, Story, Turn

SYSTEM = (
    "You are a helpful assistant. Use the tools where they help. When you have what you need, answer in one sentence."
)
MAX_ROUNDS = 3  # replies to one question: its calls, maybe some more, and the answer


@dataclass
class Score:
    """What came of a conversation."""

    story: str
    calls: int = 0
    valid: int = 0
    turns: int = 0
    right: int = 0
    """Turns with the right tools and arguments."""
    prompts: int = 0
    """Prompt tokens of all replies."""
    twice: int = 0
    """Of these, how many were computed although they were computed before."""
    seconds: float = 0.0
    wrong: list[str] = field(default_factory=list)


async def play(model: erllama.Model, story: Story, **options: Any) -> Score:
    """Have a conversation."""
    tools = [FUNCTIONS[name] for name in story.tools.split()]
    messages: list[dict[str, Any]] = [{"role": "system", "content": SYSTEM}]
    score = Score(story.name)
    began = time.perf_counter()
    known: int | None = None
    for turn in story.turns:
        messages.append({"role": "user", "content": turn.says})
        given: Any = {"tools": tools, "temperature": 0.0, "response_tokens": 256, **options}
        given["tool_choice"] = turn.tool_choice
        run = await model.run_tools(messages, max_rounds=MAX_ROUNDS, options=given)
        completions = [*run.completions]
        if run.ended == "max_rounds":  # it would call tools for ever
            given["tool_choice"] = "none"
            run = await model.run_tools(messages, options=given)
            completions += run.completions
        for completion in completions:
            known = _count(score, completion, known)
        _judge(score, turn, completions)
    score.seconds = time.perf_counter() - began
    return score


def _count(score: Score, completion: erllama.Completion, known: int | None) -> int:
    """Count what a reply has cost. `known` is how many tokens lay in the cells after the one before; returned is how
    many there are now."""
    score.prompts += completion.prompt_tokens
    if known is not None:
        new = completion.prompt_tokens - known
        score.twice += max(0, completion.stats.prefill_tokens - new)
    return completion.committed_tokens


def _judge(score: Score, turn: Turn, completions: list[erllama.Completion]) -> None:
    made = [call for completion in completions for call in completion.tool_calls]
    score.calls += len(made)
    score.valid += sum(call.problem is None for call in made)
    score.turns += 1
    first = [(call.name, call.arguments) for call in made[: len(turn.calls)]]
    if same_calls(first, turn.calls) and (turn.calls or not made):
        score.right += 1
    else:
        score.wrong.append(f"{turn.says!r}: {[(call.name, call.arguments, call.problem) for call in made]}")


def same_calls(made: Calls, wanted: Calls) -> bool:
    """Whether these are the wanted calls, in any order."""
    left = list(made)
    for name, arguments in wanted:
        found = next((one for one in left if one[0] == name and same(one[1], arguments)), None)
        if found is None:
            return False
        left.remove(found)
    return not left


def same(made: Any, wanted: Any) -> bool:
    """Whether a value is the wanted one; texts may differ in case and in spaces around them."""
    if wanted is ANY:
        return True
    if isinstance(wanted, dict):
        return isinstance(made, dict) and made.keys() == wanted.keys() and all(same(made[k], wanted[k]) for k in wanted)
    if isinstance(wanted, list):
        return isinstance(made, list) and len(made) == len(wanted) and all(map(same, made, wanted))
    if isinstance(wanted, str):
        return isinstance(made, str) and made.strip(" .'\"").casefold() == wanted.casefold()
    return bool(made == wanted) and isinstance(made, bool) == isinstance(wanted, bool)


def total(scores: list[Score]) -> Counter[str]:
    """The sums of all scores."""
    names = ("calls", "valid", "turns", "right", "prompts", "twice", "seconds")
    return Counter({name: sum(getattr(score, name) for score in scores) for name in names})
