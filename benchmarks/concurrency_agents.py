"""64 agents with three turns each on eight sequences and cells for a quarter of them.

All begin at once, and each says its next turn as soon as it has its answer. Counted are the tokens that were computed
as prompts, against those that had to be: the system prompt once, and what each turn adds. The replies are compared with
what the model says alone, in a process of its own and by the bare loop: it is led along each conversation, token by
token, and tells what it would have taken.
"""

from __future__ import annotations

import asyncio
import math
import random
import statistics
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import llama_cpp
from bare import BareLoop
from fresh import Answer, peer
from opened import N_THREADS, WORDS
from report import publish, table

import erllama_py as erllama
from erllama_py.serve.models import fetch

AGENTS = 64
TURNS = 3
N_SEQ_MAX = 8
SHARE = 4  # the context holds one token in so many of all that the conversations come to, shared ones counted once
SYSTEM_WORDS, QUESTION_WORDS, REPLY_TOKENS = 120, 24, 32
ESTIMATE = 200  # tokens of a conversation that are its own
ALONE_CTX = 1024
OPTIONS: dict[str, Any] = {"response_tokens": REPLY_TOKENS, "temperature": 0.0}


class Said(NamedTuple):
    """One turn: where its prompt and its reply end in the conversation."""

    prompt: int
    end: int
    committed: int  # tokens in the cells; what the next turn need not compute
    prefilled: int
    parks: int
    hit: str
    miss: str | None


class Talk(NamedTuple):
    """What one agent said and heard."""

    tokens: list[int]
    turns: list[Said]


class Choice(NamedTuple):
    """What the model alone says to one token of a reply."""

    alike: bool
    nats: float  # how much likelier its own choice was than this token; 0.0 where they are the same


async def talk(model: erllama.Model, number: int) -> Talk:
    """All turns of one agent."""
    chance = random.Random(number)
    system = {"role": "system", "content": " ".join(random.Random(-1).choices(WORDS, k=SYSTEM_WORDS))}
    turns: list[Said] = []
    async with model.session(messages=[system]) as session:
        for _ in range(TURNS):
            done = await session.chat(" ".join(chance.choices(WORDS, k=QUESTION_WORDS)) + "?", **OPTIONS)
            assert session.exact
            said = done.prompt_tokens, len(session.tokens), done.committed_tokens, done.stats.prefill_tokens
            turns.append(Said(*said, done.stats.parks, done.cache_hit_kind, done.stats.miss_reason))
        return Talk(session.tokens, turns)


def common_tokens(talks: Sequence[Talk]) -> int:
    """How much all conversations begin with."""
    columns = zip(*[one.tokens for one in talks], strict=False)
    return next(at for at, column in enumerate(columns) if len({*column}) > 1)


def new_tokens(talks: Sequence[Talk]) -> tuple[int, int]:
    """Prompt tokens that had to be computed, and how many were computed that had been already.

    Of the first turns that is the system prompt once, and what differs; of a later one, what is not in its
    conversation's cells yet. Questions that begin alike by chance make up for nothing.
    """
    common = common_tokens(talks)
    new, twice = common, -common
    for _, turns in talks:
        known = common
        for turn in turns:
            new += turn.prompt - known
            twice += max(0, turn.prefilled - (turn.prompt - known))
            known = turn.committed
    return new, twice


@asynccontextmanager
async def alone() -> AsyncIterator[Answer]:
    """A part: leads one sequence along a conversation, and tells what it would have said at each token of a reply."""
    loop = BareLoop(fetch("smollm2"), ALONE_CTX, N_THREADS)
    assert loop.model is not None
    n_vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(loop.model))

    def choice(token: int) -> Choice:
        own = llama_cpp.llama_sampler_sample(loop.sampler, loop.context, -1)
        logits = llama_cpp.llama_get_logits_ith(loop.context, -1)
        assert own < n_vocab
        return Choice(own == token, float(logits[own] - logits[token]))

    async def answer(spoken: Talk) -> list[list[Choice]]:
        llama_cpp.llama_memory_seq_rm(loop.memory, 0, -1, -1)
        replies, at = [], 0
        for turn in spoken.turns:
            loop.decode(spoken.tokens[at : turn.prompt])
            reply = []
            for at in range(turn.prompt, turn.end):
                reply.append(choice(spoken.tokens[at]))
                if at + 1 < turn.end:
                    loop.decode([spoken.tokens[at]])
            at = turn.end - 1 if turn.end > turn.prompt else turn.prompt
            replies.append(reply)
        return replies

    yield answer


async def crowd(n_ctx: int) -> tuple[list[Talk | BaseException], float]:
    """All agents at once, and the seconds until the last of them was done."""
    context: erllama.ContextOptsDict = {"n_ctx": n_ctx, "n_seq_max": N_SEQ_MAX, "n_threads": N_THREADS}
    async with erllama.Runtime(ram_quota_bytes=2 << 30) as runtime:
        model = await runtime.load_model("agents", {"model_path": fetch("smollm2"), "context_opts": context})
        began = time.perf_counter()
        talks = await asyncio.gather(*[talk(model, number) for number in range(AGENTS)], return_exceptions=True)
        return talks, time.perf_counter() - began


def main() -> None:
    n_ctx = AGENTS * ESTIMATE // SHARE
    ended, seconds = asyncio.run(crowd(n_ctx))
    talks = [one for one in ended if isinstance(one, Talk)]
    for failure in ended:
        if not isinstance(failure, Talk):
            print("failed:", repr(failure))
    turns = [turn for one in talks for turn in one.turns]
    computed, (new, twice) = sum(turn.prefilled for turn in turns), new_tokens(talks)
    generated = sum(turn.end - turn.prompt for turn in turns)
    held = sum(len(one.tokens) for one in talks) - (len(talks) - 1) * common_tokens(talks)
    counts = [
        f"{len(talks)} of {AGENTS}", str(len(ended) - len(talks)), f"{seconds:.0f}", f"{generated / seconds:.0f}",
        f"{held:,} in {n_ctx:,} cells", str(sum(turn.parks for turn in turns)),
        f"{new:,}", f"{computed:,}", f"{twice:,}",
    ]  # fmt: skip
    head = [
        f"{AGENTS} agents, {TURNS} turns each, `n_seq_max` {N_SEQ_MAX}", "failed", "seconds", "tokens/s generated",
        "tokens at the end, shared ones once", "parked", "prompt tokens that were new", "computed", "computed twice",
    ]  # fmt: skip
    text = table(head, [counts])
    with peer(alone) as reference:
        replies = [reply for one in talks for reply in reference.ask(one)]
    publish("concurrency_agents", text + "\n\n" + compared(replies))


def compared(replies: Sequence[Sequence[Choice]]) -> str:
    """The replies against those of a run alone. Up to their first difference both have seen the same tokens."""
    firsts = [next((at for at, one in enumerate(reply) if not one.alike), None) for reply in replies]
    apart = [(at, reply[at].nats) for at, reply in zip(firsts, replies, strict=True) if at is not None]
    choices = [one for reply in replies for one in reply]
    alike = sum(one.alike for one in choices)
    at = str(round(statistics.median(at for at, _ in apart)) + 1) if apart else "–"
    nats = sorted(nats for _, nats in apart) or [math.nan]
    head = [
        f"replies of at most {REPLY_TOKENS} tokens against the bare loop alone", "the same", "part at token (median)",
        "there its own choice was likelier by, nats (median)", "most", "tokens that it would have taken too",
    ]  # fmt: skip
    row = [
        str(len(replies)), str(len(replies) - len(apart)), at, f"{statistics.median(nats):.3f}", f"{nats[-1]:.3f}",
        f"{alike:,} of {len(choices):,}",
    ]  # fmt: skip
    return table(head, [row])


if __name__ == "__main__":
    main()
