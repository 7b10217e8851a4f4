"""An agent loop under the supervision tree: it works through a queue of tasks and outlives the crashes of its model.

python agent_loop.py tiny.gguf    (without a file: the stub backend, which answers nonsense)
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterable

import erllama_py as erllama

ATTEMPTS = 3  # at one task, before the loop itself fails: perhaps it is the task that crashes the model

Tasks = asyncio.Queue[str | None]  # `None` after the last one


class Agent:
    """Answers the tasks of a queue one after the other. What it holds outlives a restart of its loop."""

    def __init__(self, model: erllama.Model, tasks: Tasks) -> None:
        self._model = model
        self._tasks = tasks
        self._under_way: str | None = None
        self.answers: dict[str, str] = {}

    async def run(self) -> None:
        """The loop. A task is let go only when its answer is there, so that a restart takes it up again."""
        while True:
            if self._under_way is None:
                self._under_way = await self._tasks.get()
            if self._under_way is None:
                return
            self.answers[self._under_way] = await self._ask(self._under_way)
            self._under_way = None

    async def _ask(self, task: str) -> str:
        attempt = 1
        while True:
            try:  # while the model loads again, this waits for it
                completion = await self._model.chat([{"role": "user", "content": task}], response_tokens=40)
                return completion.reply
            except erllama.ModelCrashed as crash:
                if crash.gave_up or attempt == ATTEMPTS:
                    raise  # let the supervisor of this loop decide
                attempt += 1


async def main(config: erllama.ModelConfigDict, questions: Iterable[str]) -> dict[str, str]:
    """Answer all questions; `transient` restarts the loop when it raises, and lets it be when it returns."""
    tasks = Tasks()
    for task in (*questions, None):
        tasks.put_nowait(task)
    async with erllama.Runtime() as runtime:
        agent = Agent(await runtime.load_model("model", config), tasks)
        loop = await runtime.supervise("agent", agent.run, restart="transient")
        ended = await loop.wait()
        if isinstance(ended, erllama.Raised):  # more often than its restart limits allow
            raise ended.error
        return agent.answers


if __name__ == "__main__":
    model: erllama.ModelConfigDict = {"model_path": sys.argv[1]} if sys.argv[1:] else {"backend": "stub"}
    for question, answer in asyncio.run(main(model, ["What is gravity?", "What is the moon?"])).items():
        print(f"{question}\n  {answer}")
