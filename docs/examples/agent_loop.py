"""An agent under the supervision tree: it works through tasks with the help of tools, and outlives all crashes.

python agent_loop.py tiny.gguf    (without a file: the stub backend, which answers nonsense)
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterable
from typing import Annotated, Any

import erllama_py as erllama

Tasks = asyncio.Queue[str | None]  # `None` after the last one
CITIES = {"Paris": "mild, 16 degrees", "Oslo": "snow, -3 degrees"}


async def get_weather(city: Annotated[str, "The name of the city"]) -> str:
    """Tell the weather of a city."""
    return CITIES.get(city, "nobody knows")


class Agent:
    """Answers the tasks of a queue one after the other. What it holds outlives a restart of its loop."""

    def __init__(self, model: erllama.Model, tasks: Tasks) -> None:
        self._model = model
        self._tasks = tasks
        self._under_way: list[dict[str, Any]] | None = None
        self.answers: dict[str, str] = {}

    async def run(self) -> None:
        """The loop. A task is let go only when its answer is there.

        Each step of it, a reply or the result of a call, is in the messages as soon as it is complete: a restart takes
        the task up there. A model that crashes is asked again by the run itself.
        """
        while True:
            if self._under_way is None:
                task = await self._tasks.get()
                if task is None:
                    return
                self._under_way = [{"role": "user", "content": task}]
            done = await self._model.run_tools(
                self._under_way,
                tools=[get_weather],
                tools_in_system=True,  # where the template takes none, as with the stub
                max_rounds=3,
                tool_timeout=10.0,
                response_tokens=120,
            )
            self.answers[self._under_way[0]["content"]] = done.reply
            self._under_way = None


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
    questions = ["How is the weather in Paris?", "And in Oslo?"]
    for question, answer in asyncio.run(main(model, questions)).items():
        print(f"{question}\n  {answer}")
