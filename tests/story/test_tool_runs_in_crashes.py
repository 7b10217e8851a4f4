"""A loop of tools whose model crashes in each of its steps, and again: each tool is called once for each call, with the
arguments of an undisturbed run, and the replies are those of that."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import anyio
import pytest
from helpers.runtime import until
from helpers.storm import GUARD_SECONDS, config

import erllama_py as erllama

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.either_loop]

ASKED: dict[str, Any] = {
    "tool_choice": "required", "tools_in_system": True, "response_tokens": 160, "temperature": 0.8, "seed": 2,
}  # fmt: skip

Plan = list[tuple[str, int]]
# The model's process ends at these events, by the name of their kind and their number.
PLANS: dict[str, Plan] = {
    "before the first reply": [("RoundStarted", 1)],
    "in the middle of arguments, twice": [("ToolCallDelta", 5), ("ToolCallDelta", 30)],
    "between the end of a call and its tool": [("ToolCallEnd", 1), ("ToolStarted", 1)],
    "between the tool and the next reply": [("ToolFinished", 1), ("RoundStarted", 2), ("TextDelta", 1)],
    "in the tool": [],
}


class Looped:
    """What runs of tools with a model came to; it ends the model's process as planned."""

    def __init__(self, model: erllama.Model, plan: Plan, *, in_tool: bool = False) -> None:
        self.carried_out: list[dict[str, Any]] = []
        self.spent = self.crashes = 0
        self._model, self._plan, self._in_tool = model, list(plan), in_tool

    async def runs(self) -> object:
        """Two turns of a conversation, all that was said in them, and what was carried out."""
        messages: list[Any] = [{"role": "user", "content": "take a note please"}]
        seen, replies = Counter[str](), list[object]()
        with erllama.metered(self._spend):
            for _ in range(2):
                async with self._model.run_tools(messages, tools=[self.note], max_rounds=3, **ASKED) as run:
                    async for event in run:
                        await self._look(event, seen)
                replies += [(one.generated, one.finish_reason) for one in run.result.completions]
                messages.append({"role": "user", "content": "and another"})
        assert not self._plan
        said = [(one["role"], one.get("content"), _calls(one)) for one in messages]
        return said, replies, self.carried_out

    async def note(self, title: str, urgent: bool) -> str:
        """Takes a note."""
        self.carried_out.append({"title": title, "urgent": urgent})
        if self._in_tool:
            await self._crash()
        return "taken"

    async def _look(self, event: erllama.RunEvent, seen: Counter[str]) -> None:
        kind = type(event).__name__
        seen[kind] += 1
        if self._plan and self._plan[0] == (kind, seen[kind]):
            del self._plan[0]
            await self._crash()

    async def _crash(self) -> None:
        """Waits until the model is back: then the next one does not hit a process that is beginning."""
        restarts, pid = self._model.info.restarts, self._model.info.pid
        assert pid is not None
        os.kill(pid, signal.SIGSEGV)
        await until(lambda: self._model.info.restarts > restarts and self._model.info.pid is not None)
        self.crashes += 1

    def _spend(self, tokens: int) -> None:
        self.spent += tokens


def _calls(message: Any) -> list[object]:
    return [(one["function"]["name"], one["function"]["arguments"]) for one in message.get("tool_calls", ())]


@pytest.mark.parametrize("where", PLANS)
async def test_each_tool_is_called_once_whenever_its_model_crashes(where: str, tmp_path: Path) -> None:
    """What was computed is paid for, and no request fails."""
    async with erllama.Runtime() as runtime:
        quiet = await runtime.load_model("quiet", config("a", tmp_path))
        undisturbed = Looped(quiet, [])
        expected = await undisturbed.runs()
        assert undisturbed.carried_out
        model = await runtime.load_model("a", config("a", tmp_path, isolation="process"))
        loop = Looped(model, PLANS[where], in_tool=where == "in the tool")
        with anyio.fail_after(GUARD_SECONDS):
            assert await loop.runs() == expected
        await asyncio.sleep(0)  # what is told on the loop has come
        assert loop.crashes == model.info.restarts > 0
        assert loop.spent > 0
        assert model.counters.failed == 0
