"""Sessions by their id: a turn goes on in the cells of the one before, or from the tier, or from nothing, and always
says what it would have said cold. On the stub backend.
"""

from __future__ import annotations

import asyncio
from typing import Any

import anyio
import pytest
from helpers.cache import MEMORIES, stub_reply, text
from helpers.crowd import crowded, prompts
from helpers.runtime import drain, slow_stub, stub_runtime, until
from helpers.turns import SHORT, WIDE, first_prompt, holder, next_prompt
from helpers.watched import Watch

import erllama_py as erllama

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("memory", MEMORIES)
async def test_the_next_turn_computes_only_what_is_new(memory: str) -> None:
    """It goes on in its session's cells, whatever their kind."""
    async with crowded(memory, context_opts=WIDE) as (_, model):
        prompt = first_prompt()
        done = await model.complete(prompt, session_id="s", **SHORT)
        assert done.cache_hit_kind == "cold"
        for number in range(4):
            committed = done.committed_tokens
            prompt = next_prompt(prompt, done, number)
            done = await model.complete(prompt, session_id="s", **SHORT)
            assert (done.cache_hit_kind, done.cache_delta.read) == ("sticky", committed)
            assert done.stats.prefill_tokens == len(prompt) - committed == 21  # the new ones, and the last sampled
            assert done.generated == stub_reply(prompt, 8)


async def test_streams_and_chats_take_part_in_sessions() -> None:
    """Each in the way that it is asked."""
    async with crowded(context_opts=WIDE) as (runtime, model):
        prompt = first_prompt()
        async with model.stream(prompt, session_id="s", **SHORT) as events:
            (*_, done) = [event async for event in events]
        assert isinstance(done, erllama.Done)
        prompt = next_prompt(prompt, done.completion)
        assert (await runtime.model("m").complete(prompt, session_id="s", **SHORT)).cache_hit_kind == "sticky"
        talk = [{"role": "user", "content": "Hello"}]
        said = await model.chat(talk, session_id="t", **SHORT)
        more = [*talk, {"role": "assistant", "content": said.reply}, {"role": "user", "content": "Why?"}]
        (*_, last) = await drain(model.stream_chat(more, session_id="t", **SHORT))
        assert isinstance(last, erllama.Done)
        assert last.completion.cache_hit_kind == "sticky"
        assert last.completion.cache_delta.read == said.committed_tokens


@pytest.mark.parametrize("memory", MEMORIES)
async def test_a_prompt_that_diverges_drops_what_was_held(memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes the way of any prompt, and its session is held where it went."""
    watch = Watch(monkeypatch)
    async with crowded(memory, context_opts=WIDE) as (_, model):
        prompt = first_prompt()
        done = await model.complete(prompt, session_id="s", **SHORT)
        other = [*prompt[:30], *next_prompt(prompt, done)[48:]]
        again = await model.complete(other, session_id="s", **SHORT)
        assert again.cache_hit_kind in ("live", "partial", "cold")
        assert again.generated == stub_reply(other, len(again.generated))
        assert sum(slot.session_id == "s" for slot in watch.states["m"].slots) == 1
        turn = [*other, *again.generated, 97, 98]
        assert (await model.complete(turn, session_id="s", **SHORT)).cache_hit_kind == "sticky"
        await watch.at_rest()


async def test_the_session_of_another_is_not_taken_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """A prompt that extends it shares its cells, or its rows; the session itself stays where it stands."""
    watch = Watch(monkeypatch)
    async with crowded(context_opts=WIDE) as (_, model):
        prompt = first_prompt()
        done = await model.complete(prompt, session_id="s", **SHORT)
        turn = next_prompt(prompt, done)
        held = holder(watch, "s")
        stranger = await model.complete(turn, **SHORT)
        other = await model.complete(turn, session_id="t", **SHORT)
        assert {stranger.cache_hit_kind, other.cache_hit_kind} == {"live"}
        assert holder(watch, "s") == held != holder(watch, "t")
        assert stranger.generated == other.generated == stub_reply(turn, 8)
        await watch.at_rest()


async def test_a_session_stays_in_its_cells_where_others_spare_hardly_more() -> None:
    """They have the last sampled token too, which never lies in a session's own."""
    async with crowded(context_opts=WIDE) as (_, model):
        prompt = first_prompt()
        done = await model.complete(prompt, session_id="s", **SHORT)
        turn = next_prompt(prompt, done)
        await model.complete(turn, **SHORT)
        mine = await model.complete([*turn[:-20], *text(20, 1).encode()], session_id="s", **SHORT)
        assert (mine.cache_hit_kind, mine.cache_delta.read) == ("sticky", done.committed_tokens)


async def test_a_session_holds_one_sequence_also_where_another_gives_it_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same turn was answered for another session before: sharing those cells saves more than its own."""
    watch = Watch(monkeypatch)
    async with crowded(context_opts=WIDE) as (_, model):
        prompt = first_prompt()
        done = await model.complete(prompt, session_id="s", **SHORT)
        turn = next_prompt(prompt, done)
        stranger = await model.complete(turn, **SHORT)
        mine = await model.complete(turn, session_id="s", **SHORT)
        assert (mine.cache_hit_kind, mine.generated) == ("live", stranger.generated)
        await watch.at_rest()


async def test_another_tenant_with_the_same_id_shares_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The id is no key to another tenant's cells."""
    watch = Watch(monkeypatch)
    async with crowded(context_opts=WIDE) as (_, model):
        prompt = first_prompt()
        done = await model.complete(prompt, session_id="s", cache_salt="one", **SHORT)
        turn = next_prompt(prompt, done)
        other = await model.complete(turn, session_id="s", cache_salt="two", **SHORT)
        assert (other.cache_hit_kind, other.cache_delta.read) == ("cold", 0)
        assert other.generated == stub_reply(turn, 8)
        await watch.at_rest()


async def test_a_second_request_on_a_busy_session_is_refused_or_waits() -> None:
    """As it asks for; the waiting turn continues where the first has ended."""
    async with slow_stub() as (_, model, gate):
        prompt = first_prompt()
        first = asyncio.create_task(model.complete(prompt, session_id="s", **SHORT))
        await until(lambda: model.queue_depth == 1)
        with pytest.raises(erllama.SessionBusy) as refused:
            await model.complete(prompt, session_id="s", **SHORT)
        assert refused.value.session_id == "s"
        with pytest.raises(erllama.SessionBusy):
            await drain(model.stream(prompt, session_id="s", **SHORT))
        done = stub_reply(prompt, 8)
        turns = [[*prompt, *done, *b"and"], [*prompt, *done, *b"and", *stub_reply([*prompt, *done, *b"and"], 8), 97]]
        ends: list[int] = []

        async def wait(number: int) -> erllama.Completion:
            reply = await model.complete(turns[number], session_id="s", session_wait=True, **SHORT)
            ends.append(number)
            return reply

        waiting = [asyncio.create_task(wait(number)) for number in range(2)]
        await until(lambda: model.queue_depth == 3)
        gate.set()
        await first
        replies = [await task for task in waiting]
    assert ends == [0, 1]
    assert [reply.cache_hit_kind for reply in replies] == ["sticky", "sticky"]
    assert [reply.generated for reply in replies] == [stub_reply(turn, 8) for turn in turns]


async def test_other_sessions_pass_one_that_waits_for_its_turn() -> None:
    """A queue of one session delays no other request, of whatever priority it is."""
    async with crowded(context_opts=WIDE) as (_, model):
        ends: list[str] = []

        async def ask(name: str, number: int, length: int, **options: Any) -> None:
            prompt = list(prompts(number + 1, 20, 200)[number])
            await model.complete(prompt, response_tokens=length, temperature=0.0, **options)
            ends.append(name)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: ask("long", 0, 200, session_id="s"))
            tasks.start_soon(lambda: ask("next", 1, 1, session_id="s", session_wait=True, priority=9))
            tasks.start_soon(lambda: ask("other", 2, 1))
    assert ends == ["other", "long", "next"]


async def test_a_turn_that_waits_can_be_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one after it goes on."""
    watch = Watch(monkeypatch)
    async with slow_stub() as (_, model, gate):
        ask = {"session_id": "s", "session_wait": True, **SHORT}
        tasks = [asyncio.create_task(model.complete(first_prompt(number), **ask)) for number in range(3)]
        await until(lambda: model.queue_depth == 3)
        tasks[1].cancel()
        await until(lambda: model.queue_depth == 2)
        gate.set()
        first, _, last = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(first, erllama.Completion)
        assert isinstance(last, erllama.Completion)
        assert last.generated == stub_reply(first_prompt(2), 8)
        await watch.at_rest("slow")


async def test_a_session_that_was_ended_is_held_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once, again, or one that never was; under way it goes on to its end."""
    watch = Watch(monkeypatch)
    async with crowded(context_opts=WIDE) as (_, model):
        prompt = first_prompt()
        done = await model.complete(prompt, session_id="s", **SHORT)
        assert holder(watch, "s") is not None
        for session_id in ("s", "s", "nobody's"):
            await model.end_session(session_id)
        turn = next_prompt(prompt, done)
        again = await model.complete(turn, session_id="s", **SHORT)
        assert (again.cache_hit_kind, again.cache_delta.read) == ("live", done.committed_tokens)
        assert holder(watch, "s") is not None
        await watch.at_rest()


async def test_a_session_that_ends_while_its_turn_is_under_way_is_free_for_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The turn is answered, and holds nothing afterwards."""
    watch = Watch(monkeypatch)
    async with slow_stub() as (_, model, gate):
        first = asyncio.create_task(model.complete(first_prompt(), session_id="s", **SHORT))
        await until(lambda: model.queue_depth == 1)
        await model.end_session("s")
        second = asyncio.create_task(model.complete(first_prompt(1), session_id="s", **SHORT))
        await until(lambda: model.queue_depth == 2)
        gate.set()
        assert (await first).generated == stub_reply(first_prompt(), 8)
        assert (await second).generated == stub_reply(first_prompt(1), 8)
        await watch.at_rest("slow")
        assert watch.states["slow"].slots[0].session_id in (None, "s")


async def test_a_cancelled_turn_leaves_the_session_where_it_came_to() -> None:
    """The next one continues from there."""
    async with crowded(context_opts=WIDE) as (_, model):
        prompt = list(prompts(1)[0])
        async with model.stream(prompt, session_id="s", response_tokens=200, temperature=0.0) as events:
            async for event in events:
                if isinstance(event, erllama.TextDelta):
                    events.cancel()
        assert isinstance(event, erllama.Done)
        done = event.completion
        turn = [*prompt, *done.generated, 97, 98]
        again = await model.complete(turn, session_id="s", **SHORT)
        assert (again.cache_hit_kind, again.cache_delta.read) == ("sticky", done.committed_tokens)
        assert again.generated == stub_reply(turn, 8)


@pytest.mark.parametrize("wrong", [3, b"s", "", "s" * 201, ["s"], True, "\ud800"])
async def test_what_is_no_id_is_refused_at_the_door(wrong: Any) -> None:
    """The option is named."""
    async with stub_runtime() as (_, model):
        with pytest.raises(erllama.InvalidOption, match="session_id"):
            await model.complete([1], session_id=wrong, **SHORT)


@pytest.mark.parametrize("wrong", [3, "yes", None])
async def test_whether_to_wait_is_a_bool(wrong: Any) -> None:
    """Nothing that only looks like one."""
    async with stub_runtime() as (_, model):
        with pytest.raises(erllama.InvalidOption, match="session_wait"):
            await model.complete([1], session_id="s", session_wait=wrong, **SHORT)


async def test_any_id_of_200_characters_is_a_session() -> None:
    """No character of it means anything."""
    async with crowded(context_opts=WIDE) as (_, model):
        for number, name in enumerate(("s" * 200, " ", "日本/..\n", "\0")):
            prompt = first_prompt(number)
            done = await model.complete(prompt, session_id=name, **SHORT)
            again = await model.complete(next_prompt(prompt, done, number), session_id=name, **SHORT)
            assert again.cache_hit_kind == "sticky"
            await model.end_session(name)
