"""What it costs a conversation that its model went for another one meanwhile: the first token after it came back,
against that of a model that stayed, and against computing the conversation again.

A server of a configuration has two models, one of which fits into its budget. Each round is a new conversation, three
turns long: the first is computed, before the second the model stays, before the third the other model is asked, so
that it goes with its KV saved and is loaded again. All three are in one round, so ratios are of the same minute.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from opened import MODELS, N_CTX, N_THREADS, QUOTA, prompt
from report import publish, table

from erllama_py.serve.app import App, create_app
from erllama_py.serve.config import Config, check_tables, sized
from erllama_py.serve.demand.fitting import needed_bytes
from erllama_py.serve.models import fetch

LENGTHS = (1000,)  # tokens of a conversation
QUESTION = 20
ROUNDS = 4
RAM, BUFFER = 1 << 20, 256 << 20


class Turn(NamedTuple):
    """One answer: seconds until the model was there, and until the first token from then on; tokens."""

    waited: float
    first: float
    computed: int
    generated: list[int]

    @property
    def seconds(self) -> float:
        """Until the first token, as the client sees it."""
        return self.waited + self.first


class Round(NamedTuple):
    """The three turns of a conversation."""

    new: Turn
    stayed: Turn
    back: Turn


def configured(root: Path) -> Config:
    """Two models on demand, and a budget for the larger one."""
    context = {"n_ctx": N_CTX, "n_seq_max": 1, "n_threads": N_THREADS}
    tables: dict[str, Any] = {
        "models": [
            {"name": name, "path": str(fetch(name)), "load": "demand", "context_opts": context} for name in MODELS
        ],
        "tiers": {"disk": {"kind": "disk", "root": str(root), "quota_bytes": QUOTA}},
        "runtime": {"ram_quota_bytes": RAM, "save_buffer_bytes": BUFFER},
    }
    most = max(needed_bytes(one.model) for one in sized(check_tables(tables, root / "erllama.toml")))
    return check_tables({**tables, "server": {"memory_budget_bytes": RAM + BUFFER + most}}, root / "erllama.toml")


async def answer(app: App, name: str, tokens: list[int]) -> Turn:
    """Ask as the server does: the model first, then a token."""
    began = time.perf_counter()
    lease = await app.service.served.lease(name)
    there = time.perf_counter()
    try:
        done = await app.service.runtime.model(name).complete(tokens, response_tokens=1, temperature=0.0)
    finally:
        lease.release()
    return Turn(there - began, time.perf_counter() - there, done.stats.prefill_tokens, list(done.generated))


async def conversation(app: App, name: str, other: str, number: int, length: int) -> Round:
    """A round."""
    await answer(app, name, [1])  # it is there
    model = app.service.runtime.model(name)
    words = await prompt(model, number, length + 2 * QUESTION)
    asked, questions = words[:length], (words[length : length + QUESTION], words[length + QUESTION :])
    turns = [await answer(app, name, asked)]
    for question, swapped in zip(questions, (False, True), strict=True):
        asked = [*asked, *turns[-1].generated, *question]
        await app.service.runtime.cache.flush()
        if swapped:
            await answer(app, other, [1])
        turns.append(await answer(app, name, asked))
    return Round(*turns)


def line(name: str, length: int, rounds: list[Round]) -> list[str]:
    """Of the table: medians, and ratios of each round."""
    fresh = QUESTION + 1  # a question, and the last token of the reply, which was sampled and not computed

    def seconds(times: list[float]) -> str:
        return f"{statistics.median(times):.3f}"

    again = statistics.median(one.back.seconds / (one.back.waited + one.new.first) for one in rounds)
    return [
        MODELS[name], f"{length:,}", seconds([one.new.first for one in rounds]),
        seconds([one.stayed.seconds for one in rounds]), seconds([one.back.seconds for one in rounds]),
        seconds([one.back.waited for one in rounds]), seconds([one.back.first for one in rounds]),
        f"{statistics.median(one.back.first / one.stayed.first for one in rounds):.2f} ×", f"{again:.2f} ×",
        str(sum(max(0, one.back.computed - fresh) for one in rounds)),
    ]  # fmt: skip


async def main() -> None:
    lines = []
    with TemporaryDirectory() as folder:
        app = create_app(configured(Path(folder)))
        async with app.running():
            for name, other in (tuple(MODELS), tuple(reversed(MODELS))):
                for length in LENGTHS:
                    rounds = [
                        await conversation(app, name, other, 1000 * length + number, length) for number in range(ROUNDS)
                    ]
                    lines.append(line(name, length, rounds))
    head = [
        "model", "tokens before", "computed, s", "it stayed, s", "it came back, s", "of that until it was there",
        "and then", "of one that stayed", "of one that computes it again", "tokens computed twice",
    ]  # fmt: skip
    publish("demand", table(head, lines))


if __name__ == "__main__":
    asyncio.run(main())
