"""Sessions of several tenants, of several handles and of several lives of a model: each knows its own only."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from helpers.cache import PROMPT, ask, ram_model
from helpers.crowd import crowded
from helpers.runtime import STUB, slow_stub, stub_runtime, until, untyped
from helpers.turns import SHORT, WIDE, first_prompt, holder, next_prompt
from helpers.watched import Watch

import erllama_py as erllama

pytestmark = pytest.mark.anyio


async def test_explain_shows_nothing_of_another_tenants_session() -> None:
    """Asked letter by letter it would give all of the prompt away."""
    async with ram_model(context_opts={"n_seq_max": 2}) as (_, model):
        await ask(model, PROMPT, 4, session_id="s", cache_salt="alice")
        told = await model.explain("\0", session_id="s", cache_salt="mallory")
        assert (told.session_position, told.session_text) == (None, None)
        told = await model.explain("\0", session_id="s", cache_salt="alice")
        assert (told.session_position, told.session_text) == (0, PROMPT[0])


async def test_explain_compares_with_what_a_turn_at_work_will_hold() -> None:
    """Not with the beginning that it has kept so far."""
    async with slow_stub() as (_, model, gate), model.stream(PROMPT, session_id="s", **SHORT):
        await until(lambda: model.phase == "prefilling")
        told = await model.explain(PROMPT[:200] + "!", session_id="s")
        assert (told.session_position, told.session_text) == (200, PROMPT[200])
        assert (await model.explain(PROMPT + "!", session_id="s")).session_position is None
        gate.set()


async def test_a_tenant_ends_its_own_session(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the salt of its turns."""
    watch = Watch(monkeypatch)
    async with crowded(context_opts=WIDE) as (_, model):
        prompt = first_prompt()
        done = await model.complete(prompt, session_id="s", cache_salt="alice", **SHORT)
        await model.end_session("s")
        await model.end_session("s", cache_salt="mallory")
        assert (await model.complete("?", session_id="t", **SHORT)).cache_hit_kind == "cold"
        assert holder(watch, "s") is not None
        turn = next_prompt(prompt, done)
        done = await model.complete(turn, session_id="s", cache_salt="alice", **SHORT)
        assert done.cache_hit_kind == "sticky"
        await model.end_session("s", cache_salt="alice")
        await watch.once(lambda: holder(watch, "s") is None)


async def test_a_session_knows_its_salt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each turn has it, the end too; another one in a turn is refused."""
    watch = Watch(monkeypatch)
    async with crowded(context_opts=WIDE) as (runtime, model):
        async with runtime.session("m", "s", cache_salt="alice") as session:
            await session.chat("Hello", **SHORT)
            again = await session.chat("And now?", cache_salt="alice", **SHORT)
            assert again.cache_hit_kind == "sticky"
            with pytest.raises(erllama.InvalidOption, match=r"model.session\(cache_salt=…\)"):
                await session.chat("And now?", cache_salt="mallory")
            assert holder(watch, "s") is not None
            assert (await model.explain(session.tokens, cache_salt="mallory")).live_tokens == 0
        await watch.once(lambda: holder(watch, "s") is None)


async def test_two_objects_with_one_id_are_one_session() -> None:
    """The second raises `SessionBusy` while the first is at work, or waits for it."""
    async with slow_stub() as (_, model, gate):
        one, two = model.session("s"), model.session("s")
        async with one.stream_chat("one", **SHORT) as events:
            with pytest.raises(erllama.SessionBusy):
                await two.chat("two", **SHORT)
            async with two.stream_chat("two", session_wait=True, **SHORT) as waiting:
                await until(lambda: model.pending_len == 1)
                gate.set()
                assert [event async for event in events]
                assert [event async for event in waiting]
        assert len(two.messages) == 2


@pytest.mark.parametrize("options", [{}, {"session_wait": False}], ids=["by default", "explicitly"])
async def test_a_turn_follows_one_that_was_cancelled_at_once(options: dict[str, Any]) -> None:
    """The engine may be at its last tick: it is not for its caller to wait for that."""
    async with slow_stub() as (_, model, gate):
        session = model.session("s")

        def chat() -> asyncio.Task[erllama.Completion]:
            return asyncio.create_task(session.chat("Hello", **SHORT, **options))

        def complete() -> asyncio.Task[erllama.Completion]:
            return asyncio.create_task(model.complete("Hello", session_id="s", **SHORT, **options))

        for turn in (chat, complete):
            gate.clear()
            task = turn()
            await until(lambda: model.phase == "prefilling")
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            again = turn()
            gate.set()
            assert (await again).generated


async def test_an_old_handle_does_nothing_to_a_new_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was unloaded; another one was loaded under its id."""
    watch = Watch(monkeypatch)
    config: erllama.ModelConfigDict = {**STUB, "context_opts": {"n_seq_max": 2}}
    async with erllama.Runtime() as runtime:
        old = await runtime.load_model("m", config)
        session = old.session("s")
        await session.chat("Hello", **SHORT)
        await runtime.unload("m")
        new = await runtime.load_model("m", config)
        await new.complete("hello", session_id="s", **SHORT)
        await session.end()
        await old.end_session("s")
        async with new.stream("hello", **SHORT) as events:
            old.cancel(events.request_id)
            (*_, done) = [event async for event in events]
        assert isinstance(done, erllama.Done)
        assert done.completion.finish_reason != "cancelled"
        assert holder(watch, "s") is not None


@pytest.mark.parametrize("wrong", [3, b"s", "", "s" * 201, "\ud800"])
async def test_what_is_no_id_is_refused_wherever_it_is_said(wrong: Any) -> None:
    """At once, before anything is asked of the model."""
    async with stub_runtime() as (_, model):
        with pytest.raises(erllama.InvalidOption, match="session_id"):
            model.session(wrong)
        for asked in (model.end_session(wrong), model.explain("hello", session_id=wrong)):
            with pytest.raises(erllama.InvalidOption, match="session_id"):
                await asked
        nobody: Any = None
        with pytest.raises(erllama.InvalidOption, match="session_id"):
            await model.end_session(nobody)


async def test_tools_are_given_to_the_session() -> None:
    """The error says where."""
    async with stub_runtime() as (_, model):
        with pytest.raises(erllama.InvalidOption, match=r"model.session\(tools=…\)"):
            await model.session().chat("Hello", **untyped(tools=[]))


async def test_messages_given_to_a_session_are_copied() -> None:
    """A caller may go on with its lists and dicts, and with those that it reads."""
    opening = {"role": "system", "content": "Be brief."}
    call = {"role": "assistant", "content": "", "tool_calls": [{"name": "clock"}]}
    async with stub_runtime() as (_, model):
        session = model.session(messages=[opening])
        await session.chat([call, {"role": "tool", "content": "12"}], **SHORT)
        opening["content"] = "Be long."
        call["tool_calls"] = []
        session.messages[1]["tool_calls"][0]["name"] = "door"
        assert session.messages[0]["content"] == "Be brief."
        assert session.messages[1]["tool_calls"] == [{"name": "clock"}]
