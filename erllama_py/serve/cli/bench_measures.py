"""What a benchmark measures, and how often: a plan that runs against anything that answers prompts.

Each repeat has prompts of its own, of random tokens, so that nothing of them was computed before. They are first read,
for one token each, which is the prefill; then asked for again with more tokens: what they have in cells already, the
decodes have to themselves.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from statistics import median
from typing import Protocol

import msgspec

SHORT = 32  # tokens of the prompt that warms up
WARM_UP_TOKENS = 8


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """One reply. Times are in seconds from the question."""

    first: float
    last: float
    generated: int
    prompt_tokens: int
    reused: int
    """Tokens of the prompt that were not computed."""


class Spread(msgspec.Struct, frozen=True, kw_only=True):
    """One figure over all repeats."""

    median: float
    least: float
    most: float
    values: tuple[float, ...]


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it. Rates are in tokens a second, of all sequences together; times in seconds."""

    what: dict[str, str]
    """What was measured: the model, the build, the threads, or the server."""
    prompt_tokens: int
    reply_tokens: int
    sequences: int
    repeats: int
    warm_up_seconds: float
    """A short request before anything is measured."""
    prefill: Spread
    decode: Spread
    compute_seconds: Spread
    """Until the first token of one prompt that is computed."""
    again_seconds: Spread | None = None
    """Until the first token of the same prompt once more."""
    again: str = ""
    """Where its cells came from."""
    again_reused: int = 0
    """Tokens that were not computed then: the fewest of all repeats."""


class Target(Protocol):
    """What is measured."""

    async def tokens(self, count: int, chance: random.Random) -> list[int]:
        """A prompt of so many random tokens."""

    async def ask(self, prompts: Sequence[Sequence[int]], tokens: int) -> list[Answer]:
        """Replies of exactly so many tokens, side by side."""

    async def renew(self) -> str:
        """Forget what lies in cells, where that can be done; where cells come from after it."""

    def describe(self) -> dict[str, str]:
        """What it is."""


def spread(values: Sequence[float]) -> Spread:
    """Of one figure or more."""
    return Spread(median=median(values), least=min(values), most=max(values), values=tuple(values))


async def measure(target: Target, *, prompt: int, tokens: int, sequences: int, repeats: int, seed: int) -> Measured:
    """Do all of it, one after the other."""
    chance = random.Random(seed)
    [warm] = await target.ask([await target.tokens(min(SHORT, prompt), chance)], min(WARM_UP_TOKENS, tokens))
    prefills, decodes, singles = list[float](), list[float](), list[tuple[list[int], Answer]]()
    for _ in range(repeats):
        prompts = [await target.tokens(prompt, chance) for _ in range(sequences)]
        read = await target.ask(prompts, 1)
        prefills.append(rate(sum(one.prompt_tokens - one.reused for one in read), max(one.first for one in read)))
        replies = await target.ask(prompts, tokens)
        decodes.append(rate(sum(one.generated - 1 for one in replies), max(one.last - one.first for one in replies)))
        single = prompts[0] if sequences == 1 else await target.tokens(prompt, chance)
        singles.append((single, read[0] if sequences == 1 else (await target.ask([single], 1))[0]))
    source = await target.renew()
    again = [(await target.ask([single], 1))[0] for single, _ in singles]
    return Measured(
        what=target.describe(), prompt_tokens=prompt, reply_tokens=tokens, sequences=sequences, repeats=repeats,
        warm_up_seconds=warm.last, prefill=spread(prefills), decode=spread(decodes),
        compute_seconds=spread([one.first for _, one in singles]),
        again_seconds=spread([one.first for one in again]), again=source,
        again_reused=min(one.reused for one in again),
    )  # fmt: skip


def rate(tokens: int, seconds: float) -> float:
    """Tokens a second; 0.0 where nothing was measured."""
    return tokens / seconds if seconds > 0 and tokens > 0 else 0.0


def lines(found: Measured) -> list[str]:
    """It in words: what was done, and what came of it. Pure."""
    many = f"{found.sequences} sequences side by side" if found.sequences > 1 else "one sequence"
    times = "1 repeat" if found.repeats == 1 else f"{found.repeats} repeats"
    shown = [f"{name}: {text}" for name, text in found.what.items()]
    shown += [
        f"{times}: prompts of {found.prompt_tokens:,} random tokens, replies of "
        f"{found.reply_tokens:,}, {many}; a warm-up of {found.warm_up_seconds:.2f} s is not counted",
        f"prefill   {_rates(found.prefill)}",
        f"decode    {_rates(found.decode)}",
        f"computed  {_times(found.compute_seconds)} to the first token",
    ]
    if found.again_seconds is not None:
        reused = f"{found.again_reused:,} of {found.prompt_tokens:,} tokens from {found.again}"
        first = f"{_times(found.again_seconds)} to the first token"
        ratio = found.compute_seconds.median / max(found.again_seconds.median, 1e-9)
        gain = f"{ratio:.1f} × faster" if found.again_reused else "so short a prompt is not saved"
        shown.append(f"again     {first}, {reused}: {gain}")
    return shown


def _rates(one: Spread) -> str:
    return f"{one.median:,.1f} tokens/s ({one.least:,.1f} to {one.most:,.1f})"


def _times(one: Spread) -> str:
    return f"{one.median:.3f} s ({one.least:.3f} to {one.most:.3f})"
