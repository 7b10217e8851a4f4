"""What `chat_format` says of a model."""

from __future__ import annotations

import pytest
from helpers.scripted import scripted

import erllama_py as erllama

THINKS = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
PLAIN = "{% for m in messages %}{{ m['content'] }}{% endfor %}"


@pytest.mark.anyio
async def test_what_the_template_has_is_told() -> None:
    """Its source, its markers, its switch; and that it shows no tools."""
    async with scripted("x", controls=("<think>", "</think>"), template=THINKS) as (_, model, _script):
        assert await model.chat_format() == erllama.ChatFormat(
            template=THINKS, templates=(), tool_format=None, thinking=("<think>", "</think>"),
            thinking_switch="enable_thinking", thinking_off=True,
        )  # fmt: skip


@pytest.mark.anyio
async def test_tools_that_are_shown_have_a_format() -> None:
    """The stub's own template shows tools, and does not think."""
    async with scripted("x") as (_, model, _script):
        found = await model.chat_format()
        assert found.tool_format is not None
        assert (found.thinking, found.thinking_switch, found.thinking_off) == (None, None, False)


@pytest.mark.anyio
async def test_the_configuration_goes_first() -> None:
    """Markers and formats that are given are those that count."""
    async with scripted("x", template=PLAIN) as (runtime, _model, _script):
        model = await runtime.load_model("n", {"backend": "stub", "thinking_markers": ("[a]", "[b]")})
        found = await model.chat_format()
        assert found.thinking == ("[a]", "[b]")
        assert not found.thinking_off
