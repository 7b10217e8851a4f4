"""Prompts that begin alike share what is live: computed once, whoever comes first, and never across tenants."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from helpers.backends import MEMORY
from helpers.cache import MEMORIES, stub_reply, text
from helpers.crowd import together
from helpers.gated import WIDE, arrived, gated
from helpers.runtime import until
from helpers.tiny_gguf import KINDS, Kind, tiny_gguf

import erllama_py as erllama
from erllama_py.engine.cells import Cells
from erllama_py.engine.jobs import Captured

pytestmark = pytest.mark.anyio

SYSTEM = list(text(160).encode())
OWN = 40
LENGTH = 12
GREEDY: dict[str, Any] = {"temperature": 0.0, "response_tokens": LENGTH}


def asked(count: int, own: int = OWN) -> list[list[int]]:
    """Prompts that begin with `SYSTEM`, and then each otherwise."""
    return [[*SYSTEM, 65 + number, *text(own - 1, number).encode()] for number in range(count)]


def right(prompts: list[list[int]], replies: list[erllama.Completion]) -> bool:
    return [reply.generated for reply in replies] == [stub_reply(prompt, LENGTH) for prompt in prompts]


@pytest.mark.parametrize("memory", MEMORIES)
async def test_eight_that_come_together_compute_their_beginning_once(memory: str) -> None:
    """By sharing cells, or by the rows that the first one saves, as far as those reach."""
    prompts = asked(8)
    async with gated(memory) as (_, model, gate):
        waiting = asyncio.create_task(together(model, prompts, length=LENGTH))
        await arrived(model, 8)
        gate.gate.set()
        first, *others = replies = await waiting
    assert right(prompts, replies)
    assert first.stats.prefill_tokens == len(prompts[0])
    # Rows end every 16 tokens, but for the last 32 of a prompt: 160 is one of their ends.
    assert [reply.stats.prefill_tokens for reply in others] == [OWN] * 7
    assert {reply.cache_hit_kind for reply in others} == {"live" if memory == "full" else "partial"}


@pytest.mark.parametrize("n_batch", [32, 512], ids=["the beginning is read in slices", "and in one go"])
async def test_eight_that_come_together_copy_their_beginning_out_once(
    n_batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever computes it saves it, and the others know before they begin."""
    copied, capture = Counter[int](), Cells.capture

    def counted(cells: Cells, request_id: int, seq_id: int, start: int, end: int, *more: Any) -> Captured:
        copied.update(range(start, end))
        return capture(cells, request_id, seq_id, start, end, *more)

    monkeypatch.setattr(Cells, "capture", counted)
    prompts = asked(8)
    async with gated("full", WIDE | {"n_batch": n_batch}) as (_, model, gate):
        waiting = asyncio.create_task(together(model, prompts, length=LENGTH))
        await arrived(model, 8)
        gate.gate.set()
        await waiting
    assert [copied[position] for position in range(len(SYSTEM))] == [1] * len(SYSTEM)


@pytest.mark.parametrize("memory", MEMORIES)
async def test_eight_that_come_together_find_what_was_saved_of_their_beginning(memory: str) -> None:
    """All restore it, or share what one has restored."""
    first, *prompts = asked(9)
    async with gated(memory) as (runtime, model, gate):
        gate.gate.set()
        await model.complete(first, **GREEDY)
        await runtime.evict(model)
        gate.gate.clear()
        waiting = asyncio.create_task(together(model, prompts, length=LENGTH))
        await arrived(model, 8)
        gate.gate.set()
        replies = await waiting
    assert right(prompts, replies)
    assert [reply.stats.prefill_tokens for reply in replies] == [OWN] * 8


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
async def test_tiny_models_of_every_memory_compute_a_common_beginning_once(kind: Kind, tmp_path: Path) -> None:
    """Through llama.cpp; the replies are those of each alone."""
    context = {
        "n_ctx": 2048, "n_batch": 128, "n_ubatch": 32, "n_seq_max": 8, "n_threads": 1, "flash_attn": False,
        "type_k": "f32", "type_v": "f32",
    }  # fmt: skip
    policy = {"min_tokens": 8, "boundary_align_tokens": 16, "boundary_trim_tokens": 4, "continued_interval": 24}
    config: Any = {"model_path": tiny_gguf(kind, tmp_path), "context_opts": context, "policy": policy}
    prompts = asked(8)
    async with erllama.Runtime() as runtime:
        model = await runtime.load_model("m", config)
        replies = await together(model, prompts, length=LENGTH)
        alone = [(await model.complete(prompt, cache_salt=f"{n}", **GREEDY)) for n, prompt in enumerate(prompts)]
    assert [reply.generated for reply in replies] == [reply.generated for reply in alone]
    assert [reply.stats.prefill_tokens for reply in replies] == [len(prompts[0]), *[OWN] * 7]
    assert all(reply.stats.prefill_tokens == len(prompts[0]) for reply in alone)
    assert MEMORY[kind] != "full" or {reply.cache_hit_kind for reply in replies[1:]} == {"live"}


@pytest.mark.slow
@pytest.mark.parametrize("when", ["at rest", "generating"])
async def test_a_prompt_shares_what_is_there(when: str) -> None:
    """Of a finished sequence, and of one at work, which does not notice."""
    first, second = asked(2)
    async with gated(stub={"seconds_per_token": 0.0002}) as (_, model, gate):
        gate.gate.set()
        one = asyncio.create_task(model.complete(first, temperature=0.0, response_tokens=100))
        await (asyncio.wait({one}) if when == "at rest" else until(lambda: model.phase == "generating"))
        reply = await model.complete(second, **GREEDY)
        assert (reply.cache_hit_kind, reply.cache_delta.read, reply.stats.prefill_tokens) == ("live", 160, OWN)
        assert right([second], [reply])
        assert (await one).generated == stub_reply(first, 100)


async def test_a_cancelled_prompt_that_comes_again_at_once_is_not_computed_twice() -> None:
    """What the cancelled one has computed is shared while it leaves."""
    (prompt,) = asked(1)
    async with gated(stub={"seconds_per_token": 0.0002}) as (_, model, gate):
        gate.gate.set()
        async with model.stream(prompt, temperature=0.0, response_tokens=500) as events:
            async for event in events:
                if isinstance(event, erllama.TextDelta):
                    break
        again = await model.complete(prompt, **GREEDY)
        assert right([prompt], [again])
        assert again.stats.prefill_tokens <= 1


@pytest.mark.parametrize("memory", ["full", "window"])
async def test_tenants_share_nothing(memory: str) -> None:
    """Neither live cells nor rows, whoever came first."""
    prompts = asked(3)
    async with gated(memory) as (_, model, gate):
        waiting = asyncio.create_task(
            together(model, prompts, {"cache_salt": "a"}, {"cache_salt": "b"}, {}, length=LENGTH)
        )
        await arrived(model, 3)
        gate.gate.set()
        replies = await waiting
    assert right(prompts, replies)
    assert [reply.stats.prefill_tokens for reply in replies] == [len(prompt) for prompt in prompts]


@pytest.mark.parametrize("memory", MEMORIES)
async def test_when_the_first_is_cancelled_another_takes_over(memory: str) -> None:
    """Half-way; the rest of the common beginning is computed once."""
    prompts = asked(5)
    async with gated(memory) as (_, model, gate):
        first = asyncio.create_task(model.complete(prompts[0], **GREEDY))
        await arrived(model, 1)
        waiting = asyncio.create_task(together(model, prompts[1:], length=LENGTH))
        await arrived(model, 5)
        first.cancel()
        await until(lambda: model.queue_depth == 4)
        gate.gate.set()
        replies = await waiting
    assert right(prompts[1:], replies)
    assert sum(reply.stats.prefill_tokens for reply in replies) == len(SYSTEM) + 4 * OWN


@pytest.mark.parametrize("on_crash", ["continue", "fail"])
async def test_a_crash_half_way_reaches_all_and_the_next_start_again(on_crash: str) -> None:
    """Those that wait for the first one wait no longer, or once more."""
    prompts = asked(5)
    async with gated() as (_, model, gate):
        given: Any = GREEDY | {"on_crash": on_crash}
        waiting = [asyncio.create_task(model.complete(prompt, **given)) for prompt in prompts]
        await arrived(model, 5)
        model.inject_fault()
        if on_crash == "fail":
            for answer in await asyncio.gather(*waiting, return_exceptions=True):
                assert isinstance(answer, erllama.ModelCrashed)
            gate.gate.set()
        else:
            gate.gate.set()
            assert right(prompts, await asyncio.gather(*waiting))
        assert right(prompts, await together(model, prompts, length=LENGTH))


async def test_without_saves_only_full_attention_shares() -> None:
    """There are no rows to wait for: each computes its own, and none waits for another."""
    prompts = asked(4)
    async with gated("window", policy={"min_tokens": None, "cold_min_tokens": None}) as (_, model, gate):
        gate.gate.set()
        replies = await together(model, prompts, length=LENGTH)
    assert right(prompts, replies)
    assert [reply.stats.prefill_tokens for reply in replies] == [len(prompt) for prompt in prompts]


@pytest.mark.parametrize(("kept_tokens", "live"), [(0, 0), (200, 1), (1000, 3)])
async def test_what_is_kept_is_bounded_while_a_request_is_at_work(kept_tokens: int, live: int) -> None:
    """The longest unused goes first; what was let go of is in the cache."""
    others = [list(text(180, number).encode()) for number in range(20, 23)]
    async with gated(scheduler={"kept_tokens": kept_tokens}) as (runtime, model, gate):
        gate.gate.set()
        for prompt in others:
            await model.complete(prompt, temperature=0.0, response_tokens=1)
        await model.complete("somebody else", **GREEDY)
        await runtime.cache.flush()
        found = [await model.explain(prompt) for prompt in others]
    assert [bool(one.live_tokens) for one in found] == [False] * (3 - live) + [True] * live
    assert all(one.hit_tokens >= 160 for one in found)


async def test_what_is_saved_goes_before_what_would_have_to_be_computed_again() -> None:
    """Among the idle ones; then the longest unused, and the sequence of a session last of all."""
    async with gated(scheduler={"kept_tokens": 250}, policy={"min_tokens": 100}) as (_, model, gate):
        gate.gate.set()
        short, *others = asked_before = [text(length, 40 + length) for length in (60, 150, 151, 152)]
        for number, prompt in enumerate(asked_before):
            options: dict[str, Any] = {"session_id": "s"} if number == 1 else {}
            await model.complete(prompt, temperature=0.0, response_tokens=1, **options)
        found = {prompt: (await model.explain(prompt)).live_tokens > 0 for prompt in asked_before}
    assert found == {short: True, others[0]: True, others[1]: False, others[2]: True}
