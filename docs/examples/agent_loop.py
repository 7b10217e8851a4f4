"""An agent loop under the supervision tree: it works through tasks and outlives the crashes of its model.

python agent_loop.py tiny.gguf
"""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from collections.abc import Mapping
from typing import Any

import erllama_py as erllama


class Agent:
    """Answers questions one after the other. What it holds outlives a restart of its loop."""

    def __init__(self, model: erllama.Model, questions: list[str]) -> None:
        self._model = model
        self.open = deque(questions)
        self.answers: dict[str, str] = {}

    async def run(self) -> None:
        """The loop: a question leaves the queue only when its answer is there, so a crash loses none."""
        while self.open:
            question = self.open[0]
            self.answers[question] = await self._ask(question)
            self.open.popleft()

    async def _ask(self, question: str) -> str:
        try:
            completion = await self._model.chat([{"role": "user", "content": question}], response_tokens=40)
        except erllama.ModelCrashed as crash:
            if crash.gave_up:
                raise  # nobody brings it back: let the supervisor of this loop decide
            return await self._ask(question)  # waits until the model is back
        return completion.reply


async def main(config: Mapping[str, Any], questions: list[str]) -> dict[str, str]:
    """Answer all questions; `transient` restarts the loop when it raises, and lets it be when it returns."""
    async with erllama.Runtime() as runtime:
        model = await runtime.load_model("model", config)
        agent = Agent(model, questions)
        loop = await runtime.supervise("agent", agent.run, restart="transient")
        ended = await loop.wait()
        if isinstance(ended, erllama.Raised):
            raise ended.error
        return agent.answers


if __name__ == "__main__":
    for question, answer in asyncio.run(
        main({"model_path": sys.argv[1]}, ["What is gravity?", "What is the moon?"])
    ).items():
        print(f"{question}\n  {answer}")
