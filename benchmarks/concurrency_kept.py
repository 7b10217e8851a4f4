"""What sequences that are kept cost a stream: its decode rate with 0 to 7,000 tokens kept, of a context of 8,192.

The sequences are restored from the cache before each measurement, and everything is let go of behind it. Each rate is
compared with the one of the same round with nothing kept.
"""

from __future__ import annotations

import asyncio
import statistics

from opened import N_THREADS, prompt
from report import publish, table

import erllama_py as erllama
from erllama_py.scheduler.state import SHARE_OF_KEPT, SHARE_OF_KEPT_WITHOUT_FLASH
from erllama_py.serve.models import fetch

N_CTX, N_SEQ_MAX = 8192, 8
PIECE = 1000  # tokens of one sequence
KEPT = (0, 500, 1000, 2000, 4000, 7000)
TOKENS = 96
ROUNDS = 8


async def rate(runtime: erllama.Runtime, model: erllama.Model, kept: int) -> float:
    """Decode steps a second beside so many kept tokens."""
    await runtime.evict(model)
    for number in range(-(-kept // PIECE)):
        await model.complete(await prompt(model, number, min(PIECE, kept)), response_tokens=1)
    text = "The history of the lighthouse begins with a fire on a hill. "
    done = await model.complete(text, response_tokens=TOKENS, temperature=0.0)
    return done.stats.tokens_per_second


async def rates(flash: bool) -> dict[int, list[float]]:
    """The rates of all rounds."""
    context: erllama.ContextOptsDict = {
        "n_ctx": N_CTX,
        "n_seq_max": N_SEQ_MAX,
        "n_threads": N_THREADS,
        "flash_attn": flash,
    }
    config: erllama.ModelConfigDict = {"model_path": fetch("smollm2"), "context_opts": context}
    config["scheduler"] = {"kept_tokens": N_CTX}  # the default would let go of some of them
    async with erllama.Runtime(ram_quota_bytes=2 << 30) as runtime:
        model = await runtime.load_model("kept", config)
        await rate(runtime, model, max(KEPT))  # computes and saves them
        measured: dict[int, list[float]] = {kept: [] for kept in KEPT}
        for _ in range(ROUNDS):
            for kept in KEPT:
                measured[kept].append(await rate(runtime, model, kept))
        return measured


async def main() -> None:
    lines = []
    for flash, share in ((True, SHARE_OF_KEPT), (False, SHARE_OF_KEPT_WITHOUT_FLASH)):
        measured = await rates(flash)
        for kept, own in measured.items():
            ratios = [one / other for one, other in zip(own, measured[0], strict=True)]
            low, _, high = statistics.quantiles(ratios, n=4)
            lines.append(
                [
                    "with" if flash else "without", f"{kept:,}", f"{statistics.median(own):.0f}",
                    f"{statistics.median(ratios):.3f}", f"{low:.3f}-{high:.3f}" if kept else "",
                    "yes" if kept <= N_CTX // share else "no",
                ]
            )  # fmt: skip
    head = [
        f"flash attention; `n_ctx` {N_CTX:,}", "tokens kept", "tokens/s of one stream", "ratio (median)", "middle half",
        "kept by default",
    ]  # fmt: skip
    publish("concurrency_kept", table(head, lines))


if __name__ == "__main__":
    asyncio.run(main())
