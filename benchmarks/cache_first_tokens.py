"""What saving costs the first tokens of a prompt that nobody has seen: the gaps between them, with saves and without.

Two processes of our own, alike but for `min_tokens`, take turns with prompts of the same length that differ from the
first tokens on. Where a prompt ends its last ranges are copied out, and what was copied is written to the disk while
the next tokens are decoded.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from fresh import Answer, peer
from opened import MODELS, opened, prompt
from report import publish, table

import erllama_py as erllama

TOKENS = 1000
REPLY = 32
SHOWN = 5  # gaps that are shown one by one
ROUNDS = 6


@asynccontextmanager
async def prefilling(name: str, root: Path, saves: bool) -> AsyncIterator[Answer]:
    """A part: streams a reply to a prompt of the given number, and returns the gaps between its tokens."""
    async with opened(name, root, policy={} if saves else {"min_tokens": None}) as (runtime, model):

        async def answer(number: int) -> list[float]:
            tokens, times = await prompt(model, number, TOKENS), list[float]()
            async with model.stream(tokens, response_tokens=REPLY, temperature=0.0) as events:
                async for event in events:
                    if isinstance(event, erllama.TextDelta):
                        times.append(time.perf_counter())
            await runtime.cache.flush()
            return [after - before for before, after in itertools.pairwise(times)]

        yield answer


def line(name: str, saves: bool, runs: Sequence[Sequence[float]]) -> list[str]:
    """Medians over the runs, and the longest gap of each kind behind it."""
    shown = []
    for number in range(SHOWN):
        gaps = [1000 * run[number] for run in runs]
        shown.append(f"{statistics.median(gaps):.1f} ({max(gaps):.1f})")
    later = [1000 * gap for run in runs for gap in run[SHOWN:]]
    return [MODELS[name], "with" if saves else "without", *shown, f"{statistics.median(later):.1f}"]


def main() -> None:
    lines = []
    for name in MODELS:
        runs: dict[bool, list[list[float]]] = {False: [], True: []}
        with TemporaryDirectory() as folder:
            root = Path(folder)
            with peer(prefilling, name, root / "on", True) as on, peer(prefilling, name, root / "off", False) as off:
                for number in range(ROUNDS + 1):
                    for saves, part in ((False, off), (True, on)):
                        gaps = part.ask(10 + 2 * number + saves)
                        if number:  # the first prompt of a process is slow
                            runs[saves].append(gaps)
        lines += [line(name, saves, seen) for saves, seen in runs.items()]
    gaps = [f"token {number + 1} to {number + 2}" for number in range(SHOWN)]
    head = [f"a new prompt of {TOKENS:,} tokens; gaps in ms, median (longest)", "saves", *gaps, "later ones"]
    publish("cache_first_tokens", table(head, lines))


if __name__ == "__main__":
    main()
