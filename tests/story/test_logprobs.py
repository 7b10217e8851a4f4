"""`logprobs` through the runtime, on both backends: aligned with the tokens, in events and completions."""

from __future__ import annotations

import math
from typing import Any

import pytest
from helpers.crowd import crowded, prompts, together
from helpers.engine import generate
from helpers.gated import gated
from helpers.runtime import stub_runtime
from helpers.worker import alone, bench, prompt

import erllama_py as erllama
from erllama_py.engine.jobs import Finished, Park, Report, Resume, Text
from erllama_py.model import open_request
from erllama_py.options.sampling import Sampling

pytestmark = pytest.mark.anyio

GREEDY: dict[str, Any] = {"temperature": 0.0, "response_tokens": 12}


async def test_each_token_of_the_reply_has_its_own(model: erllama.Model) -> None:
    """With id, bytes and text; greedy, each is the likeliest, and its likeliest are as many as were asked for."""
    done = await model.complete("once upon a time", logprobs=3, **GREEDY)
    assert done.logprobs is not None
    assert [one.token_id for one in done.logprobs] == done.generated
    assert bytes.fromhex("".join(one.bytes for one in done.logprobs)).decode(errors="replace") == done.reply
    for one in done.logprobs:
        first, second, third = one.top_logprobs
        assert (first.token_id, first.logprob, first.bytes, first.token) == (
            one.token_id, one.logprob, one.bytes, one.token,
        )  # fmt: skip
        assert 0.0 >= first.logprob >= second.logprob >= third.logprob
        assert (one.logprob_after, one.top_logprobs_after) == (None, ())


async def test_nothing_is_told_unasked_and_no_others_with_0(model: erllama.Model) -> None:
    """And what is asked for changes no token."""
    plain = await model.complete("hello", **GREEDY)
    none = await model.complete("hello", logprobs=0, **GREEDY)
    assert plain.logprobs is None
    assert none.logprobs is not None
    assert [one.top_logprobs for one in none.logprobs] == [()] * len(none.generated)
    assert none.generated == plain.generated


async def test_after_the_chain_a_greedy_draw_was_certain(model: erllama.Model) -> None:
    """And one that is drawn has odds of its own, the best of which add up to one at most."""
    done = await model.complete("hello", logprobs=2, logprobs_after=True, **GREEDY)
    for one in done.logprobs or ():
        assert (one.logprob_after, len(one.top_logprobs_after)) == (0.0, 1)
    hot = await model.complete("hello", response_tokens=12, seed=4, logprobs=20, logprobs_after=True)
    assert hot.logprobs
    for one in hot.logprobs:
        assert one.logprob_after is not None
        assert one.logprob_after <= 0.0
        assert sum(math.exp(other.logprob) for other in one.top_logprobs_after) < 1.0001


async def test_the_events_of_a_stream_bring_them_with_their_tokens(model: erllama.Model) -> None:
    """The same ones, of the same tokens."""
    async with model.stream("hello", logprobs=2, **GREEDY) as events:
        seen = [event async for event in events]
    done = seen[-1]
    assert isinstance(done, erllama.Done)
    deltas = [event for event in seen if isinstance(event, erllama.TextDelta)]
    for delta in deltas:
        assert [one.token_id for one in delta.logprobs or ()] == delta.token_ids
    told = [one for delta in deltas for one in delta.logprobs or ()]
    assert told == (done.completion.logprobs or [])[: len(told)]
    assert told


async def test_chats_and_sessions_tell_them_too(model: erllama.Model) -> None:
    """Each turn those of its own tokens."""
    said = await model.chat([{"role": "user", "content": "hi"}], logprobs=1, **GREEDY)
    assert [one.token_id for one in said.logprobs or ()] == said.generated
    async with model.session() as session:
        for text in ("hi", "and?"):
            turn = await session.chat(text, logprobs=1, **GREEDY)
            assert [one.token_id for one in turn.logprobs or ()] == turn.generated


async def test_a_prompt_that_comes_again_is_told_the_same(model: erllama.Model) -> None:
    """Its first token comes from logits that were kept."""
    first = await model.complete("once upon a time there was", logprobs=2, **GREEDY)
    again = await model.complete("once upon a time there was", logprobs=2, **GREEDY)
    assert again.stats.prefill_tokens == 0
    assert again.logprobs == first.logprobs


async def test_a_stop_sequence_that_cuts_the_text_leaves_them_with_the_tokens() -> None:
    """They are as many as the tokens of `generated`, whose text may go beyond the reply; an end token has none."""
    async with stub_runtime() as (_, model):
        whole = await model.complete("hello", **GREEDY)
        done = await model.complete("hello", logprobs=1, stop_sequences=[whole.reply[3:6]], **GREEDY)
        assert [one.token_id for one in done.logprobs or ()] == done.generated == whole.generated[:6]
        ended = await model.complete("hello", logprobs=1, stop_token_ids=[whole.generated[5]], **GREEDY)
    assert [one.token_id for one in ended.logprobs or ()] == ended.generated


async def test_without_a_token_there_is_an_empty_list() -> None:
    """Of a prompt that is only computed."""
    async with stub_runtime() as (_, model):
        warm = await model.prefill_only("hello", logprobs=1)
    assert warm.logprobs == []


async def test_what_an_engine_that_hangs_has_told_so_far_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as tokens, in the answer to a cancel that the engine does not hear of."""
    monkeypatch.setattr(open_request, "SETTLE_SECONDS", 0.0)
    async with gated() as (_, model, gate), model.stream("hello", logprobs=1, temperature=0.0) as events:
        await gate.shut(4)
        events.cancel()
        done = [event async for event in events][-1]
    assert isinstance(done, erllama.Done)
    assert done.completion.finish_reason == "cancelled"
    assert [one.token_id for one in done.completion.logprobs or ()] == done.completion.generated != []


@pytest.mark.slow
async def test_parking_keeps_what_was_told() -> None:
    """Requests that take turns in the cells get what they get alone."""
    async with crowded() as (_, model):
        replies = await together(model, prompts(8), *[{"logprobs": 1}] * 8)
        assert sum(reply.stats.parks for reply in replies) > 0
        for text, reply in zip(prompts(8), replies, strict=True):
            assert [one.token_id for one in reply.logprobs or ()] == reply.generated
            again = await model.complete(text, response_tokens=len(reply.generated), temperature=0.0, logprobs=1)
            assert again.logprobs == reply.logprobs


def test_a_parked_request_tells_nothing_twice() -> None:
    """Text that comes after it has those of its own tokens alone."""
    asked: dict[str, Any] = {
        "max_new_tokens": 7, "sampling": Sampling(temperature=1.0, seed=7), "report": Report(logprobs=2)
    }  # fmt: skip
    whole = alone(prompt(1, 20), **asked)
    one = bench()
    one.do(generate(1, prompt(1, 20), stream=True, **asked))
    one.tick(4)
    one.do(Park(1))
    one.run()
    one.do(Resume(request_id=1, seq_id=2, keep=0, limit=1 << 30))
    one.run()
    end = one.ended(1)
    assert isinstance(end, Finished)
    assert end.logprobs == whole.logprobs
    assert [told for text in one.of(Text) for told in text.logprobs or ()] == end.logprobs
