"""The main job with SmolLM2-135M-Instruct: answers, warm turns, limits, crashes."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

import erllama_py as erllama
from erllama_py.serve.models import fetch

pytestmark = [pytest.mark.anyio, pytest.mark.real_model, pytest.mark.slow]

GREEDY: dict[str, Any] = {"temperature": 0.0, "response_tokens": 24}
QUESTION = [{"role": "user", "content": "What is gravity?"}]
# Without flash attention, whose rounding on the CPU depends on where a prompt is cut into batches: without it, this
# model gives the same logits for any cut that leaves two tokens or more, and replies can be compared token by token.
CONFIG: erllama.ModelConfigDict = {"context_opts": {"n_ctx": 2048, "n_seq_max": 1, "n_threads": 2, "flash_attn": False}}


@pytest.fixture
async def loaded() -> AsyncIterator[tuple[erllama.Runtime, erllama.Model]]:
    async with erllama.Runtime() as runtime:
        yield runtime, await runtime.load_model("m", {"model_path": fetch("smollm2"), **CONFIG})


async def test_it_answers_a_question(loaded: tuple[erllama.Runtime, erllama.Model]) -> None:
    """A completion that knows its geography, and a chat through the model's own template, ended by its end token."""
    _, model = loaded
    assert (await model.complete("The capital of France is", **GREEDY)).reply.startswith(" Paris")
    messages = [{"role": "system", "content": "You answer in one short sentence."}, *QUESTION]
    answer = await model.chat(messages, temperature=0.0, repetition_penalty=1.1)
    assert "force" in answer.reply
    assert answer.finish_reason == "stop"
    assert (model.info.quant_type, model.info.n_vocab, model.info.n_ctx_train) == ("q4_1", 49152, 8192)


async def test_the_next_turn_computes_only_what_is_new(loaded: tuple[erllama.Runtime, erllama.Model]) -> None:
    """And says what a model says that has seen nothing before."""
    runtime, model = loaded
    first = await model.chat(QUESTION, **GREEDY)
    turn = [*QUESTION, {"role": "assistant", "content": first.reply}, {"role": "user", "content": "And what is light?"}]
    warm = await model.chat(turn, **GREEDY)
    assert warm.cache_hit_kind == "live"
    assert warm.cache_delta.read == first.committed_tokens
    assert warm.stats.prefill_tokens == warm.prompt_tokens - first.committed_tokens
    other = await runtime.load_model("cold", {"model_path": fetch("smollm2"), **CONFIG})
    assert (await other.chat(turn, **GREEDY)).generated == warm.generated


async def test_a_grammar_binds_the_reply(loaded: tuple[erllama.Runtime, erllama.Model]) -> None:
    """Whatever the model would rather say, what comes out is in the language, whose texts are all short."""
    _, model = loaded
    grammar = r'root ::= "{\"city\": \"" [A-Za-z ]{1,12} "\", \"people\": " [0-9]{1,6} "}"'
    answer = await model.chat(QUESTION, grammar=grammar, temperature=0.7, seed=3, response_tokens=60)
    assert answer.finish_reason == "stop"
    assert set(json.loads(answer.reply)) == {"city", "people"}


@pytest.mark.parametrize("question", ["Who wrote Hamlet?", "Name a city in Poland."])
@pytest.mark.parametrize("reproducible", [False, True])
async def test_forced_tokens_change_nothing_of_a_greedy_reply(
    loaded: tuple[erllama.Runtime, erllama.Model], question: str, reproducible: bool
) -> None:
    """With what is forced decoded together, and with each token drawn, as log-probabilities want it. Reproducible
    replies are the same; others may part where two tokens are as likely, for each shape of a decode rounds in its way.
    """
    _, model = loaded
    text = {"type": "string", "maxLength": 20}
    fields = {"full_name": text, "nationality": text, "year_of_birth": {"type": "integer", "minimum": 0}}
    schema = {"type": "object", "properties": fields, "required": [*fields], "additionalProperties": False}
    asked: dict[str, Any] = {"json_schema": schema, "temperature": 0.0, "reproducible": reproducible}
    chat = [{"role": "user", "content": question}]
    together = await model.chat(chat, **asked)
    drawn = await model.chat(chat, logprobs=2, **asked)
    pairs = zip(together.generated, drawn.generated, strict=False)
    parting = next((place for place, (one, other) in enumerate(pairs) if one != other), None)
    if parting is not None:
        assert not reproducible
        assert drawn.logprobs is not None
        best, second = drawn.logprobs[parting].top_logprobs
        assert best.logprob - second.logprob < 0.1
        assert together.generated[parting] == second.token_id
    assert set(together.parsed) == {*fields}
    assert together.stats.decodes < len(together.generated) - 1 or reproducible


async def test_a_stop_sequence_cuts_a_real_reply(loaded: tuple[erllama.Runtime, erllama.Model]) -> None:
    """Across token borders, and never in the text."""
    _, model = loaded
    prompt = "One, two, three, four, five, six, seven,"
    await model.complete(prompt, **GREEDY)  # so that the next two both start from the same live cells
    whole = await model.complete(prompt, **GREEDY)
    stop = whole.reply[5:12]
    cut = await model.complete(prompt, **GREEDY, stop_sequences=[stop])
    assert cut.reply == whole.reply[: whole.reply.index(stop)]
    assert cut.stop_sequence == stop


async def test_a_cancel_stops_a_long_prefill(loaded: tuple[erllama.Runtime, erllama.Model]) -> None:
    """The decode under way is aborted: not all of the prompt is computed, and the next request is right."""
    _, model = loaded
    prompt = (await model.tokenize("The quick brown fox jumps over the lazy dog. " * 200))[:1900]
    async with model.stream(prompt, **GREEDY) as events:
        progress = await anext(events)
        assert isinstance(progress, erllama.Progress)
        events.cancel()
        last = [event async for event in events][-1]
    assert isinstance(last, erllama.Done)
    assert last.completion.finish_reason == "cancelled"
    assert last.completion.stats.prefill_tokens < 1900
    assert (await model.complete("The capital of France is", **GREEDY)).reply.startswith(" Paris")


async def test_an_answer_goes_on_after_a_crash_in_the_middle_of_it(
    loaded: tuple[erllama.Runtime, erllama.Model],
) -> None:
    """Its events are those of an answer that was not disturbed."""
    _, model = loaded
    told: list[str] = []
    for crashes in (False, True):
        async with model.stream_chat(QUESTION, **GREEDY) as events:
            texts = []
            async for event in events:
                if isinstance(event, erllama.TextDelta):
                    texts.append(event.text)
                    if crashes and len(texts) == 3:
                        model.inject_fault("decode")
        told.append("".join(texts))
    assert told[0] == told[1]


async def test_it_comes_back_after_a_crash_in_the_middle_of_an_answer(
    loaded: tuple[erllama.Runtime, erllama.Model],
) -> None:
    """The same weights, the same reply."""
    _, model = loaded
    before = await model.chat(QUESTION, **GREEDY)
    async with model.stream("Once upon a time", response_tokens=200, on_crash="fail") as events:
        await anext(events)
        model.inject_fault("decode")
        with pytest.raises(erllama.ModelCrashed):
            [event async for event in events]
    assert (await model.chat(QUESTION, **GREEDY)).generated == before.generated


async def test_text_that_spans_tokens_is_never_torn(loaded: tuple[erllama.Runtime, erllama.Model]) -> None:
    """Characters of several tokens come whole, in every delta."""
    _, model = loaded
    grammar = 'root ::= "🦙🐍é漢字" [a-z]'
    async with model.stream("Say:", grammar=grammar, response_tokens=60) as events:
        deltas = [event.text async for event in events if isinstance(event, erllama.TextDelta)]
    assert "".join(deltas).startswith("🦙🐍é漢字")
    assert "\ufffd" not in "".join(deltas)


async def test_tokens_and_text_agree(loaded: tuple[erllama.Runtime, erllama.Model]) -> None:
    """A round trip, and control tokens only where they are wanted."""
    _, model = loaded
    text = "Grüße aus Ōsaka 🦙 <|im_end|>"
    assert await model.detokenize(await model.tokenize(text)) == text
    assert len(await model.tokenize("<|im_end|>", special=False)) > 1
    assert len(await model.tokenize("<|im_end|>")) == 1
