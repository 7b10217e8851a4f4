"""Exact turns under random clients: whatever they send, the prompt says that conversation and no other."""

from __future__ import annotations

import random
import re
from typing import Any

import pytest
from helpers.stateless import TOOLS, call, results, thinker, thought

import erllama_py as erllama

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

THOUGHT = re.compile(r"<think>.*?</think>\s*", re.DOTALL)


def said(draw: random.Random) -> str:
    """One of a few replies, by one of a few thoughts: many say the same by other tokens."""
    text = draw.choice(["a", "b", call("Oslo", 1), call("Rome", 1), f"a\n{call('Oslo', 2)}"])
    return thought(draw.choice("xyz"), text) if draw.random() < 0.8 else text


def edited(draw: random.Random, chat: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The conversation with something changed, left out, cut off or added."""
    chat = [dict(one) for one in chat]
    at = draw.randrange(len(chat))
    match draw.choice(["text", "less", "cut", "system", "nothing", "thinking"]):
        case "text":
            chat[at]["content"] = draw.choice(["a", "b", "u"])
            chat[at].pop("tool_calls", None)  # by their ids it would be the same reply
        case "less" if len(chat) > 1:
            del chat[at]
        case "cut":
            chat = chat[: at + 1]
        case "system":
            chat = [{"role": "system", "content": draw.choice("ab")}, *chat]
        case "thinking" if chat[at]["role"] == "assistant":
            chat[at]["reasoning_content"] = draw.choice("xyz")
    return chat


def words(prompt: str) -> str:
    """A prompt without thoughts, and without the spaces that models and templates differ in, nor marks of calls, which
    are no text where there are no tools."""
    return re.sub(r"\s+|</?tool_call>", "", THOUGHT.sub("", prompt))


async def text_of(model: erllama.Model, chat: list[dict[str, Any]], tools: Any) -> str:
    return await model.detokenize(await model.apply_chat_template(chat, tools=tools))


@pytest.mark.either_loop
@pytest.mark.parametrize("seed", range(4))
async def test_a_prompt_says_the_conversation_that_was_sent(seed: int) -> None:
    """Forks, edits, cut ends, other tools and salts, thoughts sent back or invented: never a reply of another one."""
    draw = random.Random(seed)
    async with thinker(lambda prompt: said(draw)) as (runtime, model, script):
        known: list[list[dict[str, Any]]] = [[{"role": "user", "content": "u"}]]
        for _ in range(150):
            chat = edited(draw, draw.choice(known)) if draw.random() < 0.4 else draw.choice(known)
            tools = draw.choice([TOOLS, TOOLS, None])
            salt = draw.choice([None, "s"])
            options: Any = {"tools": tools, "cache_salt": salt, "temperature": 0.0, "response_tokens": 200}
            expected = words(await text_of(model, chat, tools))
            done = await model.chat(chat, **options)
            assert words(script.prompts[-1]) == expected
            back = {name: one for name, one in done.message.items() if name != "reasoning_content"}
            more = [back, *(results(done) or [{"role": "user", "content": draw.choice("uv")}])]
            if len(chat) < 12:
                known.append([*chat, *more])
            known = known[-12:]
        counters = await runtime.cache.counters()
        assert counters["turns.found"] > 40
