"""Tool calls of a model that was never trained on any: what the grammar alone gives."""

from __future__ import annotations

import asyncio

import pytest
from helpers.tool_replies import NOOP, TEMPLATES, WEATHER, template_of

import erllama_py as erllama
from erllama_py.serve.models import fetch

pytestmark = [pytest.mark.anyio, pytest.mark.real_model]

CONFIG: erllama.ModelConfigDict = {"context_opts": {"n_ctx": 8192, "n_threads": 2, "n_seq_max": 8}}
CITIES = ("Paris", "Ghent", "Zürich", "東京", "São Paulo")
ASKED = ("How is the weather in {}?", "Please call a tool for {}.", "Hello from {}!", "What about {} in three days?")
NOTE = {
    "name": "take_note",
    "parameters": {
        "type": "object",
        "properties": {
            "title": {"type": "string", "maxLength": 20},
            "tags": {"type": "array", "items": {"enum": ["home", "work"]}, "maxItems": 2},
            "urgent": {"type": "boolean"},
        },
        "required": ["title", "tags"],
    },
}
SHORT = {**WEATHER, "parameters": {**WEATHER["parameters"], "properties": {
    **WEATHER["parameters"]["properties"], "city": {"type": "string", "maxLength": 30}}}}  # fmt: skip
TOOLS = [SHORT, NOTE, NOOP]


async def test_every_call_of_a_small_model_is_valid() -> None:
    """Twenty prompts, drawn with the defaults: each reply is one call that its schema allows."""
    async with erllama.Runtime() as runtime:
        model = await runtime.load_model("m", {"model_path": fetch("smollm2"), **CONFIG})

        async def ask(number: int) -> erllama.Completion:
            text = ASKED[number % len(ASKED)].format(CITIES[number % len(CITIES)])
            return await model.chat(
                [{"role": "user", "content": text}], tools=TOOLS, tools_in_system=True, tool_choice="required",
                parallel_tool_calls=False, response_tokens=300, seed=number,
            )  # fmt: skip

        for done in await asyncio.gather(*(ask(number) for number in range(20))):
            assert [call.problem for call in done.tool_calls] == [None], done
            assert (done.reply, done.finish_reason) == ("", "stop")


@pytest.mark.slow
@pytest.mark.parametrize("name", TEMPLATES)
async def test_each_format_is_valid_with_a_real_vocabulary(name: str) -> None:
    """Markers are split into tokens as they come; the calls are the same."""
    async with erllama.Runtime() as runtime:
        model = await runtime.load_model("m", {"model_path": fetch("smollm2"), **CONFIG})
        for seed in range(1):
            done = await model.chat(
                [{"role": "user", "content": "How is the weather in Ghent?"}], tools=TOOLS, tool_choice="required",
                chat_template=template_of(name), parallel_tool_calls=False, response_tokens=200, seed=seed,
            )  # fmt: skip
            if done.finish_reason == "stop":
                assert [call.problem for call in done.tool_calls] == [None], done
                assert done.reply == ""
            free = await model.chat(
                [{"role": "user", "content": "Say hello."}], tools=TOOLS, chat_template=template_of(name),
                response_tokens=30, seed=seed, tool_choice="none",
            )  # fmt: skip
            assert free.tool_calls == ()
