"""Twenty continuations of a prompt of 1,000 tokens: `score` against a request with `prompt_logprobs` for each.

Both with SmolLM2, and each time with a prompt that nobody has seen; then twenty labels of one token, after a prompt
that is new and after one that is known. Times are medians of three runs; of the first line, which takes a minute, there
is one.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence

from opened import N_THREADS, prompt
from report import publish, table

import erllama_py as erllama
from erllama_py.serve.models import fetch

PROMPT_TOKENS, CONTINUATIONS, OWN_TOKENS, ROUNDS = 1000, 20, 8, 3
CONTEXT: erllama.ContextOptsDict = {"n_ctx": 4096, "n_seq_max": 8, "n_threads": N_THREADS}
Run = Callable[[list[int], list[list[int]]], Awaitable[int]]


async def timed(run: Run, tokens: list[int], continuations: Sequence[list[int]]) -> tuple[float, int]:
    """Seconds, and tokens that were computed."""
    began = time.perf_counter()
    computed = await run(tokens, [*continuations])
    return time.perf_counter() - began, computed


async def main() -> None:
    async with erllama.Runtime(ram_quota_bytes=2 << 30) as runtime:
        model = await runtime.load_model("m", {"model_path": fetch("smollm2"), "context_opts": CONTEXT})

        async def apart(tokens: list[int], continuations: list[list[int]]) -> int:
            """A request for each of the whole texts."""
            asked = [model.prefill_only([*tokens, *one], prompt_logprobs=0) for one in continuations]
            return sum(done.stats.prefill_tokens for done in await asyncio.gather(*asked))

        async def scored(tokens: list[int], continuations: list[list[int]]) -> int:
            return (await model.score(tokens, continuations)).prefill_tokens

        several = [(await prompt(model, 500 + number, OWN_TOKENS)) for number in range(CONTINUATIONS)]
        labels = [[1000 + number] for number in range(CONTINUATIONS)]
        await scored(await prompt(model, 99, 100), several)
        found: dict[str, list[tuple[float, int]]] = {}
        for number in range(ROUNDS):
            for name, run, ends, known in (
                ("a request each, `prompt_logprobs`", apart, several, False),
                ("`score`", scored, several, False),
                ("`score`, the prompt is known", scored, several, True),
                ("`score`, labels of one token", scored, labels, False),
                ("`score`, labels, the prompt is known", scored, labels, True),
            ):
                if number and run is apart:
                    continue
                place = list(found).index(name) if name in found else len(found)
                tokens = await prompt(model, 10 * (number + 1) + place - known, PROMPT_TOKENS)
                found.setdefault(name, []).append(await timed(run, tokens, ends))
    base = found["a request each, `prompt_logprobs`"]
    publish("scores", table(HEAD, [line(name, runs, base) for name, runs in found.items()]))


HEAD = ("20 continuations after 1,000 tokens", "tokens computed", "times faster")


def line(name: str, runs: Sequence[tuple[float, int]], base: Sequence[tuple[float, int]]) -> list[str]:
    """One row of the table."""
    seconds, before = (statistics.median(one for one, _ in these) for these in (runs, base))
    computed = statistics.median(tokens for _, tokens in runs)
    return [name, f"{computed:,.0f}", f"{before / seconds:,.0f}"]


if __name__ == "__main__":
    asyncio.run(main())
