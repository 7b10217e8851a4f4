"""`prompt_logprobs` through the runtime, on both backends: computed cold, whatever is saved or live."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers.both_backends import BACKENDS, loaded
from helpers.crowd import CELLS, crowded, prompts, together
from helpers.tiny_gguf import KINDS, Kind

import erllama_py as erllama

pytestmark = pytest.mark.anyio

GREEDY: dict[str, Any] = {"temperature": 0.0, "response_tokens": 4}
SAVED: Any = {"min_tokens": 16, "cold_min_tokens": 16, "boundary_align_tokens": 16, "boundary_trim_tokens": 0}
PROMPT = "once upon a time there was a user who asked for a story of her own, and then for another one"


def scores(done: erllama.Completion) -> list[float]:
    """Those of all tokens but the first, which has none."""
    assert done.prompt_logprobs is not None
    first, *others = done.prompt_logprobs
    assert first is None
    return [one.logprob for one in others if one is not None]


async def test_each_token_of_the_prompt_is_told_of(model: erllama.Model) -> None:
    """With its id and the likeliest others; unasked there is nothing."""
    tokens = await model.tokenize(PROMPT)
    done = await model.complete(PROMPT, prompt_logprobs=3, **GREEDY)
    assert [one.token_id for one in done.prompt_logprobs or () if one] == tokens[1:]
    for one in done.prompt_logprobs or ():
        assert one is None or (len(one.top_logprobs) == 3 and one.top_logprobs[0].logprob >= one.logprob)
    assert (await model.complete(PROMPT, **GREEDY)).prompt_logprobs is None


async def test_the_score_of_a_token_is_that_of_a_reply_that_draws_it(model: erllama.Model) -> None:
    """Prompt and reply are told of by the same measure. Decodes of other sizes round differently."""
    said = await model.complete(PROMPT, logprobs=0, **GREEDY)
    tokens = await model.tokenize(PROMPT) + said.generated
    told = scores(await model.complete(tokens, prompt_logprobs=0, **GREEDY))[-len(said.generated) :]
    assert told == pytest.approx([one.logprob for one in said.logprobs or ()], abs=0.05)


@pytest.mark.either_loop
@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", KINDS)
async def test_what_is_live_or_saved_is_not_used_for_it(tmp_path: Path, backend: str, kind: Kind) -> None:
    """All is computed, the scores are those of the first time, and nothing is saved twice; the reply is the same."""
    async with loaded(backend, tmp_path, kind, policy=SAVED) as model:
        first = await model.complete(PROMPT, prompt_logprobs=1, **GREEDY)
        again = await model.complete(PROMPT, prompt_logprobs=1, **GREEDY)
        await model.evict()
        saved = await model.complete(PROMPT, prompt_logprobs=1, **GREEDY)
        warm = await model.complete(PROMPT, **GREEDY)
    for done in (first, again, saved):
        assert (done.cache_hit_kind, done.cache_delta.read) == ("cold", 0)
        assert done.stats.prefill_tokens == done.prompt_tokens
        assert scores(done) == pytest.approx(scores(first), abs=0.05)
        assert done.generated == first.generated
    assert again.stats.miss_reason == "prompt_logprobs has all of the prompt computed"
    assert warm.cache_hit_kind != "cold"  # what such a request computes others may use
    assert warm.generated == first.generated


async def test_others_share_what_such_a_request_computes_and_it_shares_nothing(model: erllama.Model) -> None:
    """Of several replies the first has the scores, and computes the prompt for all."""
    await model.complete(PROMPT, **GREEDY)
    done = await model.complete(PROMPT, n=3, seed=1, response_tokens=4, prompt_logprobs=0)
    assert len(scores(done)) == done.prompt_tokens - 1
    assert [one.prompt_logprobs is None for one in done.alternatives] == [False, True, True]
    assert done.stats.prefill_tokens == done.prompt_tokens
    assert all(one.stats.prefill_tokens <= 1 for one in done.alternatives[1:])


async def test_a_prompt_without_a_reply_is_told_of(model: erllama.Model) -> None:
    """To score a text, and draw nothing."""
    done = await model.prefill_only(PROMPT, prompt_logprobs=1)
    assert (done.generated, len(scores(done))) == ([], done.prompt_tokens - 1)


@pytest.mark.either_loop
async def test_turns_and_streams_tell_of_their_whole_prompt(model: erllama.Model) -> None:
    """Also where the session holds all of it but the end."""
    async with model.session() as session:
        await session.chat("hello", **GREEDY)
        async with session.stream_chat("and?", prompt_logprobs=0, **GREEDY) as events:
            last = [event async for event in events][-1]
        assert isinstance(last, erllama.Done)
        assert len(scores(last.completion)) == last.completion.prompt_tokens - 1
        assert (await session.chat("so?", **GREEDY)).cache_hit_kind == "sticky"


@pytest.mark.either_loop
@pytest.mark.slow
@pytest.mark.parametrize("memory", ["full", "window", "recurrent", "hybrid"])
async def test_parked_requests_are_told_of_once(memory: str) -> None:
    """Eight that do not fit together: each has the scores that it has alone."""
    async with crowded(memory) as (_, model):
        replies = await together(model, prompts(8), *[{"prompt_logprobs": 0}] * 8)
        alone = [await model.prefill_only(list(one), prompt_logprobs=0) for one in prompts(8)]
    assert sum(reply.context_tokens for reply in replies) > CELLS
    assert [reply.prompt_logprobs for reply in replies] == [one.prompt_logprobs for one in alone]
