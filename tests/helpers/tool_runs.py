"""Runs of `run_tools` for the fuzz."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import erllama_py as erllama

CALLS = [("double", '{"number": 2}'), ("pause", '{"turns": 3}'), ("nothing", "{}"), ("double", "?")]


def double(number: int) -> int:
    """Twice a number."""
    return 2 * number


async def pause(turns: int) -> None:
    """Wait a little."""
    for _ in range(turns % 10):
        await asyncio.sleep(0)


def a_run(model: Any, question: str, options: dict[str, Any], pick: random.Random) -> erllama.ToolRun:
    """A run that may begin with open calls."""
    said: list[dict[str, Any]] = [{"role": "user", "content": question}]
    if pick.random() < 0.5:
        asked = [{"id": str(n), "function": {"name": a, "arguments": b}} for n, (a, b) in enumerate(CALLS)]
        said.append({"role": "assistant", "content": "", "tool_calls": asked})
    run: erllama.ToolRun = model.run_tools(said, options={"tools": [double, pause], "tools_in_system": True, **options})
    return run
