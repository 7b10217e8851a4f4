"""Tokens that end a reply, control tokens among them, and control tokens in its text, on both backends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers.engine import generate
from helpers.runtime import stub_runtime
from helpers.tiny_gguf import tiny_gguf
from helpers.worker import bench, prompt

import erllama_py as erllama
from erllama_py.engine.jobs import Finished, Report, Text
from erllama_py.options.sampling import Sampling

pytestmark = pytest.mark.anyio

GREEDY: dict[str, Any] = {"temperature": 0.0, "response_tokens": 12}
START = 257  # the stub's <|im_start|>, which it never draws by itself


async def test_a_stop_token_ends_the_reply_and_is_no_part_of_it(model: erllama.Model) -> None:
    """It is named in the completion; of its text nothing is left over."""
    whole = await model.complete("once upon a time", **GREEDY)
    stop = whole.generated[6]
    at = whole.generated.index(stop)
    done = await model.complete("once upon a time", stop_token_ids=[stop], **GREEDY)
    assert done.generated == whole.generated[:at]
    assert done.reply == await model.detokenize(done.generated, special=False)
    assert (done.finish_reason, done.stop_token_id, done.stop_sequence) == ("stop", stop, None)
    assert (whole.finish_reason, whole.stop_token_id) == ("length", None)


async def test_streams_chats_and_sessions_end_at_stop_tokens_too(model: erllama.Model) -> None:
    """With the same reply, and a session goes on after it."""
    said = [{"role": "user", "content": "hello"}]
    stop = (await model.chat(said, **GREEDY)).generated[4]
    done = await model.chat(said, stop_token_ids=[stop], **GREEDY)
    assert done.stop_token_id == stop
    async with model.stream_chat(said, stop_token_ids=[stop], **GREEDY) as events:
        last = [event async for event in events][-1]
    assert isinstance(last, erllama.Done)
    assert (last.completion.generated, last.completion.stop_token_id) == (done.generated, stop)
    async with model.session() as session:
        first = await session.chat("hello", stop_token_ids=[stop], **GREEDY)
        assert first.generated == done.generated
        assert (await session.chat("and?", **GREEDY)).cache_hit_kind == "sticky"


async def test_a_stop_token_outside_of_the_vocabulary_is_refused(model: erllama.Model) -> None:
    """Before the engine hears of it."""
    n_vocab = model.info.n_vocab
    with pytest.raises(erllama.InvalidOption, match=f"token {n_vocab} is not in the vocabulary of {n_vocab} tokens"):
        await model.complete("hello", stop_token_ids=[0, n_vocab])
    assert model.queue_depth == 0


async def test_a_stop_sequence_that_names_a_control_token_ends_the_reply_when_it_is_drawn(
    tmp_path: Path,
) -> None:
    """Its text never comes up in a reply, so the token is what is looked for."""
    async with erllama.Runtime() as runtime:
        model = await runtime.load_model("one", {"model_path": tiny_gguf("dense", tmp_path)})
        [start] = await model.tokenize("<|im_start|>", add_bos=False)
        forced: dict[str, Any] = {**GREEDY, "logit_bias": {start: 1000.0}}
        plain = await model.complete("hello", **forced)
        assert (plain.generated, plain.reply) == ([start] * 12, "")
        shown = await model.complete("hello", special=True, **forced)
        assert (shown.generated, shown.reply) == ([start] * 12, "<|im_start|>" * 12)
        done = await model.complete("hello", stop_sequences=["<|im_start|>", "END"], **forced)
    assert (done.generated, done.finish_reason) == ([], "stop")
    assert (done.stop_sequence, done.stop_token_id) == ("<|im_start|>", start)


async def test_text_that_only_looks_like_a_control_token_is_a_stop_sequence_like_any_other() -> None:
    """Two names in a row, or a part of one, name no token."""
    async with stub_runtime() as (_, model):
        whole = await model.complete("hello", **GREEDY)
        done = await model.complete("hello", stop_sequences=["<|im_start|>x", "<|im_", whole.reply[3:5]], **GREEDY)
    assert (done.stop_sequence, done.stop_token_id) == (whole.reply[3:5], None)


def test_a_stream_shows_control_tokens_if_it_is_asked_to() -> None:
    """In the text of the events as in that of the reply."""
    for special, text in ((False, "ab"), (True, "a<|im_start|>b")):
        one = bench()
        job = generate(1, prompt(1), max_new_tokens=3, stream=True, report=Report(special))
        one.script(job, [ord("a"), START, ord("b")])
        one.run()
        end = one.ended(1)
        assert isinstance(end, Finished)
        assert end.text == "".join(delta.text for delta in one.of(Text)) == text
        assert end.token_ids == [ord("a"), START, ord("b")]


def test_a_stop_sequence_that_the_text_held_comes_before_a_stop_token() -> None:
    """The text decides by position: what was held back for a longer one had been written before."""
    one = bench()
    stops = Sampling(temperature=0.0, stop_token_ids=(START,))
    job = generate(1, prompt(1), sampling=stops, stop_sequences=("b", "abc"))
    one.script(job, [ord("a"), ord("b"), START])
    one.run()
    end = one.ended(1)
    assert isinstance(end, Finished)
    assert (end.text, end.reason, end.stop_sequence, end.stop_token_id) == ("a", "stop", "b", None)


def test_an_end_token_of_the_model_is_told_as_well() -> None:
    """Models have several: which of them it was may mean something."""
    one = bench()
    one.script(generate(1, prompt(1)), [ord("a"), 258])
    one.run()
    end = one.ended(1)
    assert isinstance(end, Finished)
    assert (end.token_ids, end.reason, end.stop_token_id) == ([ord("a")], "stop", 258)


async def test_no_stop_token_is_drawn_before_min_tokens(model: erllama.Model) -> None:
    """It ends the reply as an end token of the model's own does, and so it waits as that does."""
    liked: dict[str, Any] = {**GREEDY, "logit_bias": {ord("x"): 1000.0, ord("y"): 900.0}, "stop_token_ids": [ord("x")]}
    assert (await model.complete("hello", **liked)).generated == []
    assert (await model.complete("hello", min_tokens=3, **liked)).generated == [ord("y")] * 3
