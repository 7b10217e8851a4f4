"""What erllama costs over the bare ctypes loop: one greedy stream, in alternating rounds.

The same prompt, its cells kept by both, and the same number of tokens. Each run of ours stands between two of
the bare loop, and is compared with their mean, so that a machine whose speed drifts does not decide it.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from pathlib import Path

from bare import BareProcess, bare_process
from report import publish, table

import erllama_py as erllama
from erllama_py.serve.models import fetch

PROMPT = "The history of the lighthouse begins with a fire on a hill. "
TOKENS = 96
ROUNDS = 20
N_CTX = 1024
THREADS = (2, 1)


async def main() -> None:
    path, lines = fetch("smollm2"), list[list[str]]()
    for n_threads in THREADS:
        with bare_process(path, N_CTX, n_threads) as bare:
            lines += await measure(path, bare, n_threads)
    head = ["one greedy stream, SmolLM2-135M", "threads", "tokens/s", "ratio (median)", "middle half of the rounds"]
    publish("overhead", table(head, lines))


async def measure(path: Path, bare: BareProcess, n_threads: int) -> list[list[str]]:
    """The lines of the table for so many threads of llama.cpp."""
    rows: dict[str, list[float]] = {"complete": [], "stream": []}
    rates: list[float] = []
    async with erllama.Runtime() as runtime:
        context: erllama.ContextOptsDict = {
            "n_ctx": N_CTX,
            "n_seq_max": 1,
            "n_threads": n_threads,
        }  # as the loop has it
        model = await runtime.load_model({"model_path": path, "context_opts": context})
        prompt = await model.tokenize(PROMPT)
        options: erllama.RequestOptionsDict = {"response_tokens": TOKENS, "temperature": 0.0}
        reference = bare.run(prompt, TOKENS)[1]
        generated = (await model.complete(prompt, **options)).generated
        if generated != reference:
            raise SystemExit("the bare loop and erllama did not decode the same tokens")

        async def complete() -> None:
            await model.complete(prompt, **options)

        async def stream() -> None:
            async with model.stream(prompt, **options) as events:
                async for _ in events:
                    pass

        before = bare.run(prompt, TOKENS)[0]
        for number in range(2 * ROUNDS):
            ours = stream if number % 2 else complete
            began = time.perf_counter()
            await ours()
            seconds = time.perf_counter() - began
            after = bare.run(prompt, TOKENS)[0]
            rates.append(TOKENS / after)
            rows[ours.__name__].append((before + after) / 2 / seconds)
            before = after
    threads = str(n_threads)
    lines = [["bare ctypes loop", threads, f"{statistics.median(rates):.0f}", "1.000", ""]]
    for name, ratios in rows.items():
        median = statistics.median(ratios)
        low, _, high = statistics.quantiles(ratios, n=4)
        spread = f"{low:.3f}-{high:.3f}"
        lines.append([f"`{name}`", threads, f"{statistics.median(rates) * median:.0f}", f"{median:.3f}", spread])
    return lines


if __name__ == "__main__":
    asyncio.run(main())
