"""Conversations: many on one system prompt after a restart, one of 20 turns with and without a restart in it, and ones
whose replies do not come back as they were generated.

Whoever shares a system prompt should compute only their own tokens, and a conversation should be written once: the
bytes of its rows are compared with one copy of the KV state of all its tokens, as llama.cpp writes it. Replies that the
next prompt does not have are thrown away: their bytes are counted apart. `replies` as an argument does that part alone.

The Gemma file has no chat template. Its conversations are rendered here and given to `complete`, which knows nothing of
where turns end; those of SmolLM2 go through `chat`.
"""

from __future__ import annotations

import itertools
import random
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from bare_cells import sizing, weighing
from fresh import Answer, Peer, peer
from opened import MODELS, N_CTX, QUOTA, WORDS, identity_of, opened
from report import publish, table
from state_models import STATE_MODELS, state_model

import erllama_py as erllama
from erllama_py import Completion
from erllama_py.cache.keys import pack_tokens, prefix_keys
from erllama_py.serve.models import fetch

AGENTS = 8
TURNS = 20
RESTART_AFTER = 10
SYSTEM_WORDS = 600
QUESTION_WORDS = 20
REPLY_TOKENS = 24
CHANGED_TURNS = 12
# Words that the history has in place of a reply that was `REPLY_TOKENS` long.
CHANGES = {"edited, or thinking stripped": 12, "left out": 0}

Messages = list[dict[str, str]]


def has_template(name: str) -> bool:
    """Whether `chat` can be used."""
    return name == "smollm2"


def words(number: int, count: int) -> str:
    """Text `number` of so many words."""
    return " ".join(random.Random(number).choices(WORDS, k=count))


def system(number: int, count: int) -> dict[str, str]:
    """A system prompt."""
    return {"role": "system", "content": words(number, count)}


def question(number: int) -> dict[str, str]:
    """What a user says."""
    return {"role": "user", "content": f"Question {number}: {words(number, QUESTION_WORDS)}?"}


class Turn(NamedTuple):
    """One answer. Counts are in tokens."""

    reply: str
    prompt: int
    prefilled: int
    read: int
    hit: str
    context: int
    written: int  # bytes, in total so far by this process
    kept: int  # bytes in the tier


def rendered(messages: Messages, reply: bool) -> str:
    """A conversation in Gemma's form; the system prompt is a turn of its own."""
    names = {"system": "user", "user": "user", "assistant": "model"}
    turns = [f"<start_of_turn>{names[one['role']]}\n{one['content']}<end_of_turn>\n" for one in messages]
    return "".join(turns) + "<start_of_turn>model\n" * reply


@asynccontextmanager
async def chatting(name: str, root: Path) -> AsyncIterator[Answer]:
    """A part: answers a conversation; of a system prompt alone it tells the length in tokens."""
    async with opened(name, root) as (runtime, model):

        async def tokens(messages: Messages, reply: bool) -> list[int]:
            if has_template(name):
                return await model.apply_chat_template(messages, add_generation_prompt=reply)
            return await model.tokenize(rendered(messages, reply))

        async def answer(messages: Messages) -> Turn | int:
            if messages[-1]["role"] == "system":
                return len(await tokens(messages, reply=False))
            options: dict[str, Any] = {"response_tokens": REPLY_TOKENS, "temperature": 0.0}
            if has_template(name):
                done: Completion = await model.chat(messages, **options)
            else:
                done = await model.complete(rendered(messages, reply=True), **options)
            await runtime.cache.flush()
            written = int((await runtime.cache.counters()).get("saves.bytes.disk", 0))
            kept = sum(tier.used_bytes for tier in await runtime.cache.tiers() if tier.kind == "disk")
            return Turn(
                done.reply, done.prompt_tokens, done.stats.prefill_tokens, done.cache_delta.read,
                done.cache_hit_kind, done.committed_tokens, written, kept,
            )  # fmt: skip

        yield answer


def agents(name: str) -> list[str]:
    """The line of one model: what those who share a system prompt have computed after a restart."""
    shared = system(1, SYSTEM_WORDS)
    with TemporaryDirectory() as folder:
        root = Path(folder)
        with peer(chatting, name, root) as life:
            life.ask([shared, question(100)])
        with peer(chatting, name, root) as life:
            length = life.ask([shared])
            turns: list[Turn] = [life.ask([shared, question(number)]) for number in range(AGENTS)]
    # A message of the user's own follows the shared part at once, so all that is read is of the shared part.
    again = sum(max(0, length - turn.read) for turn in turns)
    own = sum(turn.prompt - length for turn in turns)
    prefilled = sum(turn.prefilled for turn in turns)
    hits = " ".join(sorted({turn.hit for turn in turns}))
    return [MODELS[name], str(length), str(own), str(prefilled), str(again), hits]


def conversation(life: Iterator[Peer]) -> list[Turn]:
    """20 turns, each of them answered by the next of `life`."""
    messages: Messages = [system(2, SYSTEM_WORDS // 4)]
    turns = []
    for number in range(TURNS):
        messages.append(question(1000 + number))
        turn: Turn = next(life).ask(messages)
        turns.append(turn)
        messages.append({"role": "assistant", "content": turn.reply})
    return turns


def one_life(name: str, root: Path) -> list[Turn]:
    """The conversation in one process."""
    with peer(chatting, name, root) as life:
        return conversation(itertools.repeat(life))


def two_lives(name: str, root: Path) -> list[Turn]:
    """The conversation with a restart in the middle."""

    def lives() -> Iterator[Peer]:
        for count in (RESTART_AFTER, TURNS - RESTART_AFTER):
            with peer(chatting, name, root) as life:
                yield from itertools.repeat(life, count)

    return conversation(lives())


def chats(name: str) -> list[list[str]]:
    """The lines of one model."""
    with peer(sizing, name) as bare:
        per_token = bare.ask()
    lines = []
    for label, run in (("one process", one_life), (f"a restart after turn {RESTART_AFTER}", two_lives)):
        with TemporaryDirectory() as folder:
            turns = run(name, Path(folder))
        copy = turns[-1].context * per_token
        written = sum(turn.written for turn in (turns[RESTART_AFTER - 1], turns[-1]) if run is two_lives)
        written = written or turns[-1].written
        later = [turn.prefilled for turn in turns[1:]]
        new = [after.prompt - before.context for before, after in itertools.pairwise(turns)]
        lines.append(
            [
                MODELS[name], label, str(turns[-1].context), f"{copy / 1e6:.1f}", f"{written / 1e6:.1f}",
                f"{written / copy:.2f} ×", f"{turns[-1].kept / copy:.2f} ×", str(turns[0].prefilled),
                f"{sum(later) / len(later):.0f} (most {max(later)})", f"{sum(new) / len(new):.0f}",
                str(turns[RESTART_AFTER].prefilled),
            ]
        )  # fmt: skip
    return lines


class Changed(NamedTuple):
    """One answer in a chat whose replies do not come back. Counts are in tokens."""

    tokens: list[int]  # of the prompt
    prefilled: int
    context: int


class Left(NamedTuple):
    """What a chat has left: bytes of rows that its last turn is made of, and of the others."""

    kept: int
    thrown: int
    rows: int


@asynccontextmanager
async def replying(name: str, root: Path) -> AsyncIterator[Answer]:
    """A part: answers a conversation; asked for nothing, it tells what the last one has left. One thread: two wait for
    each other on a busy machine, and no times are taken."""
    path = str(state_model(name, root)) if name in STATE_MODELS else fetch(name)
    options: Any = {"n_ctx": N_CTX, "n_threads": 1, "n_seq_max": 1}
    config: Any = {"model_path": path, "context_opts": options, "tier": "disk", "tier_srv": "disk"}
    tiers: Any = {"disk": {"kind": "disk", "root": root / "rows", "quota_bytes": QUOTA}}
    template = has_template(name) or name in STATE_MODELS
    held: list[int] = []
    async with erllama.Runtime(tiers=tiers) as runtime:
        model = await runtime.load_model(name, config)

        async def answer(messages: Messages | None) -> Changed | Left:
            if messages is None:
                await runtime.cache.flush()
                ends = range(1, len(held) + 1)
                keys = {key.hex() for key in prefix_keys(identity_of(model), pack_tokens(held), ends)}
                rows = [row for row in await runtime.cache.rows() if row.reason != "turn"]
                kept = [row.nbytes for row in rows if row.key in keys]
                return Left(sum(kept), sum(row.nbytes for row in rows) - sum(kept), len(kept))
            asked: dict[str, Any] = {"response_tokens": REPLY_TOKENS, "temperature": 0.0}
            if template:
                tokens = await model.apply_chat_template(messages)
                done: Completion = await model.chat(messages, exact_turns=False, **asked)
            else:
                tokens = await model.tokenize(rendered(messages, reply=True))
                done = await model.complete(tokens, **asked)
            held[:] = [*tokens, *done.generated][: done.committed_tokens]
            return Changed(tokens, done.stats.prefill_tokens, done.committed_tokens)

        yield answer


def changing(life: Peer, name: str, length: int) -> tuple[list[Changed], Left]:
    """A chat whose history has so many words in place of each reply; 0: nothing. The made-up models read bytes, so
    that their words are fewer."""
    part = 4 if name in STATE_MODELS else 1
    messages: Messages = [system(3, SYSTEM_WORDS // 4 // part)]
    turns: list[Changed] = []
    for number in range(CHANGED_TURNS):
        said = f"Question {number}: {words(2000 + number, QUESTION_WORDS // part)}?"
        messages.append({"role": "user", "content": said})
        turns.append(life.ask(messages))
        if length:
            messages.append({"role": "assistant", "content": words(3000 + number, length // part)})
    return turns, life.ask(None)


def in_common(one: list[int], other: list[int]) -> int:
    """Tokens that two prompts begin alike with."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (left, right) in pairs if left != right), min(len(one), len(other)))


def changed(name: str) -> list[list[str]]:
    """The lines of one model: chats by what becomes of their replies."""
    lines = []
    for label, length in CHANGES.items():
        with TemporaryDirectory() as folder:
            path = str(state_model(name, Path(folder))) if name in STATE_MODELS else fetch(name)
            with peer(weighing, path) as bare, peer(replying, name, Path(folder)) as life:
                turns, left = changing(life, name, length)
                copy = bare.ask(turns[-1].context)
        pairs = list(itertools.pairwise(turns))
        new = [len(after.tokens) - in_common(before.tokens, after.tokens) for before, after in pairs]
        again = [max(0, after.prefilled - fresh) for (_, after), fresh in zip(pairs, new, strict=True)]
        lines.append(
            [
                {**MODELS, **STATE_MODELS}[name], label, str(turns[-1].context), f"{copy / 1e6:.2f}", str(left.rows),
                f"{left.kept / 1e6:.2f}", f"{left.kept / copy:.2f} ×", f"{left.thrown / 1e6:.2f}",
                f"{sum(new) / len(new):.0f}", f"{sum(again) / len(again):.1f} (most {max(again)})",
            ]
        )  # fmt: skip
        print(" | ".join(lines[-1]), flush=True)
    return lines


def replies() -> None:
    """The table of chats whose replies do not come back: some minutes, on a busy machine too."""
    head = [
        f"a chat of {CHANGED_TURNS} turns", "its replies in the history", "tokens at the end", "one copy, MB",
        "rows of it", "kept, MB", "kept", "of replies thrown away, MB", "not in the prompt before", "computed again",
    ]  # fmt: skip
    publish("cache_replies", table(head, [line for name in (*MODELS, *STATE_MODELS) for line in changed(name)]))


def main() -> None:
    shared = table(
        [
            f"{AGENTS} chats on one system prompt, after a restart; tokens", "system prompt", "own, in total",
            "computed, in total", "of the system prompt", "hits",
        ],
        [agents(name) for name in MODELS],
    )  # fmt: skip
    long = table(
        [
            f"a chat of {TURNS} turns", "", "tokens at the end", "one copy, MB", "written, MB", "written", "kept",
            "computed in turn 1", "in each later turn", "new in each", f"in turn {RESTART_AFTER + 1}",
        ],
        [line for name in MODELS for line in chats(name)],
    )  # fmt: skip
    publish("cache_chats", shared + "\n\n" + long)
    replies()


if __name__ == "__main__":
    replies() if sys.argv[1:] == ["replies"] else main()
