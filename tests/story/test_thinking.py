"""Thinking, told from text, closed and signed: on the scripted stub, whose replies are given."""

from __future__ import annotations

from typing import Any

import pytest
from helpers.runtime import drain
from helpers.scripted import scripted

import erllama_py as erllama

pytestmark = pytest.mark.anyio

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['reasoning_content'] %}<think>\n{{ m['reasoning_content'] }}\n</think>\n\n{% endif %}"
    "{{ m['content'] }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
OPENED = TEMPLATE.replace("<think>\n\n</think>\n\n{% endif %}", "<think>\n\n</think>\n\n{% else %}<think>\n{% endif %}")
KINDS: dict[str, dict[str, Any]] = {
    "text": {}, "words": {"words": ("<think>", "</think>")}, "controls": {"controls": ("<think>", "</think>")},
}  # fmt: skip
ASK = [{"role": "user", "content": "hello"}]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> dict[str, Any]:
    """How markers are tokens: not at all, visible ones, or hidden ones."""
    return KINDS[request.param]


async def test_thinking_is_told_from_text(kind: dict[str, Any]) -> None:
    """In the completion, and in the events of a stream."""
    async with scripted("<think>\nhm, so\n</think>\n\nyes", template=TEMPLATE, **kind) as (_, model, _script):
        completion = await model.chat(ASK)
        assert (completion.thinking, completion.reply) == ("hm, so", "yes")
        *events, done = await drain(model.stream_chat(ASK))
        kinds = [type(event) for event in events if not isinstance(event, erllama.Progress)]
        assert "".join(one.text for one in events if isinstance(one, erllama.ThinkingDelta)) == "hm, so"
        assert "".join(one.text for one in events if isinstance(one, erllama.TextDelta)) == "yes"
        assert kinds.count(erllama.ThinkingEnd) == 1
        assert isinstance(done, erllama.Done)
        assert done.completion.generated == completion.generated


async def test_a_template_opens_the_block(kind: dict[str, Any]) -> None:
    """The reply then begins in it."""
    async with scripted("hm</think>yes", template=OPENED, **kind) as (_, model, script):
        completion = await model.chat(ASK)
        assert (completion.thinking, completion.reply) == ("hm", "yes")
        assert script.prompts[0].endswith("<think>\n")


async def test_a_budget_closes_the_block(kind: dict[str, Any]) -> None:
    """After so many tokens, with a message that is part of the thinking."""
    script = "<think>abcdefgh</think>yes"
    async with scripted(script, template=TEMPLATE, **kind) as (_, model, _script):
        completion = await model.chat(ASK, thinking_budget_tokens=3, thinking_budget_message="… enough")
        assert (completion.thinking, completion.reply) == ("abc… enough", "yes")
        completion = await model.chat(ASK, thinking_budget_tokens=0)
        assert (completion.thinking, completion.reply) == ("", "yes")
        completion = await model.chat(ASK, thinking_budget_tokens=8)
        assert (completion.thinking, completion.reply) == ("abcdefgh", "yes")
