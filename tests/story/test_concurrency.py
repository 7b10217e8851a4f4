"""Many requests on one model: one decode for all of them, none hurt by another, none lost whatever happens to it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from helpers.cache import stub_reply
from helpers.crowd import prompts, together
from helpers.gated import POISON, arrived, gated
from helpers.runtime import engine_threads, until
from helpers.watched import Watch

import erllama_py as erllama

pytestmark = pytest.mark.anyio

LENGTH = 40


@pytest.mark.parametrize("memory", ["full", "window", "recurrent", "hybrid"])
async def test_eight_at_once_take_as_many_decodes_as_one(memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each decode takes a token of all eight further, and each reply is the one that it is alone."""
    watch = Watch(monkeypatch)
    async with gated(memory, scheduler={"prefill_chunk_size": 128}) as (_, model, gate):
        asked = asyncio.create_task(together(model, prompts(8), length=LENGTH))
        await watch.once(lambda: watch.stages() == ["working"] * 8)
        gate.gate.set()
        replies = await asked
    assert [reply.generated for reply in replies] == [stub_reply(prompt, LENGTH) for prompt in prompts(8)]
    # The first came before the others, and prompts of 160 tokens are more than one batch: some ticks at both ends.
    assert gate.parts.count(list(range(8))) >= LENGTH - 6
    assert len(gate.parts) <= LENGTH + 8
    assert all(reply.stats.prefill_tokens == reply.prompt_tokens for reply in replies)


@pytest.mark.slow
async def test_more_requests_than_sequences_take_turns() -> None:
    """A hundred of them; those that find no sequence wait, and none is forgotten."""
    async with gated(context={"n_ctx": 4096, "n_seq_max": 3}) as (_, model, gate):
        gate.gate.set()
        replies = await together(model, prompts(100), length=LENGTH)
    assert [reply.generated for reply in replies] == [stub_reply(prompt, LENGTH) for prompt in prompts(100)]
    assert max(len(parts) for parts in gate.parts) == 3


@pytest.mark.parametrize(
    ("prompt", "options", "error"),
    [
        ([*range(97, 120)], {"grammar": "leaf ::= "}, erllama.InvalidGrammar),
        ([97] * 5000, {}, erllama.ContextOverflow),
        ([97, 1 << 20], {}, erllama.TokenOutOfRange),
        ([], {}, erllama.EmptyPrompt),
        ([97, POISON, 98], {}, erllama.DecodeFailed),
    ],
)
async def test_a_request_that_fails_does_so_alone(
    prompt: Any, options: Any, error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is wrong with it; its neighbours' replies are as they were, and its place is free."""
    watch = Watch(monkeypatch)
    async with gated() as (_, model, gate):
        asked = asyncio.create_task(together(model, prompts(5), length=LENGTH))
        await arrived(model, 5)
        bad = asyncio.create_task(model.complete(prompt, response_tokens=LENGTH, temperature=0.0, **options))
        await until(lambda: bad.done() or watch.stages() == ["working"] * 6)
        gate.gate.set()
        with pytest.raises(error):
            await bad
        replies = await asked
        again = await together(model, prompts(8), length=LENGTH)
    assert [reply.generated for reply in replies] == [stub_reply(prompt, LENGTH) for prompt in prompts(5)]
    assert [reply.generated for reply in again] == [stub_reply(prompt, LENGTH) for prompt in prompts(8)]
    assert len(gate.backends) == 1  # it did not crash


@pytest.mark.either_loop
@pytest.mark.slow
@pytest.mark.parametrize("how", ["task", "cancel", "leave", "deadline"])
@pytest.mark.parametrize("when", ["waiting", "following", "prefilling", "generating"])
async def test_a_cancelled_request_makes_room_at_once(how: str, when: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """At any stage and in any way: the next one is served, and no cell stays taken."""
    watch = Watch(monkeypatch)
    long = [*prompts(1, 200, 50)[0]]
    context = {"n_ctx": 1024, "n_seq_max": 2 if when == "following" else 1}
    async with gated(context=context, stub={"seconds_per_token": 0.0005}) as (_, model, gate):
        first = asyncio.create_task(together(model, [long], length=50)) if when in ("waiting", "following") else None
        if first is not None:
            await arrived(model, 1)
        seen, leave = asyncio.Event(), asyncio.Event()

        async def ask() -> erllama.Completion | None:
            options: dict[str, Any] = {"response_tokens": 700, "temperature": 0.0}
            if how == "deadline":
                options["deadline"] = 1.5 if when == "generating" else 0.02  # its first token comes after some 0.1 s
            async with model.stream([*long[:-1], 7], **options) as events:
                if when == "generating":
                    gate.shut_after = len(gate.parts) + 6  # its prompt and a few tokens: it cannot end
                    gate.gate.set()
                    async for event in events:
                        if isinstance(event, erllama.TextDelta):
                            break
                seen.set()
                if how in ("task", "leave"):
                    await leave.wait()
                    return None
                if how == "cancel":
                    events.cancel()
                async for event in events:
                    if isinstance(event, erllama.Done):
                        return event.completion
            return None

        asked = asyncio.create_task(ask())
        await seen.wait()
        if how == "task":
            asked.cancel()
        leave.set()
        await asyncio.wait({asked})
        if how in ("cancel", "deadline"):
            done = asked.result()
            assert done is not None
            assert done.finish_reason == ("deadline" if how == "deadline" else "cancelled")
            assert bool(done.generated) is (when == "generating")
        await until(lambda: model.queue_depth == (first is not None))
        gate.shut_after = None
        gate.gate.set()
        if first is not None:
            assert (await first)[0].generated == stub_reply(long, 50)
        (reply,) = await together(model, prompts(1), length=LENGTH)
        assert reply.generated == stub_reply(prompts(1)[0], LENGTH)
        await watch.at_rest()


@pytest.mark.parametrize("where", ["actor", "thread", "decode"])
@pytest.mark.parametrize("on_crash", ["continue", "fail"])
async def test_a_crash_with_eight_at_work_reaches_all_of_them(where: Any, on_crash: Any) -> None:
    """Also those that wait: all go on, or fail; the model comes back and serves the next ones."""
    async with gated(scheduler={"max_pending": 4}) as (_, model, gate):
        asked = [
            asyncio.create_task(
                model.complete(list(prompt), response_tokens=LENGTH, temperature=0.0, on_crash=on_crash)
            )
            for prompt in prompts(10)
        ]
        await arrived(model, 10)
        model.inject_fault(where)
        gate.gate.set()
        ends = await asyncio.gather(*asked, return_exceptions=True)
        if on_crash == "fail":
            assert [type(end) for end in ends] == [erllama.ModelCrashed] * 10
        else:
            generated = [end.generated for end in ends if isinstance(end, erllama.Completion)]
            assert generated == [stub_reply(prompt, LENGTH) for prompt in prompts(10)]
        replies = await together(model, prompts(8), length=LENGTH)
    assert [reply.generated for reply in replies] == [stub_reply(prompt, LENGTH) for prompt in prompts(8)]
    assert len(gate.backends) == 2


@pytest.mark.parametrize("how", ["unload", "close"])
async def test_the_end_of_a_model_is_reported_to_all_of_its_requests(how: str) -> None:
    """Those at work and those that wait; nothing is left."""
    async with gated() as (runtime, model, gate):
        asked = [
            asyncio.create_task(model.complete(list(prompt), response_tokens=200, temperature=0.0))
            for prompt in prompts(10)
        ]
        await arrived(model, 10)
        if how == "unload":
            gate.gate.set()
            await runtime.unload(model)
            assert engine_threads() == []
    for answer in await asyncio.gather(*asked, return_exceptions=True):
        assert isinstance(answer, erllama.ModelNotLoaded | erllama.RuntimeClosed)
    assert engine_threads() == []


async def test_a_full_queue_refuses_with_its_numbers() -> None:
    """And takes the next one as soon as one is done."""
    async with gated(context={"n_ctx": 512, "n_seq_max": 1}, scheduler={"max_pending": 2}) as (_, model, gate):
        asked = asyncio.create_task(together(model, prompts(3), length=LENGTH))
        await arrived(model, 3)
        with pytest.raises(erllama.QueueFull) as caught:
            await model.complete("one more")
        assert (caught.value.waiting, caught.value.capacity, model.pending_len) == (2, 2, 2)
        gate.gate.set()
        await asked
        assert (await together(model, prompts(1), length=4))[0].finish_reason == "length"


async def test_only_waiting_requests_count_towards_a_full_queue() -> None:
    """Eight find a sequence each; the ninth waits, and the tenth is one too many, of whatever priority."""
    async with gated(scheduler={"max_pending": 1}) as (_, model, gate):
        asked = asyncio.create_task(together(model, prompts(9), length=LENGTH))
        await arrived(model, 9)
        for priority in (0, 9):
            with pytest.raises(erllama.QueueFull) as caught:
                await model.complete("one more", priority=priority)
            assert (caught.value.waiting, caught.value.capacity) == (1, 1)
        gate.gate.set()
        replies = await asked
    assert [reply.generated for reply in replies] == [stub_reply(prompt, LENGTH) for prompt in prompts(9)]


async def test_eight_streams_each_bring_their_own_text_token_by_token() -> None:
    """Those that are left go on while others end."""
    lengths = [5 * number for number in range(1, 9)]
    async with gated() as (_, model, gate):

        async def read(number: int) -> list[list[int]]:
            prompt, length = list(prompts(8)[number]), lengths[number]
            async with model.stream(prompt, temperature=0.0, response_tokens=length) as events:
                found = [event async for event in events]
            assert isinstance(found[-1], erllama.Done)
            return [event.token_ids for event in found if isinstance(event, erllama.TextDelta)]

        asked = [asyncio.create_task(read(number)) for number in range(8)]
        await arrived(model, 8)
        gate.gate.set()
        told = await asyncio.gather(*asked)
    for prompt, length, deltas in zip(prompts(8), lengths, told, strict=True):
        assert deltas == [[token] for token in stub_reply(prompt, length)]


async def test_chats_with_one_system_prompt_compute_it_once() -> None:
    """Rendered by the model's template; the first that comes computes it for all."""
    system = {"role": "system", "content": "You answer in one word, whatever you are asked. " * 4}
    questions = [f"{name}, what is the colour of {name}?" for name in ("grass", "sky", "blood", "coal")]
    async with gated() as (_, model, gate):
        chats = [
            model.chat([system, {"role": "user", "content": one}], response_tokens=9, temperature=0.0)
            for one in questions
        ]
        asked = [asyncio.create_task(chat) for chat in chats]
        await arrived(model, 4)
        gate.gate.set()
        replies = await asyncio.gather(*asked)
    # Templates are rendered on threads of their own: which request comes first is not known.
    *others, first = sorted(replies, key=lambda reply: reply.stats.prefill_tokens)
    assert first.stats.prefill_tokens == first.prompt_tokens
    assert {reply.cache_hit_kind for reply in others} == {"live"}
    assert all(reply.cache_delta.read > 180 for reply in others)
    assert all(reply.stats.prefill_tokens == reply.prompt_tokens - reply.cache_delta.read for reply in others)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"priority": 1001}, "priority"),
        ({"priority": -1001}, "priority"),
        ({"priority": 0.5}, "priority"),
        ({"priority": "high"}, "priority"),
        ({"deadline": 0}, "deadline"),
        ({"deadline": -1.0}, "deadline"),
        ({"deadline": float("nan")}, "deadline"),
        ({"deadline": float("inf")}, "deadline"),
        ({"deadline": "soon"}, "deadline"),
    ],
)
async def test_a_bad_option_names_itself(options: Any, name: str) -> None:
    """Before anything is asked of the model."""
    async with gated() as (_, model, _gate):
        with pytest.raises(erllama.InvalidOption, match=name):
            await model.complete("hello", **options)
        assert model.queue_depth == 0


@pytest.mark.parametrize(
    ("scheduler", "name"),
    [
        ({"max_pending": 0}, "max_pending"),
        ({"max_pending": 1.5}, "max_pending"),
        ({"prefill_chunk_size": 0}, "prefill_chunk_size"),
        ({"max_stall_ms": 0}, "max_stall_ms"),
        ({"session_idle_ms": -1}, "session_idle_ms"),
        ({"kept_tokens": -1}, "kept_tokens"),
        ({"kept_token": 1}, "kept_tokens"),
        (7, "scheduler"),
    ],
)
async def test_a_bad_scheduler_option_names_itself(scheduler: Any, name: str) -> None:
    """At the load."""
    async with erllama.Runtime() as runtime:
        with pytest.raises(erllama.InvalidOption, match=name):
            await runtime.load_model("m", {"backend": "stub", "scheduler": scheduler})
