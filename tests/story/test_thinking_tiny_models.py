"""Thinking on both backends, with models that say anything: what is counted, closed and kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers.both_backends import BACKENDS, loaded
from helpers.runtime import drain

import erllama_py as erllama

pytestmark = pytest.mark.anyio
ASK = [{"role": "user", "content": "hello"}]
# The block is open from the first token on: what a random model says is thinking.
OPENED = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}{# </think> #}"
)
OPTIONS: Any = {"chat_template": OPENED, "temperature": 0.0, "ignore_eos": True}


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    """Each backend."""
    return str(request.param)


@pytest.mark.slow
async def test_a_budget_closes_the_block_of_any_model(backend: str, tmp_path: Path) -> None:
    """The tokens before it are those that the model draws without one; what comes after is text."""
    async with loaded(backend, tmp_path) as model:
        free = await model.chat(ASK, options=OPTIONS, response_tokens=40)
        assert (free.reply, free.thinking is not None) == ("", True)
        for budget in (0, 1, 7):
            told = await model.chat(ASK, options=OPTIONS, response_tokens=40, thinking_budget_tokens=budget)
            assert told.generated[:budget] == free.generated[:budget]
            assert len(told.generated) == 40
            closing = await model.tokenize("</think>", add_bos=False)
            at = next(at for at in range(budget, 40) if told.generated[at : at + len(closing)] == closing)
            assert at <= budget + 8
            assert (
                told.reply.strip()
                == (await model.detokenize(told.generated[at + len(closing) :], special=False)).strip()
            )


@pytest.mark.slow
@pytest.mark.parametrize("fields", [{}, {"repetition_penalty": 1.2, "temperature": 0.9, "seed": 3}, {"logprobs": 1}])
async def test_parked_or_cached_it_is_the_same(backend: str, fields: dict[str, Any], tmp_path: Path) -> None:
    """What was written is decoded as what was drawn is, so rows of it can be used again."""
    asked: Any = {**OPTIONS, "response_tokens": 40, "thinking_budget_tokens": 5, **fields}
    asked["thinking_budget_message"] = "That is enough of it."
    scheduler = {"turn_ms": 1}
    async with loaded(backend, tmp_path, context={"n_seq_max": 1}, scheduler=scheduler) as model:
        alone = await model.chat(ASK, options=asked)
        assert alone.thinking is not None
        assert alone.thinking.endswith("That is enough of it.")
        async with model.stream_chat(ASK, options=asked) as one, model.stream_chat(ASK, options=asked) as two:
            dones = [[event async for event in events][-1] for events in (one, two)]
        for done in dones:
            assert isinstance(done, erllama.Done)
            assert done.completion.generated == alone.generated
            assert (done.completion.thinking, done.completion.reply) == (alone.thinking, alone.reply)


async def test_a_structure_follows_the_thinking_of_any_model(backend: str, tmp_path: Path) -> None:
    """Once the block is closed the reply obeys."""
    asked: Any = {**OPTIONS, "ignore_eos": False, "thinking_budget_tokens": 6, "response_tokens": 200}
    async with loaded(backend, tmp_path) as model:
        told = await model.chat(ASK, options=asked, choice=["yes", "no"])
        assert told.parsed in ("yes", "no")
        assert told.thinking is not None


@pytest.mark.slow
async def test_events_and_completion_agree(backend: str, tmp_path: Path) -> None:
    """Whatever the budget and the seed."""
    async with loaded(backend, tmp_path) as model:
        for seed in range(8):
            asked: Any = {
                **OPTIONS,
                "temperature": 1.5,
                "seed": seed,
                "response_tokens": 30,
                "thinking_budget_tokens": seed,
            }
            *events, done = await drain(model.stream_chat(ASK, options=asked))
            assert isinstance(done, erllama.Done)
            texts = [event.text for event in events if isinstance(event, erllama.TextDelta)]
            thoughts = [event.text for event in events if isinstance(event, erllama.ThinkingDelta)]
            assert "".join(texts) == done.completion.reply
            assert "".join(thoughts) == done.completion.thinking
