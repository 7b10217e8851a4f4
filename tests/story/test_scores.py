"""`score` and `choose`: right on both backends and every kind of memory, and the prompt is computed once."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import anyio
import pytest
from helpers.both_backends import BACKENDS, loaded
from helpers.by_logits import ByLogits
from helpers.crowd import crowded, prompts, together
from helpers.gated import gated
from helpers.runtime import slow_stub, stub_runtime, until
from helpers.tiny_gguf import KINDS, Kind

import erllama_py as erllama
from erllama_py.model import open_request

pytestmark = pytest.mark.anyio

SAVED: Any = {"min_tokens": 16, "cold_min_tokens": 16, "boundary_align_tokens": 16, "boundary_trim_tokens": 0}
PROMPT = "once upon a time there was a user who asked for a story of her own, and then for another one"
ENDS = [" in the sky", "!", " over there", "?", " in the sea"]


def own(scores: erllama.Scores) -> int:
    """How many tokens of the continuations have to be computed: the last one of each never."""
    return sum(len(one.token_ids) - 1 for one in scores.scores)


def logprobs(scores: erllama.Scores) -> list[float]:
    return [one.logprob for one in scores.scores]


async def rows_of(model: erllama.Model, prompt: str, scores: erllama.Scores) -> list[int]:
    """How much of the prompt with each continuation is saved."""
    await model.evict()
    tokens = await model.tokenize(prompt)
    saved = [await model.list_cached_prefixes([*tokens, *one.token_ids, *one.token_ids]) for one in scores.scores]
    return [max(prefix.tokens for prefix in prefixes) for prefixes in saved]


# --- what it says --------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n_seq_max", [1, 4])
async def test_scores_are_those_of_the_logits_and_the_prompt_is_computed_once(
    tmp_path: Path, backend: str, kind: Kind, n_seq_max: int
) -> None:
    """Each token by the log-softmax after those before it. Of the prompt's cells or its row each continuation makes
    use, so only its own tokens are computed; of a second call not even the prompt is. Nothing more is saved than the
    prompt."""
    by_logits = ByLogits(backend, kind, tmp_path)
    async with loaded(backend, tmp_path, kind, {"n_seq_max": n_seq_max}, policy=SAVED) as model:
        prompt = await model.tokenize(PROMPT)
        first = await model.score(PROMPT, ENDS)
        again = await model.score(PROMPT, ENDS)
        assert set(await rows_of(model, PROMPT, first)) == {len(prompt)}
        saved = await model.score(PROMPT, ENDS)
    for scores in (first, again, saved):
        for one in scores.scores:
            assert one.token_logprobs == pytest.approx(by_logits.score(prompt, one.token_ids), abs=0.02)
            assert one.logprob == pytest.approx(math.fsum(one.token_logprobs))
    by_logits.close()
    assert (first.prompt_tokens, first.prefill_tokens) == (len(prompt), len(prompt) + own(first))
    assert again.prefill_tokens == own(again)
    assert (saved.cache_delta.read, saved.cache_delta.created) == (len(prompt), 0)


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", KINDS)
async def test_without_anything_saved_scores_are_the_same(tmp_path: Path, backend: str, kind: Kind) -> None:
    """Where the memory cannot share cells, each continuation computes the prompt again."""
    by_logits = ByLogits(backend, kind, tmp_path)
    async with loaded(backend, tmp_path, kind, policy={"min_tokens": None}) as model:
        prompt, scores = await model.tokenize(PROMPT), await model.score(PROMPT, ENDS)
    for one in scores.scores:
        assert one.token_logprobs == pytest.approx(by_logits.score(prompt, one.token_ids), abs=0.02)
    by_logits.close()
    if kind == "dense":
        assert scores.prefill_tokens == len(prompt) + own(scores)


async def test_short_prompts_are_scored_too(model: erllama.Model) -> None:
    """Of a token or two, which are not worth sharing; one token's continuation needs no request of its own."""
    for prompt in ([5], [5, 6], list(range(5, 20))):
        scores = await model.score(prompt, [[7], [8, 9, 10], [7, 8]])
        whole = await model.prefill_only([*prompt, 8, 9, 10], prompt_logprobs=0)
        expected = [one.logprob for one in (whole.prompt_logprobs or ())[len(prompt) :] if one]
        assert scores.scores[1].token_logprobs == pytest.approx(expected, abs=0.02)
        assert scores.scores[0].token_logprobs == scores.scores[2].token_logprobs[:1]


async def test_texts_tokens_and_messages_are_scored_alike(model: erllama.Model) -> None:
    """A text is tokenized by itself, without a begin token; a conversation is rendered as `chat` does it."""
    tokens = [await model.tokenize(end, special=False, add_bos=False) for end in ENDS]
    by_text, by_tokens = await model.score(PROMPT, ENDS), await model.score(await model.tokenize(PROMPT), tokens)
    assert [one.token_ids for one in by_text.scores] == tokens
    assert logprobs(by_text) == pytest.approx(logprobs(by_tokens), abs=0.02)


async def test_a_conversation_is_scored_as_its_prompt() -> None:
    """With the model's own template, up to where the reply begins."""
    messages = [{"role": "user", "content": "is it so?"}]
    async with stub_runtime() as (_, model):
        rendered = await model.apply_chat_template(messages)
        asked, whole = await model.score(messages, ["yes"]), await model.score(rendered, ["yes"])
        choice = await model.choose(messages, ["yes", "no"])
    assert asked.scores == whole.scores
    assert choice.scores.scores[0] == whole.scores[0]


async def test_control_tokens_are_plain_text_in_a_continuation() -> None:
    """As token ids they are what they are."""
    async with stub_runtime() as (_, model):
        [control] = await model.tokenize("<|im_end|>", add_bos=False)
        scores = await model.score("hello", ["<|im_end|>", [control]])
    assert [len(one.token_ids) for one in scores.scores] == [10, 1]


# --- choosing ------------------------------------------------------------------------------------------------------


async def test_the_likeliest_option_is_chosen(model: erllama.Model) -> None:
    """By the sums, whose softmax are the probabilities; by length, by the means."""
    options = ["yes", "no", "maybe so"]
    scores, choice = await model.score(PROMPT, options), await model.choose(PROMPT, options)
    sums = logprobs(scores)
    assert choice.option == options[choice.index] == options[sums.index(max(sums))]
    assert math.fsum(choice.probabilities) == pytest.approx(1.0)
    weights = [math.exp(one - max(sums)) for one in sums]
    assert choice.probabilities == pytest.approx([one / sum(weights) for one in weights], abs=0.01)
    assert choice.probability == max(choice.probabilities)
    means = [one.logprob / len(one.token_ids) for one in scores.scores]
    fair = await model.choose(PROMPT, options, normalize_by_length=True)
    assert fair.index == means.index(max(means))
    assert (await model.choose(PROMPT, ["yes"])).probability == 1.0


# --- beside others -------------------------------------------------------------------------------------------------


async def test_the_first_tokens_alone_need_one_request() -> None:
    """A hundred letters are scored by one row of logits."""
    async with gated() as (_, model, gate):
        gate.gate.set()
        scores = await model.score([*PROMPT.encode()], [[65 + n] for n in range(100)])
        [backend] = gate.backends
        assert backend.computed == len(PROMPT) == scores.prefill_tokens


@pytest.mark.slow
async def test_a_thousand_continuations_run_a_few_at_a_time() -> None:
    """As many as there are sequences, and one that waits: the queue is for others too."""
    most = 0

    async with stub_runtime() as (_, model):

        async def look() -> None:
            nonlocal most
            while True:
                most = max(most, model.pending_len)
                await asyncio.sleep(0)

        looking = asyncio.create_task(look())
        scores = await model.score(PROMPT, [f" {n} of them" for n in range(1000)])
        looking.cancel()
    assert len({one.logprob for one in scores.scores}) > 1
    assert most <= 1
    assert scores.prefill_tokens == len(PROMPT) + own(scores)


async def test_continuations_share_decodes() -> None:
    """Eight sequences: fewer decodes than continuations of one token more than the first."""
    async with gated() as (_, model, gate):
        gate.gate.set()
        await model.score([*PROMPT.encode()], [[65 + n, 66, 67] for n in range(40)])
        [backend] = gate.backends
        assert backend.computed == len(PROMPT) + 80
        assert max(map(len, backend.parts)) > 1


async def test_one_place_in_the_queue_is_enough() -> None:
    """A full queue refuses the call, unless it may wait for a place."""
    async with gated(scheduler={"max_pending": 1}) as (_, model, gate):
        waiting = [asyncio.create_task(model.complete("x" * 30, response_tokens=2)) for _ in range(9)]
        await until(lambda: model.pending_len == 1)
        with pytest.raises(erllama.QueueFull):
            await model.score("hello", ENDS)
        patient = asyncio.create_task(model.score("hello", ENDS, queue_wait=True))
        await until(lambda: model.pending_len == 2)
        gate.gate.set()
        assert len((await patient).scores) == len(ENDS)
        await asyncio.gather(*waiting)


async def test_under_another_salt_nothing_is_shared() -> None:
    """It finds nothing of the model's own."""
    async with stub_runtime() as (_, model):
        await model.score(PROMPT, ENDS)
        salted = await model.score(PROMPT, ENDS, cache_salt="another", priority=3)
        again = await model.score(PROMPT, ENDS, cache_salt="another")
    assert salted.prefill_tokens == len(PROMPT) + own(salted)
    assert again.prefill_tokens == own(again)


async def test_replies_under_way_are_what_they_are_alone(model: erllama.Model) -> None:
    """Scores beside them change no token, and share their cells."""
    alone = await model.complete(PROMPT, temperature=0.0, response_tokens=20)
    expected = logprobs(await model.score(PROMPT, ENDS))
    beside: list[Awaitable[Any]] = [model.score(PROMPT, ENDS) for _ in range(3)]
    *scores, reply = await asyncio.gather(*beside, model.complete(PROMPT, temperature=0.0, response_tokens=20))
    assert reply.generated == alone.generated
    for one in scores:
        assert logprobs(one) == pytest.approx(expected, abs=0.05)


# --- how it ends ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("after", [0, 2])
async def test_a_deadline_is_an_error_and_ends_its_requests(after: int) -> None:
    """A score is whole or not at all: also where it is the continuations that take long."""
    async with gated() as (_, model, gate):
        if after:
            gate.gate.set()
            gate.shut_after = after
        with pytest.raises(erllama.DeadlinePassed, match=r"0\.05 s") as passed:
            await model.score(PROMPT, [f"{n} more" for n in range(100)], deadline=0.05)
        assert passed.value.seconds == 0.05
        gate.gate.set()
        gate.shut_after = None
        await until(lambda: model.queue_depth == 0)


async def test_a_caller_that_leaves_ends_all_of_its_requests() -> None:
    """Those that run and those that wait; the next call has its cells."""
    async with gated() as (_, model, gate):
        gate.gate.set()
        gate.shut_after = 2
        asking = asyncio.create_task(model.score(PROMPT, [f"{n} more" for n in range(100)]))
        await until(lambda: model.queue_depth == 9)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        gate.shut_after = None
        gate.gate.set()
        await until(lambda: model.queue_depth == 0)
        assert len((await model.score(PROMPT, ENDS)).scores) == 5


@pytest.mark.parametrize("after", [0, 2])
async def test_a_request_that_is_cancelled_by_its_id_ends_the_call(after: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """No caller knows these ids, but they are numbers like others."""
    monkeypatch.setattr(open_request, "SETTLE_SECONDS", 0.01)
    async with gated() as (_, model, gate):
        if after:
            gate.gate.set()
            gate.shut_after = after
        asking = asyncio.create_task(model.score(PROMPT, [f"{n} more" for n in range(100)]))
        await until(lambda: model.queue_depth == (9 if after else 1))
        newest = model.stream("hello")
        async with newest as events:
            for number in range(events.request_id - 20, events.request_id):
                model.cancel(number)
            with pytest.raises(erllama.RequestError, match="was cancelled by its id"):
                await asking
            gate.shut_after = None
            gate.gate.set()


@pytest.mark.slow
@pytest.mark.parametrize("memory", ["full", "window", "recurrent", "hybrid"])
async def test_scores_that_do_not_fit_together_are_what_they_are_alone(memory: str) -> None:
    """Eight prompts in cells for fewer, beside replies: some are parked, and read on where they were."""
    async with crowded(memory) as (_, model):
        others = asyncio.create_task(together(model, prompts(8)))
        asked = [model.score(one, [[70, 71, 72] * 20, [73, 74], [75]]) for one in prompts(8)]
        found = await asyncio.gather(*asked)
        await others
        alone = [await model.prefill_only([*one, *[70, 71, 72] * 20], prompt_logprobs=0) for one in prompts(8)]
    for scores, whole in zip(found, alone, strict=True):
        told = [one.logprob for one in (whole.prompt_logprobs or ())[-60:] if one]
        assert scores.scores[0].token_logprobs == pytest.approx(told)


async def test_a_call_goes_on_after_a_crash() -> None:
    """Of the prompt, or among the continuations: the scores are those of a call that was not disturbed."""
    more = [f"{n} more" for n in range(100)]
    async with gated() as (_, model, gate):
        gate.gate.set()
        expected = await model.score(PROMPT, more)
        for shut_after in (1, 2):
            gate.shut_after = len(gate.backends[-1].parts) + shut_after
            asking = asyncio.create_task(model.score(PROMPT, more))
            await until(lambda: not gate.gate.is_set())
            gate.shut_after = None
            model.inject_fault()
            gate.gate.set()
            found = await asking
            assert [one.logprob for one in found.scores] == pytest.approx([one.logprob for one in expected.scores])
        assert model.info.restarts == 2


async def test_a_crash_ends_the_call_if_it_is_to() -> None:
    """With `ModelCrashed`, as every request; the model comes back and scores again."""
    async with slow_stub() as (runtime, _, gate):
        model = await runtime.load_model("m", {"backend": "stub"})
        expected = await model.score(PROMPT, ENDS)
        slow = runtime.model("slow")
        asking = asyncio.create_task(slow.score(PROMPT, ENDS, on_crash="fail"))
        await until(lambda: slow.queue_depth == 1)
        slow.inject_fault()
        with pytest.raises(erllama.ModelCrashed):
            await asking
        gate.set()
        assert (await slow.score(PROMPT, ENDS)).scores == expected.scores


async def test_a_crash_among_the_continuations_ends_the_call() -> None:
    """Also where the prompt was scored already."""
    async with gated() as (_, model, gate):
        gate.gate.set()
        gate.shut_after = 2
        asking = asyncio.create_task(model.score(PROMPT, [f"{n} more" for n in range(100)], on_crash="fail"))
        await until(lambda: model.queue_depth == 9)
        gate.shut_after = None
        model.inject_fault()
        with pytest.raises(erllama.ModelCrashed):
            await asking
        gate.gate.set()
        assert len((await model.score(PROMPT, ENDS)).scores) == 5


async def test_an_engine_that_hangs_does_not_hold_a_deadline_up() -> None:
    """Nor a caller that leaves."""
    async with gated() as (_, model, gate):
        with pytest.raises(erllama.DeadlinePassed):
            await model.choose(PROMPT, ["yes", "no"], deadline=0.01)
        asking = asyncio.create_task(model.score(PROMPT, ENDS))
        await until(lambda: model.queue_depth > 0)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        gate.gate.set()


@pytest.mark.slow
async def test_long_prompts_and_long_continuations_are_scored() -> None:
    """Where requests are made on worker threads, and prompts are computed in many slices."""
    async with erllama.Runtime() as runtime:
        model = await runtime.load_model("m", {"backend": "stub", "context_opts": {"n_ctx": 16384, "n_seq_max": 2}})
        prompt, ends = [65 + n % 7 for n in range(9000)], [[66, 67] * 1000, [68] * 300, [69]]
        scores = await model.score(prompt, ends)
        alone = await model.prefill_only([*prompt, *ends[0]], prompt_logprobs=0)
    told = [one.logprob for one in (alone.prompt_logprobs or ())[9000:] if one]
    assert scores.scores[0].token_logprobs == pytest.approx(told)
    assert scores.prefill_tokens == 9000 + own(scores)


async def test_a_continuation_that_fails_ends_the_call_alone() -> None:
    """The error is that of the call, and no other request has it."""
    async with gated() as (_, model, gate):
        gate.gate.set()
        gate.fails = lambda part: 200 in part.tokens
        with pytest.raises((erllama.DecodeFailed, erllama.ModelCrashed)):
            await model.score(PROMPT, [[65, 66, 67], [65, 200, 66], [70, 71, 72]])
        await until(lambda: model.queue_depth == 0)


async def test_calls_after_the_end_and_before_the_beginning_say_so() -> None:
    """As every other call."""
    async with stub_runtime() as (runtime, model):
        assert (await runtime.choose("m", PROMPT, ["a", "b"])).option in ("a", "b")
        gone = await runtime.load_model("n", {"backend": "stub"})
        await gone.unload()
        with pytest.raises(erllama.ModelNotLoaded):
            await gone.score(PROMPT, ENDS)
    with pytest.raises(erllama.RuntimeClosed):
        await model.choose(PROMPT, ["a"])


async def test_the_context_holds_all_but_the_last_token() -> None:
    """One more is refused before anything is computed."""
    async with erllama.Runtime() as runtime:
        model = await runtime.load_model("m", {"backend": "stub", "context_opts": {"n_ctx": 64}})
        assert len((await model.score([65] * 60, [[66] * 5])).scores) == 1
        with pytest.raises(erllama.ContextOverflow, match="60 tokens and the longest continuation 6") as overflow:
            await model.score([65] * 60, [[66], [66] * 6])
        assert (overflow.value.prompt_tokens, overflow.value.n_ctx) == (60, 64)
        with anyio.fail_after(5), pytest.raises(erllama.EmptyPrompt):
            await model.score([], ["a"])
