"""What a client can do without is given up, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest

import erllama_py as erllama
from erllama_py.serve.core.hints import with_hints, with_loose_tools, without_session, without_thinking

ODD: dict[str, Any] = {"type": "object", "properties": {"a": {"not": {"type": "null"}}}}


@pytest.mark.anyio
async def test_a_refused_hint_is_given_up() -> None:
    """Each by itself, until the rest goes well."""
    tried = []

    async def start(options: Any) -> str:
        tried.append(set(options))
        if "session_id" in options:
            raise erllama.SessionBusy("busy", "s")
        if "thinking" in options:
            raise erllama.InvalidOption("thinking", "no switch")
        return "well"

    options = {"session_id": "s", "thinking": True, "seed": 1}
    assert await with_hints(start, options, without_session, without_thinking) == "well"
    assert tried == [{"session_id", "thinking", "seed"}, {"thinking", "seed"}, {"seed"}]


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("error", "options"),
    [
        (erllama.InvalidOption("seed", "wrong"), {"seed": -1, "thinking": True}),
        (erllama.InvalidOption("thinking", "wrong"), {}),
        (erllama.SessionBusy("busy", "s"), {"thinking": True}),
        (erllama.InvalidSchema("a schema"), {"tools": [{"name": "f"}]}),
        (erllama.InvalidSchema("a schema"), {}),
    ],
)
async def test_other_errors_are_raised(error: erllama.ErllamaError, options: dict[str, Any]) -> None:
    """And nothing is tried twice for them."""
    tried = 0

    async def start(_: Any) -> None:
        nonlocal tried
        tried += 1
        raise error

    with pytest.raises(type(error)):
        await with_hints(start, options, without_session, without_thinking, with_loose_tools)
    assert tried == 1


@pytest.mark.anyio
async def test_a_tool_that_no_grammar_holds_is_loosened() -> None:
    """That one alone; a strict one is refused, with its keyword."""
    tools = [{"type": "function", "function": {"name": "f", "parameters": ODD}}, {"name": "g"}]
    messages = [{"role": "user", "content": "x"}]
    seen: list[Any] = []
    async with erllama.Runtime() as runtime:
        model = await runtime.load_model("m", {"backend": "stub", "context_opts": {"n_ctx": 2048}})

        async def start(options: Any) -> erllama.Completion:
            seen.append(options["tools"])
            return await model.chat(messages, options=options)

        options: dict[str, Any] = {"tools": tools, "tools_in_system": True, "response_tokens": 4}
        await with_hints(start, options, with_loose_tools)
        assert [one.get("function", one).get("strict") for one in seen[-1]] == [False, None]
        strict = [{"type": "function", "function": {"name": "f", "parameters": ODD, "strict": True}}]
        with pytest.raises(erllama.InvalidSchema, match="'f'"):
            await with_hints(start, options | {"tools": strict}, with_loose_tools)
