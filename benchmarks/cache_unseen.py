"""What saving costs a prompt that nobody has seen: prefill with saves to a disk tier, against the cache off.

Two processes of our own, alike but for `min_tokens`, take turns with prompts of the same length that differ from the
first tokens on. Each run with saves stands between two without and is compared with their mean, so that a machine
whose speed drifts does not decide it. A turn of the saving one is counted twice: until the first token, and until all
rows are on the device, which goes on beside whatever the process does next.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from fresh import Answer, peer
from opened import MODELS, opened, prompt
from report import publish, table

TOKENS = 1024
ROUNDS = 8


class Turn(NamedTuple):
    """Seconds until the first token and until all is saved, and what was saved."""

    first_token: float
    saved: float
    rows: int
    nbytes: int


@asynccontextmanager
async def prefilling(name: str, root: Path, saves: bool) -> AsyncIterator[Answer]:
    """A part: computes a prompt of the given number."""
    async with opened(name, root, policy={} if saves else {"min_tokens": None}) as (runtime, model):

        async def answer(number: int) -> Turn:
            tokens = await prompt(model, number, TOKENS)
            before = await runtime.cache.counters()
            began = time.perf_counter()
            done = await model.complete(tokens, response_tokens=1, temperature=0.0)
            first_token = time.perf_counter() - began
            await runtime.cache.flush()
            saved = time.perf_counter() - began
            after = await runtime.cache.counters()
            assert done.cache_delta.read < 16, "this prompt was seen"  # prompts may begin with the same few words

            def grew(*names: str) -> int:
                return int(sum(after.get(one, 0) - before.get(one, 0) for one in names))

            return Turn(first_token, saved, grew("saves.cold", "saves.finish"), grew("saves.bytes.disk"))

        yield answer


def measure(name: str) -> list[list[str]]:
    """The lines of one model."""
    ratios: dict[str, list[float]] = {"until the first token": [], "until all is on the device": []}
    rates: list[float] = []
    with TemporaryDirectory() as folder:
        root = Path(folder)
        with peer(prefilling, name, root / "on", True) as on, peer(prefilling, name, root / "off", False) as off:
            for part in (on, off):  # the first prompt of a process is slow
                part.ask(1)
            before = off.ask(2).first_token
            for number in range(ROUNDS):
                turn: Turn = on.ask(10 + 2 * number)
                after = off.ask(11 + 2 * number).first_token
                floor = (before + after) / 2
                rates.append(TOKENS / floor)
                for label, seconds in zip(ratios, (turn.first_token, turn.saved), strict=True):
                    ratios[label].append(floor / seconds)
                before = after
    rate = statistics.median(rates)
    lines = [[MODELS[name], "cache off", f"{rate:.0f}", "1.000", "", ""]]
    for label, seen in ratios.items():
        low, middle, high = statistics.quantiles(seen, n=4)
        saved = f"{turn.rows} rows, {turn.nbytes / 1e6:.1f} MB"
        lines.append([MODELS[name], label, f"{rate * middle:.0f}", f"{middle:.3f}", f"{low:.3f}-{high:.3f}", saved])
    return lines


def main() -> None:
    lines = [line for name in MODELS for line in measure(name)]
    head = [
        f"a prompt of {TOKENS:,} tokens never seen",
        "",
        "tokens/s",
        "ratio (median)",
        "middle half",
        "saved of each",
    ]
    publish("cache_unseen", table(head, lines))


if __name__ == "__main__":
    main()
