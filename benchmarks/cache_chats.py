"""Conversations: many on one system prompt after a restart, one of 20 turns with and without a restart in it, and ones
whose replies do not come back as they were generated.

Whoever shares a system prompt should compute only their own tokens, and a conversation should be written once: the
bytes of its rows are compared with one copy of the KV state of all its tokens, as llama.cpp writes it. Replies that the
next prompt does not have are thrown away: their bytes are counted apart.

The Gemma file has no chat template. Its conversations are rendered here and given to `complete`, which knows nothing of
where turns end; those of SmolLM2 go through `chat`.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from bare_cells import sizing
from fresh import Answer, Peer, peer
from opened import MODELS, WORDS, opened
from report import publish, table

from erllama_py import Completion

AGENTS = 8
TURNS = 20
RESTART_AFTER = 10
SYSTEM_WORDS = 600
QUESTION_WORDS = 20
REPLY_TOKENS = 24
CHANGED_TURNS = 12
# What the history has of a reply that was `REPLY_TOKENS` long; None: it is as it was generated.
CHANGES: dict[str, int | None] = {"as generated": None, "edited, or thinking stripped": 12, "left out": 0}

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
    tokens: list[int]  # of the prompt
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
                done.cache_hit_kind, done.committed_tokens, await tokens(messages, reply=True), written, kept,
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


def changing(life: Peer, length: int | None) -> list[Turn]:
    """A chat whose history has so many words in place of each reply; None: the reply, 0: nothing."""
    messages: Messages = [system(3, SYSTEM_WORDS // 4)]
    turns: list[Turn] = []
    for number in range(CHANGED_TURNS):
        messages.append(question(2000 + number))
        turns.append(life.ask(messages))
        said = turns[-1].reply if length is None else words(3000 + number, length)
        messages += [{"role": "assistant", "content": said}] if said else []
    return turns


def in_common(one: list[int], other: list[int]) -> int:
    """Tokens that two prompts begin alike with."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (left, right) in pairs if left != right), min(len(one), len(other)))


def changed(name: str) -> list[list[str]]:
    """The lines of one model: chats by what becomes of their replies."""
    with peer(sizing, name) as bare:
        per_token = bare.ask()
    lines = []
    for label, length in CHANGES.items():
        with TemporaryDirectory() as folder, peer(chatting, name, Path(folder)) as life:
            turns = changing(life, length)
        pairs = list(itertools.pairwise(turns))
        common = [in_common(before.tokens, after.tokens) for before, after in pairs]
        new = [after.prompt - shared for (_, after), shared in zip(pairs, common, strict=True)]
        again = [max(0, after.prefilled - fresh) for (_, after), fresh in zip(pairs, new, strict=True)]
        thrown = (
            0
            if length is None
            else sum(before.context - shared for (before, _), shared in zip(pairs, common, strict=True))
        )
        copy, kept = turns[-1].context * per_token, turns[-1].kept - thrown * per_token
        lines.append(
            [
                MODELS[name], label, str(turns[-1].context), f"{copy / 1e6:.1f}", f"{kept / 1e6:.1f}",
                f"{kept / copy:.2f} ×", f"{thrown * per_token / 1e6:.1f}", f"{sum(new) / len(new):.0f}",
                f"{sum(again) / len(again):.1f} (most {max(again)})",
            ]
        )  # fmt: skip
    return lines


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
    replies = table(
        [
            f"a chat of {CHANGED_TURNS} turns", "its replies in the history", "tokens at the end", "one copy, MB",
            "kept, MB", "kept", "of replies thrown away, MB", "not in the prompt before", "computed again",
        ],
        [line for name in MODELS for line in changed(name)],
    )  # fmt: skip
    publish("cache_chats", shared + "\n\n" + long + "\n\n" + replies)


if __name__ == "__main__":
    main()
