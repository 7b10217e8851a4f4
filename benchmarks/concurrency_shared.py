"""Eight agents that arrive together with one new system prompt: what they compute, and when their first tokens come.

With sharing, the system prompt is computed once and the cells are lent. Without, each request has a `cache_salt` of its
own, which forbids to lend cells or rows; nothing else differs. Rounds with and without take turns in one process, and
each has a system prompt that nobody has seen.

Then eight others come with a system prompt that is there. Their floor is the shortest loop over ctypes that shares it,
reads all own parts in one batch and decodes a batch of eight; a round of ours stands between two of it, in another
process.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from bare_batch import sharing
from fresh import Peer, peer
from opened import N_THREADS, prompt
from report import publish, table

import erllama_py as erllama
from erllama_py.serve.models import fetch

AGENTS = 8
SYSTEM_TOKENS, QUESTION_TOKENS, REPLY_TOKENS = 700, 60, 32
N_CTX = 8192  # all prompts fit without sharing, too
ROUNDS = 5
OPTIONS: dict[str, Any] = {"response_tokens": REPLY_TOKENS, "temperature": 0.0}


class Heard(NamedTuple):
    """One answer: seconds until its first token, and prompt tokens that were computed."""

    first: float
    computed: int


class Round(NamedTuple):
    """All answers of one round, in the order of their first tokens, and the seconds until the last was whole."""

    heard: list[Heard]
    seconds: float


async def ask(model: erllama.Model, tokens: Sequence[int], began: float, **options: Any) -> Heard:
    """One agent; its time counts from when all of them begin."""
    first = 0.0
    async with model.stream(tokens, **OPTIONS, **options) as events:
        async for event in events:
            if isinstance(event, erllama.TextDelta) and not first:
                first = time.perf_counter() - began
            if isinstance(event, erllama.Done):
                return Heard(first, event.completion.stats.prefill_tokens)
    raise AssertionError


async def own_parts(model: erllama.Model, number: int) -> list[list[int]]:
    """What each agent asks."""
    return [await prompt(model, 1000 * (number + 1) + agent, QUESTION_TOKENS) for agent in range(AGENTS)]


async def together(model: erllama.Model, number: int, questions: Sequence[list[int]], share: bool = True) -> Round:
    """All agents at once, on system prompt `number`."""
    system = await prompt(model, number, SYSTEM_TOKENS)
    salts = [{} if share else {"cache_salt": f"agent {number} {agent}"} for agent in range(AGENTS)]
    began = time.perf_counter()
    heard = await asyncio.gather(
        *[ask(model, [*system, *own], began, **salt) for own, salt in zip(questions, salts, strict=True)]
    )
    return Round(sorted(heard), time.perf_counter() - began)


async def main() -> None:
    context: erllama.ContextOptsDict = {"n_ctx": N_CTX, "n_seq_max": AGENTS, "n_threads": N_THREADS}
    rounds: dict[bool, list[Round]] = {True: [], False: []}
    async with erllama.Runtime(ram_quota_bytes=2 << 30) as runtime:
        model = await runtime.load_model("shared", {"model_path": fetch("smollm2"), "context_opts": context})
        await model.complete("Once", response_tokens=8)
        for number in range(2 * ROUNDS):
            share = number % 2 == 0
            rounds[share].append(await together(model, number, await own_parts(model, number), share))
            await runtime.evict(model)
            await runtime.cache.flush()
        with peer(sharing, fetch("smollm2"), N_CTX, N_THREADS, AGENTS) as bare:
            known = await known_rounds(model, bare)
    text = table(HEAD, [line(rounds[False], rounds[False]), line(rounds[True], rounds[False])])
    publish("concurrency_shared", text + "\n\n" + known)


async def known_rounds(model: erllama.Model, bare: Peer) -> str:
    """The table of rounds whose system prompt is there."""
    system = await prompt(model, 0, SYSTEM_TOKENS)
    floors, ratios, computed = list[float](), list[float](), set[int]()
    before = 0.0
    for number in range(100, 100 + 2 * ROUNDS + 1):
        questions = await own_parts(model, number)
        before = before or bare.ask(system, questions, REPLY_TOKENS)
        one = await together(model, 0, questions)
        after = bare.ask(system, questions, REPLY_TOKENS)
        if number > 100:  # the first one computes the system prompt
            floors.append(after)
            ratios.append(2 * one.seconds / (before + after))
            computed.add(sum(heard.computed for heard in one.heard))
        before = after
    low, _, high = statistics.quantiles(ratios, n=4)
    head = [
        f"{AGENTS} agents on a system prompt that is there", "computed, in total", "bare loop, s",
        "ours, of its time (at most 1.3 ×)", "middle half of the rounds",
    ]  # fmt: skip
    middle = f"{statistics.median(ratios):.2f} ×"
    return table(head, [["", span(computed), f"{statistics.median(floors):.2f}", middle, f"{low:.2f}-{high:.2f}"]])


HEAD = [
    f"{AGENTS} agents, a new system prompt of {SYSTEM_TOKENS} tokens, questions of {QUESTION_TOKENS}",
    "tokens computed, in total", "of the system prompt", "first token, s: the soonest", "median", "the last",
    "all whole, s", "median sooner (at least 3 ×)",
]  # fmt: skip


def line(rounds: Sequence[Round], others: Sequence[Round]) -> list[str]:
    """The medians of the rounds of one kind; they are compared pair by pair."""
    computed = {sum(heard.computed for heard in one.heard) for one in rounds}
    system = {count - AGENTS * QUESTION_TOKENS for count in computed}
    firsts = [[one.heard[place].first for one in rounds] for place in (0, -1)]
    sooner = statistics.median(middle(b) / middle(a) for a, b in zip(rounds, others, strict=True))
    return [
        "cells lent" if rounds is not others else "each by itself (`cache_salt`)", span(computed), span(system),
        f"{statistics.median(firsts[0]):.2f}", f"{statistics.median(map(middle, rounds)):.2f}",
        f"{statistics.median(firsts[1]):.2f}", f"{statistics.median(one.seconds for one in rounds):.2f}",
        f"{sooner:.2f} ×" if rounds is not others else "",
    ]  # fmt: skip


def middle(one: Round) -> float:
    """The median first token of a round."""
    return statistics.median(heard.first for heard in one.heard)


def span(counts: set[int]) -> str:
    """One number where all rounds agree."""
    return f"{min(counts):,}" + (f"-{max(counts):,}" if len(counts) > 1 else "")


if __name__ == "__main__":
    asyncio.run(main())
