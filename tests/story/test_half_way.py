"""Requests that leave or fail half-way among others: whoever shares a decode or a beginning with them goes on."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from helpers.cache import MEMORIES, Held, stub_reply, text
from helpers.crowd import prompts, together
from helpers.gated import POISON, UNLUCKY, arrived, gated
from helpers.runtime import until
from helpers.watched import Watch

import erllama_py as erllama
from erllama_py.engine.backend import Slice
from erllama_py.tiers.ram import RamTier

pytestmark = pytest.mark.anyio

SYSTEM = list(text(160).encode())
OWN, LENGTH = 40, 12
GREEDY: dict[str, Any] = {"temperature": 0.0, "response_tokens": LENGTH}


def asked(count: int) -> list[list[int]]:
    """Prompts that begin with `SYSTEM`, and then each otherwise."""
    return [[*SYSTEM, 65 + number, *text(OWN - 1, number).encode()] for number in range(count)]


def right(asked: Any, replies: list[erllama.Completion], length: int = LENGTH) -> bool:
    return [reply.generated for reply in replies] == [stub_reply(prompt, length) for prompt in asked]


@pytest.mark.parametrize("memory", MEMORIES)
async def test_a_decode_that_fails_for_one_while_others_speak_goes_on_with_them(
    memory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory that cannot be cut is computed again; no token is drawn twice, and nothing crashes."""
    watch = Watch(monkeypatch)
    async with gated(memory) as (_, model, gate):
        waiting = asyncio.create_task(together(model, prompts(4), length=LENGTH))
        await arrived(model, 4)
        await gate.shut(5)
        bad = asyncio.create_task(model.complete([97, POISON, 98], **GREEDY))
        await watch.once(lambda: watch.stages() == ["working"] * 5)
        gate.gate.set()
        with pytest.raises(erllama.DecodeFailed, match="poisoned"):
            await bad
        replies = await waiting
        await watch.at_rest()
    assert right(prompts(4), replies)
    assert len(gate.backends) == 1


async def test_a_sampler_that_fails_ends_its_stream_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the text that it has brought."""
    watch = Watch(monkeypatch)
    async with gated() as (_, model, gate):
        waiting = asyncio.create_task(together(model, prompts(4), length=LENGTH))
        await arrived(model, 4)
        tokens: list[int] = []

        async def read() -> None:
            async with model.stream(list(prompts(5)[4]), seed=UNLUCKY, response_tokens=LENGTH) as events:
                gate.gate.set()
                async for event in events:
                    tokens.extend(event.token_ids if isinstance(event, erllama.TextDelta) else [])

        with pytest.raises(erllama.SamplerFailed):
            await read()
        replies = await waiting
        await watch.at_rest()
    assert len(tokens) == 4
    assert right(prompts(4), replies)
    assert len(gate.backends) == 1


@pytest.mark.slow
@pytest.mark.parametrize("memory", MEMORIES)
@pytest.mark.parametrize("how", ["task", "cancel"])
async def test_when_the_first_leaves_half_way_the_next_goes_on_from_there(
    memory: str, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it has computed of the common beginning is taken over; the next one computes the rest for all."""
    watch, all_prompts = Watch(monkeypatch), asked(5)
    async with gated(memory) as (_, model, gate):
        first = asyncio.create_task(model.complete(all_prompts[0], **GREEDY))
        await arrived(model, 1)
        waiting = asyncio.create_task(together(model, all_prompts[1:], length=LENGTH))
        await arrived(model, 5)
        await gate.shut(1)
        computed = gate.computed
        assert 0 < computed < len(SYSTEM)
        if how == "task":
            first.cancel()
        else:
            model.cancel(watch.ids()[0])
        await asyncio.wait({first})
        await until(lambda: model.queue_depth == 4)
        gate.gate.set()
        replies = await waiting
        await watch.at_rest()
    assert right(all_prompts[1:], replies)
    twice = computed + sum(reply.stats.prefill_tokens for reply in replies) - len(SYSTEM) - 4 * OWN
    # Cells are taken over to the token; of rows the last one may still be pending when it is looked for.
    assert twice == 0 if memory == "full" else 0 <= twice <= 32


@pytest.mark.parametrize("memory", MEMORIES)
async def test_when_the_first_fails_half_way_another_computes_the_beginning(
    memory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once for all of them; what the failed one held is not trusted."""
    watch, all_prompts = Watch(monkeypatch), asked(5)
    stranger = prompts(1, 20, 100)[0]
    async with gated(memory) as (_, model, gate):
        speaks = asyncio.create_task(together(model, [stranger], length=100))
        await arrived(model, 1)
        await gate.shut(2)
        waiting = [asyncio.create_task(model.complete(prompt, **GREEDY)) for prompt in all_prompts]
        await watch.once(lambda: model.queue_depth == 6 and watch.stages()[:2] == ["working", "working"])
        lead = list(watch.states["m"].placed.values())[1].allocation.seq_id

        def fails(part: Slice) -> bool:
            return part.seq_id == lead and part.start > 0 and not waiting[0].done()

        gate.fails = fails
        gate.gate.set()
        first, *replies = await asyncio.gather(*waiting, return_exceptions=True)
        assert isinstance(first, erllama.DecodeFailed)
        done = [reply for reply in replies if isinstance(reply, erllama.Completion)]
        assert right(all_prompts[1:], done)
        assert sum(reply.stats.prefill_tokens for reply in done) <= len(SYSTEM) + 4 * OWN
        assert right([stranger], await speaks, 100)
        await watch.at_rest()
    assert len(gate.backends) == 1


@pytest.mark.parametrize("memory", MEMORIES)
@pytest.mark.parametrize("how", ["task", "cancel"])
async def test_a_request_that_is_cancelled_while_it_is_restored_makes_room(
    memory: str, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row is being read for it; the next one is served at once, and whoever asks again finds the rows."""
    watch, (prompt,) = Watch(monkeypatch), asked(1)
    async with gated(memory, context={"n_ctx": 512, "n_seq_max": 1}) as (runtime, model, gate):
        gate.gate.set()
        await model.complete(prompt, **GREEDY)
        await runtime.evict(model)
        reads = Held(monkeypatch, RamTier, "get")
        again = asyncio.create_task(model.complete([*prompt[:-4], 7], **GREEDY))
        await reads.reached.wait()
        assert watch.stages() == ["restoring"]
        if how == "task":
            again.cancel()
        else:
            model.cancel(watch.ids()[0])
        await asyncio.wait({again})
        assert how == "task" or (again.result().finish_reason, again.result().generated) == ("cancelled", [])
        assert right(prompts(1), await together(model, prompts(1), length=LENGTH))
        reads.open()
        reply = await model.complete(prompt, **GREEDY)
        await watch.at_rest()
    assert right([prompt], [reply])
    assert reply.cache_hit_kind in ("exact", "partial")


@pytest.mark.slow
@pytest.mark.parametrize("memory", ["window", "recurrent", "hybrid"])
@pytest.mark.parametrize("how", ["task", "cancel", "deadline"])
async def test_a_follower_of_rows_can_leave(memory: str, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither its leader nor the request after it is affected."""
    watch, all_prompts = Watch(monkeypatch), asked(3)
    async with gated(memory) as (_, model, gate):
        first = asyncio.create_task(together(model, all_prompts[:1], length=LENGTH))
        await arrived(model, 1)
        more: dict[str, Any] = {"deadline": 0.02} if how == "deadline" else {}
        second = asyncio.create_task(model.complete(all_prompts[1], **GREEDY, **more))
        third = asyncio.create_task(together(model, all_prompts[2:], length=LENGTH))
        await until(lambda: len(watch.stages()) == 3 or second.done())
        if how == "task":
            second.cancel()
        elif how == "cancel":
            model.cancel(watch.ids()[1])
        await asyncio.wait({second})
        await watch.once(lambda: sorted(watch.stages()) == ["following", "working"])
        gate.gate.set()
        replies = [*await first, *await third]
        await watch.at_rest()
    assert right([all_prompts[0], all_prompts[2]], replies)
    if how != "task":
        reason = "deadline" if how == "deadline" else "cancelled"
        assert (second.result().finish_reason, second.result().generated) == (reason, [])
    assert [reply.stats.prefill_tokens for reply in replies] == [len(SYSTEM) + OWN, OWN]
