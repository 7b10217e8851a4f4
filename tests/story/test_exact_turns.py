"""Exact turns: a client without state sends back what it got, and nothing is computed twice."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import anyio
import pytest
from helpers.stateless import (
    ASKED,
    SAVING,
    SIX,
    call,
    is_all_new,
    next_messages,
    on_disk,
    question,
    results,
    sent_back,
    thinker,
    thought,
    turns_of,
)

import erllama_py as erllama
from erllama_py.chat.turns import EARLIER_REPLY, MADE_UP_MESSAGE, MADE_UP_REPLY

pytestmark = pytest.mark.anyio


@pytest.mark.slow
async def test_six_turns_with_tools_and_thinking_compute_only_what_is_new() -> None:
    """Each prompt begins with every token that was read and sampled, whatever the client has dropped or rewritten."""
    async with thinker(*SIX) as (runtime, model, script):
        chat, before = [question(0)], None
        for number, reply in enumerate(SIX, 1):
            done = await model.chat(chat, **ASKED)
            assert done.thinking
            if before is not None:
                assert is_all_new(before, done)
            assert isinstance(reply, str)
            if number < len(SIX):
                chat += next_messages(done, number)
            before = done
        for number, (earlier, later) in enumerate(zip(script.prompts, script.prompts[1:], strict=False)):
            assert later.startswith(earlier + str(SIX[number]))
        counters = await runtime.cache.counters()
        assert counters["turns.found"] == len(SIX) - 1


async def test_without_exact_turns_the_thinking_is_gone() -> None:
    """What the template shows is what is read: the proof that the turns above are not exact by themselves."""
    async with thinker(*SIX) as (_, model, script):
        chat, counts = [question(0)], list[bool]()
        before = None
        for number in range(3):
            done = await model.chat(chat, exact_turns=False, **ASKED)
            counts += [] if before is None else [is_all_new(before, done)]
            chat, before = [*chat, *next_messages(done, number)], done
        assert not any(counts)
        assert not script.prompts[1].startswith(script.prompts[0] + str(SIX[0]))


@pytest.mark.slow
async def test_turns_outlive_the_runtime(tmp_path: Path) -> None:
    """Each turn in a runtime of its own, over one directory: the tokens are those of the runtime before."""
    chat, before = [question(0)], None
    for number, reply in enumerate(SIX):
        async with thinker(reply, tiers=on_disk(tmp_path), **SAVING) as (runtime, model, _):
            done = await model.chat(chat, **ASKED)
            if before is not None:
                counters = await runtime.cache.counters()
                assert counters.get("turns.found") == 1
                assert done.prompt_tokens > before.context_tokens
                assert done.stats.prefill_tokens <= done.prompt_tokens - before.committed_tokens
            chat, before = [*chat, *next_messages(done, number)], done


async def test_ids_of_calls_are_enough() -> None:
    """A client that has lost the text and rewritten the arguments still sends the ids."""
    async with thinker(*SIX[2:4]) as (_, model, _):
        first = await model.chat([question(0)], **ASKED)
        back = sent_back(first)
        back["content"] = "Something else."
        for one in back["tool_calls"]:
            one["function"]["arguments"] = '{"city": "…"}'
        second = await model.chat([question(0), back, *results(first)], **ASKED)
        assert is_all_new(first, second)


async def test_what_says_the_same_is_enough() -> None:
    """A client may give calls ids of its own."""
    async with thinker(*SIX[2:4]) as (_, model, _):
        first = await model.chat([question(0)], **ASKED)
        back, answers = sent_back(first), results(first)
        for number, one in enumerate(back["tool_calls"]):
            one["id"] = answers[number]["tool_call_id"] = f"mine-{number}"
        second = await model.chat([question(0), back, *answers], **ASKED)
        assert is_all_new(first, second)


async def test_a_forked_conversation_continues_the_same_reply_twice() -> None:
    """And each branch goes on with its own tokens."""
    async with thinker(thought("a", "one"), thought("b", "two"), thought("c", "three"), "four") as (_, model, script):
        first = await model.chat([question(0)], **ASKED)
        trunk = [question(0), sent_back(first)]
        left = await model.chat([*trunk, question(1)], **ASKED)
        right = await model.chat([*trunk, question(2)], **ASKED)
        assert script.prompts[2].startswith(script.prompts[0] + thought("a", "one"))
        again = await model.chat([*trunk, question(1), sent_back(left), question(3)], **ASKED)
        assert script.prompts[3].startswith(script.prompts[1] + thought("b", "two"))
        assert right.stats.prefill_tokens < right.prompt_tokens
        assert again.prompt_tokens > left.context_tokens


async def test_an_edited_history_is_rendered() -> None:
    """One letter of an earlier message, another tool, another value for the template: none of them is the same turn."""
    async with thinker(thought("a", "one"), "two") as (runtime, model, script):
        first = await model.chat([question(0)], **ASKED)
        back = sent_back(first)
        other_tools = deepcopy(ASKED["tools"])
        other_tools[0]["function"]["description"] = "Of a town."
        edited: list[tuple[list[dict[str, Any]], dict[str, Any]]] = [
            ([question(1), back, question(2)], ASKED),
            ([question(0), {**back, "content": "One"}, question(2)], ASKED),
            ([{"role": "system", "content": ""}, question(0), back, question(2)], ASKED),
            ([question(0), back, question(2)], {**ASKED, "tools": other_tools}),
            ([question(0), back, question(2)], {**ASKED, "template_kwargs": {"x": 1}}),
            ([question(0), back, question(2)], {**ASKED, "cache_salt": "tenant"}),
            ([question(0), back, question(2)], {**ASKED, "thinking": False}),
        ]
        for chat, options in edited:
            await model.chat(chat, **options)
            assert "<think>\na\n</think>" not in script.prompts[-1]
        counters = await runtime.cache.counters()
        assert counters["turns.unknown"] == len(edited)
        assert "turns.found" not in counters
        await model.chat([question(0), back, question(2)], **ASKED)  # the proof that it is there
        assert "<think>\na\n</think>" in script.prompts[-1]


async def test_tenants_do_not_share_turns() -> None:
    """The same words under two salts: each continues its own thoughts."""
    async with thinker(thought("mine", "one"), thought("theirs", "one"), "two") as (_, model, script):
        for salt in ("a", "b"):
            first = await model.chat([question(0)], cache_salt=salt, **ASKED)
        back = sent_back(first)
        for salt, own in (("a", "mine"), ("b", "theirs")):
            await model.chat([question(0), back, question(1)], cache_salt=salt, **ASKED)
            assert f"<think>\n{own}\n</think>" in script.prompts[-1]
        await model.chat([question(0), back, question(1)], **ASKED)
        assert "</think>" not in script.prompts[-1]


@pytest.mark.slow
async def test_a_cancelled_reply_is_a_turn_too() -> None:
    """What it had said is what was sampled, and the conversation goes on from there."""
    slow = {"seconds_per_token": 0.001}  # the cancel comes long before the end
    async with thinker("x" * 4000, "two", stub=slow) as (_, model, script):
        async with model.stream_chat([question(0)], **ASKED) as events:
            async for event in events:
                if isinstance(event, erllama.TextDelta):
                    events.cancel()
                if isinstance(event, erllama.Done):
                    first = event.completion
        assert first.finish_reason == "cancelled"
        second = await model.chat([question(0), sent_back(first), question(1)], **ASKED)
        assert is_all_new(first, second)
        assert script.prompts[1].startswith(script.prompts[0] + first.reply)


async def test_a_reply_that_was_cut_is_continued() -> None:
    """With `continue_final_message`: from its last token, and the whole is a turn again."""
    async with thinker("one two three four", " five", "six") as (_, model, script):
        cut = await model.chat([question(0)], **{**ASKED, "response_tokens": 7})
        assert cut.finish_reason == "length"
        more = await model.chat([question(0), cut.message], continue_final_message=True, **ASKED)
        assert script.prompts[1] == script.prompts[0] + cut.reply
        whole = {"role": "assistant", "content": cut.reply + more.reply}
        await model.chat([question(0), whole, question(1)], **ASKED)
        assert script.prompts[2].startswith(script.prompts[1] + more.reply)


async def test_a_session_and_a_client_continue_each_other() -> None:
    """One mechanism: what a session was told is recognised without it, and with calls and thinking."""
    async with thinker(*SIX[:3], "last") as (_, model, script):
        session = model.session(tools=ASKED["tools"])
        options = {name: value for name, value in ASKED.items() if name != "tools"}
        first = await session.chat("question 0?", **options)
        second = await session.chat(results(first), **options)
        assert session.exact
        assert is_all_new(first, second)
        assert session.messages[1]["tool_calls"][0]["id"] == first.tool_calls[0].id
        chat = [question(0), sent_back(first), *results(first), sent_back(second), question(1)]
        third = await model.chat(chat, **ASKED)
        assert is_all_new(second, third)
        assert script.prompts[2].startswith(script.prompts[1] + str(SIX[1]))


async def test_what_a_session_was_given_raw_is_no_turn() -> None:
    """Its tokens are not made of messages alone, so nobody else gets them."""
    async with thinker("one", "two", "three", "four") as (runtime, model, _):
        session = model.session(tools=ASKED["tools"])
        options = {name: value for name, value in ASKED.items() if name != "tools"}
        await session.chat("question 0?", **options)
        await session.complete("<|im_end|>", **options)
        await session.chat("question 1?", **options)
        await runtime.cache.flush()
        assert len(turns_of(await runtime.cache.rows())) == 1


@pytest.mark.slow
async def test_replies_at_the_same_time_are_all_turns() -> None:
    """Each of several, and each alternative; the same words by other thoughts included."""
    async with thinker(lambda prompt: thought(prompt[-40:-30], "same")) as (_, model, script):
        done: dict[int, erllama.Completion] = {}

        async def ask(number: int) -> None:
            done[number] = await model.chat([question(number)], **ASKED)

        async with anyio.create_task_group() as group:
            for number in range(8):
                group.start_soon(ask, number)
        for number, first in done.items():
            await model.chat([question(number), sent_back(first), question(9)], **ASKED)
            assert f"<think>\n{first.thinking}\n</think>" in script.prompts[-1]


@pytest.mark.slow
async def test_no_text_makes_what_stands_before_it_vanish() -> None:
    """Made-up words stand in for replies when the rest is looked for: one who says them changes nothing."""
    for word in (MADE_UP_REPLY, EARLIER_REPLY, MADE_UP_MESSAGE):
        async with thinker(SIX[0], "two") as (_, model, script):
            first = await model.chat([question(0)], **ASKED)
            rule, end = {"role": "user", "content": "Never delete."}, {"role": "user", "content": f"x {word} y"}
            chat = [question(0), sent_back(first), *results(first), rule, end]
            assert is_all_new(first, await model.chat(chat, **ASKED))
            assert "Never delete." in script.prompts[-1]
            assert f"x {word} y" in script.prompts[-1]


async def test_turns_count_in_quotas_and_go_with_the_rest(tmp_path: Path) -> None:
    """They are listed as rows without cells, evicted when all is, and a reply is not known then; `explain` says so."""
    async with thinker(thought("a", "one"), "two", tiers=on_disk(tmp_path), **SAVING) as (runtime, model, script):
        first = await model.chat([question(0)], **ASKED)
        await runtime.cache.flush()
        [turn] = turns_of(await runtime.cache.rows())
        assert (turn.start, turn.end, turn.nbytes % 4096) == (0, first.context_tokens, 0)
        [tier] = [one for one in await runtime.cache.tiers() if one.name == "d"]
        assert tier.used_bytes >= turn.nbytes
        await runtime.cache.evict_bytes(1 << 40, ("d",))
        chat = [question(0), sent_back(first), question(1)]
        explained = (await model.explain(chat, **ASKED)).turn
        assert explained is not None
        assert explained.problem == "message 2: this reply was known, and is evicted or was found damaged"
        await model.chat(chat, **ASKED)
        assert "<think>\na" not in script.prompts[-1]


async def test_explain_names_the_token_where_a_rendering_would_differ() -> None:
    """A client sees what exact turns give it, and why they do not."""
    async with thinker(thought("a", "one"), "two") as (_, model, _):
        first = await model.chat([question(0)], **ASKED)
        chat = [question(0), sent_back(first), question(1)]
        turn = (await model.explain(chat, **ASKED)).turn
        assert turn is not None
        assert (turn.tokens, turn.message, turn.problem) == (first.context_tokens, 2, None)
        assert (turn.position, turn.text, turn.rendered_text) == (first.prompt_tokens, "<think>", "o")
        second = await model.chat(chat, **ASKED)
        assert turn.tokens < second.prompt_tokens == (await model.explain(chat, **ASKED)).prompt_tokens
        problems: list[tuple[list[dict[str, Any]], dict[str, Any], str]] = [
            ([question(0)], {}, "there is no reply in it"),
            (chat, {"exact_turns": False}, "exact_turns is off"),
            ([question(5), *chat[1:]], {}, "message 2: no such reply to what precedes it is known"),
        ]
        for messages, options, problem in problems:
            turn = (await model.explain(messages, **ASKED, **options)).turn
            assert turn is not None
            assert (turn.tokens, turn.problem) == (0, problem)
        later = [*chat, {"role": "assistant", "content": "made up"}, question(2)]
        turn = (await model.explain(later, **ASKED)).turn
        assert turn is not None
        assert (turn.message, turn.problem) == (2, "message 4: no such reply to what precedes it is known")
        assert (await model.explain("a text")).turn is None


async def test_a_model_that_saves_nothing_keeps_no_turns() -> None:
    """A transcript is a transcript."""
    none = {"min_tokens": None, "cold_min_tokens": None}
    async with thinker(thought("a", "one"), "two", policy=none) as (runtime, model, script):
        first = await model.chat([question(0)], **ASKED)
        await model.chat([question(0), sent_back(first), question(1)], **ASKED)
        await runtime.cache.flush()
        assert await runtime.cache.rows() == []
        assert "</think>" not in script.prompts[-1]


async def test_where_all_that_was_read_does_not_fit_the_conversation_is_rendered() -> None:
    """A rendering drops old thoughts."""
    long = thought("a" * 300, "one")
    async with thinker(long, "two", context_opts={"n_ctx": 1024}) as (_, model, script):
        options = {**ASKED, "tools": None, "response_tokens": 400}
        first = await model.chat([question(0)], **options)
        await model.chat([question(0), sent_back(first), question(1)], **{**options, "response_tokens": 900})
        assert "aaa" not in script.prompts[-1]


@pytest.mark.slow
async def test_turns_survive_a_crash_and_a_reload() -> None:
    """They are the cache's, not the model's."""
    async with thinker(thought("a", "one"), "two") as (runtime, model, script):
        first = await model.chat([question(0)], **ASKED)
        model.inject_fault()
        chat = [question(0), sent_back(first), question(1)]
        await model.chat(chat, **ASKED)
        assert "<think>\na" in script.prompts[-1]
        await model.unload()
        again = await runtime.load_model("m", {"backend": "stub", "context_opts": {"n_ctx": 4096}})
        await again.chat(chat, **ASKED)
        assert "<think>\na" in script.prompts[-1]


async def test_a_call_that_was_malformed_is_a_turn() -> None:
    """What the model wrote is in the tokens, whatever the message says of it."""
    async with thinker(call("Oslo", 1), "two") as (_, model, _):
        first = await model.chat([question(0)], **{**ASKED, "response_tokens": 30})
        assert first.tool_calls[0].problem
        answer = {"role": "tool", "tool_call_id": first.tool_calls[0].id, "content": "error"}
        second = await model.chat(json.loads(json.dumps([question(0), first.message, answer])), **ASKED)
        assert is_all_new(first, second)
