"""The next turn computes its own tokens only, and what clients read of it adds up."""

from __future__ import annotations

import time
from typing import Any

import pytest
from helpers.claude import asked, client, computed, says, total
from helpers.served import served
from helpers.tool_replies import WRITTEN, template_of

HELLO: Any = {"role": "user", "content": "How is the weather in a city of your choice, and why?"}
TOOLS: Any = [{"name": "get_weather", "description": "", "input_schema": {"type": "object", "properties": {}}}]
CALL = WRITTEN["hermes"]([("get_weather", {})])
SYSTEM: Any = [
    {"type": "text", "text": "x-anthropic-billing-header: cc_version=2.1; cch=1;"},
    {"type": "text", "text": "Be brief. " * 20, "cache_control": {"type": "ephemeral", "ttl": "1h"}},
]


@pytest.mark.anyio
@pytest.mark.parametrize("streams", [False, True])
async def test_a_turn_with_tools_and_thinking_computes_what_is_new(streams: bool) -> None:
    """Whatever the client has made of the blocks that it sends back; what marks say of it changes nothing."""
    template = template_of("hermes") + "{# <think></think> #}"
    config: Any = {"template": template, "thinking_signing_key": "k", "context_opts": {"n_ctx": 4096}}
    thinking: Any = {"type": "enabled", "budget_tokens": 1024}
    ask: Any = {"model": "m", "max_tokens": 300, "tools": TOOLS, "thinking": thinking, "system": SYSTEM}

    async def answer(client: Any, messages: list[Any]) -> Any:
        if not streams:
            return await client.messages.create(**ask, messages=messages)
        async with client.messages.stream(**ask, messages=messages) as stream:
            return await stream.get_final_message()

    async with says("<think>\nhm, so\n</think>\n\nI look. " + CALL, "12 °C", "Bye", **config) as (client, script, _):
        first = await answer(client, [HELLO])
        assert [block.type for block in first.content] == ["thinking", "text", "tool_use"]
        call = first.content[2]
        mark = {"cache_control": {"type": "ephemeral"}}
        result = {"type": "tool_result", "tool_use_id": call.id, "content": "12", "is_error": False} | mark
        turns: list[Any] = [HELLO, first.to_param(), {"role": "user", "content": [result]}]
        count = await client.messages.count_tokens(
            model="m", messages=turns, system=SYSTEM, tools=TOOLS, thinking=thinking
        )
        second = await answer(client, turns)
        assert total(second.usage) == count.input_tokens
        said = total(first.usage) + first.usage.output_tokens
        # The last token of a reply was never computed.
        assert computed(second.usage) <= total(second.usage) - said + 1
        assert second.usage.cache_read_input_tokens >= said - 1
        assert script.prompts[1].startswith(script.prompts[0])

        # Without its thinking, with other words for itself, and with other marks the reply is the same.
        del turns[-1]["content"][0]["cache_control"]
        turns[1] = {"role": "assistant", "content": [call.to_dict()]}
        turns += [{"role": "assistant", "content": "12 °C\n"}, {"role": "user", "content": "thanks"}]
        third = await answer(client, turns)
        assert computed(third.usage) <= total(third.usage) - total(second.usage) - second.usage.output_tokens + 1
        assert script.prompts[2].startswith(script.prompts[1])


@pytest.mark.anyio
async def test_the_line_for_accounts_is_no_part_of_the_prompt() -> None:
    """It changes with each request of Claude Code's, and would keep all of them from the cache."""
    async with asked({"context_opts": {"n_ctx": 4096}}) as client:
        ask: Any = {"model": "tiny", "max_tokens": 4, "messages": [HELLO]}
        await client.messages.create(**ask, system=SYSTEM)
        other = [{"type": "text", "text": "x-anthropic-billing-header: cc_version=2.1; cch=2;"}, SYSTEM[1]]
        again = await client.messages.create(**ask, system=other)
        assert computed(again.usage) <= 1


@pytest.mark.anyio
async def test_what_is_marked_is_kept() -> None:
    """For as long as its mark says; what is kept for an hour is counted so, and all else with that of five minutes."""
    turn: Any = {
        "role": "user",
        "content": [{"type": "text", "text": "abc" * 99, "cache_control": {"type": "ephemeral"}}],
    }
    async with served({"context_opts": {"n_ctx": 4096}}) as at, client(at.app) as claude:
        ask: Any = {"model": "tiny", "max_tokens": 4, "messages": [turn]}
        usage = (await claude.messages.create(**ask, system=SYSTEM)).usage
        created = usage.cache_creation
        assert created is not None
        assert 180 < created.ephemeral_1h_input_tokens < 240
        assert created.ephemeral_5m_input_tokens > 250
        assert sum(vars(created).values()) == usage.cache_creation_input_tokens
        await at.runtime.cache.flush()
        now, rows = time.time(), await at.runtime.cache.rows()
        until = [row.kept_until - now for row in rows if row.kept_until is not None]
        assert [3000 < seconds < 3700 for seconds in until].count(True) >= 1
        assert [200 < seconds < 400 for seconds in until].count(True) >= 1
        again = (await claude.messages.create(**ask, system=SYSTEM)).usage
        assert again.cache_creation_input_tokens == 0


@pytest.mark.anyio
async def test_a_prompt_that_is_only_prepared_is_kept_too() -> None:
    """As its longest mark says."""
    async with served({"context_opts": {"n_ctx": 4096}}) as at, client(at.app) as claude:
        await claude.messages.create(model="tiny", max_tokens=0, messages=[HELLO], system=SYSTEM)
        await at.runtime.cache.flush()
        now, rows = time.time(), await at.runtime.cache.rows()
        assert any(row.kept_until is not None and row.kept_until > now + 3000 for row in rows)
