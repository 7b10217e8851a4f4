"""Sessions that outlive their sequences: silence, more of them than sequences, restarts, other models.

On the stub backend; every reply is compared with what it says cold.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import anyio
import pytest
from helpers.cache import MEMORIES, stub_reply
from helpers.crowd import crowded
from helpers.runtime import slow_stub, until
from helpers.turns import SHORT, WIDE, first_prompt, next_prompt
from helpers.watched import Watch

import erllama_py as erllama
from erllama_py.scheduler import idle

pytestmark = pytest.mark.anyio


async def test_a_silent_session_is_saved_and_comes_back_when_it_speaks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model's own timer comes due: with a limit of one millisecond, at once."""
    watch = Watch(monkeypatch)
    async with crowded(context_opts=WIDE, scheduler={"session_idle_ms": 1}) as (runtime, model):
        prompt = first_prompt()
        done = await model.complete(prompt, session_id="s", **SHORT)
        await watch.once(lambda: watch.states["m"].idle == [])
        await runtime.cache.flush()
        turn = next_prompt(prompt, done)
        again = await model.complete(turn, session_id="s", **SHORT)
        assert (again.cache_hit_kind, again.stats.tier) == ("partial", "ram")
        assert again.stats.prefill_tokens == len(turn) - done.committed_tokens
        assert again.generated == stub_reply(turn, 8)
        await watch.once(lambda: watch.states["m"].idle == [])
        await watch.at_rest()


async def test_only_the_silent_of_the_sessions_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has its own time, counted from its last turn; what is held for no session stays."""
    watch = Watch(monkeypatch)
    async with crowded(context_opts=WIDE, scheduler={"session_idle_ms": 3_600_000}) as (_, model):
        for name in ("s", "t", None):
            await model.complete(first_prompt(ord(name or "r") - ord("r")), session_id=name, **SHORT)
        state = watch.states["m"]
        used = {slot.session_id: slot.used_at for slot in state.idle}
        assert idle.next_silent(state) == used["s"] + 3_600
        after, _ = idle.evict_silent(state, used["s"] + 3_600)
        assert [slot.session_id for slot in after.idle] == [None, "t"]
        assert idle.next_silent(after) == used["t"] + 3_600


async def speak(
    model: erllama.Model, number: int, done: dict[int, list[erllama.Completion]], *, by_key: bool = True
) -> None:
    """Three turns of a session, each as soon as the one before has ended; `by_key` names the save of that one."""
    prompt, turns = first_prompt(number), done.setdefault(number, [])
    for turn in range(3):
        key = turns[-1].finish_key if turns and by_key else None
        turns.append(await model.complete(prompt, session_id=str(number), parent_key=key, **SHORT))
        assert turns[-1].generated == stub_reply(prompt, 8)
        prompt = next_prompt(prompt, turns[-1], number * 3 + turn)


@pytest.mark.slow
@pytest.mark.parametrize("memory", MEMORIES)
async def test_there_can_be_more_sessions_than_sequences(memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty sessions take three turns each on four sequences, and nothing is computed twice."""
    watch, done = Watch(monkeypatch), dict[int, list[erllama.Completion]]()
    async with crowded(memory, context_opts=WIDE) as (_, model), anyio.create_task_group() as tasks:
        for number in range(20):
            tasks.start_soon(speak, model, number, done)
    computed = [[turn.stats.prefill_tokens for turn in done[number][1:]] for number in range(20)]
    assert computed == [[21, 21]] * 20
    assert watch.wrong == []


@pytest.mark.slow
async def test_a_session_that_lost_its_sequence_waits_for_its_own_save() -> None:
    """The next turn may come before the last one is written, and names no key."""
    done: dict[int, list[erllama.Completion]] = {}
    async with crowded(context_opts=WIDE) as (_, model), anyio.create_task_group() as tasks:
        for number in range(20):
            tasks.start_soon(partial(speak, model, number, done, by_key=False))
    computed = [[turn.stats.prefill_tokens for turn in done[number][1:]] for number in range(20)]
    assert computed == [[21, 21]] * 20


async def test_a_session_goes_on_after_a_restart_of_its_model() -> None:
    """Its cells are gone; what was saved of them is restored, and the rest is computed."""
    async with crowded(context_opts=WIDE) as (runtime, model):
        prompt = first_prompt()
        done = await model.complete(prompt, session_id="s", **SHORT)
        await runtime.cache.flush()
        model.inject_fault("actor")
        await until(lambda: model.phase == "restarting")
        turn = next_prompt(prompt, done)
        again = await model.complete(turn, session_id="s", **SHORT)
        assert (again.cache_hit_kind, again.cache_delta.read) == ("partial", done.committed_tokens)
        more = await model.complete(next_prompt(turn, again, 1), session_id="s", **SHORT)
        assert more.cache_hit_kind == "sticky"


async def test_a_crash_under_way_leaves_no_session_busy() -> None:
    """The turn failed with its model; the next is answered."""
    async with slow_stub() as (_, model, gate):
        first = asyncio.create_task(model.complete(first_prompt(), session_id="s", on_crash="fail", **SHORT))
        await until(lambda: model.queue_depth == 1)
        model.inject_fault("actor")
        with pytest.raises(erllama.ModelCrashed):
            await first
        gate.set()
        again = await model.complete(first_prompt(), session_id="s", **SHORT)
        assert again.generated == stub_reply(first_prompt(), 8)


def _note(ended: list[int], number: int, _: object) -> None:
    ended.append(number)


async def test_turns_that_wait_for_each_other_go_on_in_their_order_after_a_crash() -> None:
    """The first is not refused for the second, nor overtaken by it."""
    async with slow_stub() as (_, model, gate):
        first = asyncio.create_task(model.complete(first_prompt(), session_id="s", **SHORT))
        await until(lambda: model.queue_depth == 1)
        more: Any = {"session_id": "s", "session_wait": True, **SHORT}
        others = [asyncio.create_task(model.complete(first_prompt(), **more)) for _ in range(3)]
        await until(lambda: model.queue_depth == 4)
        ended: list[int] = []
        for number, one in enumerate((first, *others)):
            one.add_done_callback(partial(_note, ended, number))
        model.inject_fault("actor")
        gate.set()
        replies = await asyncio.gather(first, *others)
        assert [one.generated for one in replies] == [stub_reply(first_prompt(), 8)] * 4
        assert ended == [0, 1, 2, 3]


async def test_the_same_id_means_another_session_on_another_model() -> None:
    """Neither is busy for the other, and ending one leaves the other held."""
    async with crowded(context_opts=WIDE) as (runtime, model):
        other = await runtime.load_model("n", {"backend": "stub", "cache_salt": "rows of its own"})
        prompt = first_prompt()
        done, same = await asyncio.gather(*(one.complete(prompt, session_id="s", **SHORT) for one in (model, other)))
        assert done.generated == same.generated
        await other.end_session("s")
        turn = next_prompt(prompt, done)
        kinds = [(await one.complete(turn, session_id="s", **SHORT)).cache_hit_kind for one in (model, other)]
        assert kinds == ["sticky", "live"]
