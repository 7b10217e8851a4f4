"""Chats whose replies do not come back as they were generated, and what is kept of them. Counted in tokens."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

import erllama_py as erllama
from helpers.backends import MEMORY
from helpers.tiny_gguf import CHAT_TEMPLATE, WINDOW, Kind, tiny_gguf

Message = dict[str, Any]
WORDS = ("the", "and", "river", "boat", "harbour", "light", "wind", "stone")
# What opens a reply is not in the history: thinking is stripped from it.
THINKING = CHAT_TEMPLATE.replace("<|im_start|>assistant\n'", "<|im_start|>assistant\n<think>\n'")
OPTIONS: dict[str, Any] = {"response_tokens": 30, "temperature": 1.0, "seed": 3}
HOWS = ("edited", "thinking", "dropped", "exact")


def words(number: int, count: int) -> str:
    """Text `number` of so many words."""
    return " ".join(random.Random(number).choices(WORDS, k=count))


def said(how: str, number: int, done: erllama.Completion) -> list[Message]:
    """What the history has of a reply."""
    text = done.reply if how == "exact" else words(200 + number, 10)
    return [] if how == "dropped" else [{"role": "assistant", "content": text}]


def in_common(one: Sequence[int], other: Sequence[int]) -> int:
    """Tokens that two prompts begin alike with."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (left, right) in pairs if left != right), min(len(one), len(other)))


class Kept(msgspec.Struct):
    """What a chat computed and left. `again` are for each turn after the first the tokens that it computed although the
    prompt before it has them too; `new` those that it had to compute."""

    again: list[int]
    new: list[int]
    held: int  # tokens in the sequence at the end
    thrown: int  # of all turns: read or generated, and not in the next prompt
    rows: list[erllama.RowInfo]

    @property
    def stored(self) -> int:
        """Tokens in all rows."""
        return sum(row.end - row.start for row in self.rows)


def config(backend: str, kind: Kind, folder: Path) -> Any:
    """A model that saves into the tier `d`."""
    sizes = {"n_ctx": 4096, "n_seq_max": 1, "n_batch": 512, "n_ubatch": 128, "n_threads": 1}
    fields: dict[str, Any] = {"context_opts": sizes, "tier": "disk", "tier_srv": "d"}
    if backend == "stub":
        window = {"n_swa": WINDOW} if kind == "window" else {}
        return fields | {"backend": "stub", "stub": {"memory": MEMORY[kind], **window}}
    return fields | {"model_path": tiny_gguf(kind, folder)}


async def chatted(
    fields: Any, folder: Path, how: str, *, turns: int, raw: bool = False, restarts: bool = False,
) -> Kept:  # fmt: skip
    """A chat of so many turns, in one process or each after a restart; with `raw` `complete` is given its tokens."""
    tiers: Any = {"d": {"kind": "disk", "root": folder / "rows", "quota_bytes": 1 << 30}}
    more: dict[str, Any] = {"chat_template": THINKING} if how == "thinking" else {}
    chat: list[Message] = [{"role": "system", "content": words(0, 30)}]
    kept, before = Kept([], [], 0, 0, []), list[int]()

    async def turn(model: erllama.Model, number: int) -> None:
        nonlocal before
        chat.append({"role": "user", "content": words(100 + number, 8)})
        tokens = await model.apply_chat_template(chat, **more)
        done = await (model.complete(tokens, **OPTIONS) if raw else model.chat(chat, **more, **OPTIONS))
        if before:
            common = in_common(before, tokens)
            kept.again.append(done.stats.prefill_tokens - (len(tokens) - common))
            kept.new.append(len(tokens) - common)
            kept.thrown += 0 if how == "exact" else kept.held - common
        kept.held, before = done.committed_tokens, tokens
        chat.extend(said(how, number, done))

    lives = [[number] for number in range(turns)] if restarts else [range(turns)]
    for life in lives:
        async with erllama.Runtime(tiers=tiers) as runtime:
            model = await runtime.load_model("m", fields)
            for number in life:
                await turn(model, number)  # at once: what was saved last may not be stored yet
            await runtime.cache.flush()
            kept.rows = [row for row in await runtime.cache.rows() if row.reason != "turn"]
    return kept
