"""Embeddings, on both backends, of encoders and of models that generate."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import numpy
import pytest
from helpers.embedding import TEXTS, close, embedding, encoder
from helpers.runtime import untyped
from helpers.tiny_bert import CLS, SEP
from helpers.tiny_gguf import Kind, tiny_gguf

import erllama_py as erllama

pytestmark = pytest.mark.anyio

ENCODERS = ("llama-encoder", "stub-encoder")
KINDS = (*ENCODERS, "llama-dense", "llama-window", "llama-recurrent", "llama-hybrid", "stub-dense")


@pytest.fixture(params=KINDS)
async def model(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[erllama.Model]:
    """A model that embeds."""
    async with embedding(request.param, tmp_path_factory.getbasetemp()) as one:
        yield one


@pytest.fixture(params=ENCODERS)
async def bert(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[erllama.Model]:
    """An encoder that takes 64 tokens."""
    async with embedding(request.param, tmp_path_factory.getbasetemp()) as one:
        yield one


@pytest.mark.slow
async def test_a_text_tokens_and_lists_of_either_are_embedded(model: erllama.Model) -> None:
    """A row of unit length for each input, in order; tokens give what their text gives."""
    found = await model.embed(TEXTS)
    assert found.vectors.shape == (len(TEXTS), model.info.n_embd)
    assert found.vectors.dtype == numpy.float32
    assert numpy.allclose(numpy.linalg.norm(found.vectors, axis=1), 1.0, atol=1e-5)
    assert found.truncated == (False,) * len(TEXTS)
    tokens = [await model.tokenize(text) for text in TEXTS]
    mixed: list[Any] = [TEXTS[1], tokens[0]]
    assert found.token_counts == tuple(map(len, tokens))
    assert close(await model.embed(tokens), found)
    assert close((await model.embed(TEXTS[1])).vector, found[1])
    assert close((await model.embed(tokens[1])).vector, found[1])
    assert close(await model.embed(mixed), [found[1], found[0]])


@pytest.mark.slow
async def test_many_texts_are_as_if_each_was_alone(model: erllama.Model) -> None:
    """Also more than a decode holds, and of different lengths."""
    texts = [f"{TEXTS[i % 4]} {'cat ' * (i % 7)}" for i in range(150)]
    together = await model.embed(texts)
    some = range(0, len(texts), 29)
    alone = [(await model.embed(texts[i])).vector for i in some]
    assert close([together[i] for i in some], alone)


async def test_poolings_are_what_they_say_of_the_tokens_vectors(model: erllama.Model) -> None:
    """Their mean, the first and the last; `"none"` gives all, one array for each input."""
    every = await model.embed(TEXTS, pooling="none", normalize=False)
    assert [one.shape for one in every] == [(count, model.info.n_embd) for count in every.token_counts]
    assert every.vectors.shape == (0, model.info.n_embd)
    poolings: dict[str, Any] = {"mean": lambda rows: rows.mean(axis=0), "cls": lambda rows: rows[0]}
    for pooling, pick in (poolings | {"last": lambda rows: rows[-1]}).items():
        found = await model.embed(TEXTS, **untyped(pooling=pooling, normalize=False))
        assert found.pooling == pooling
        assert close(found, [pick(rows) for rows in every])
    assert (await model.embed("cat")).pooling == model.info.pooling == "mean"
    assert numpy.allclose(numpy.linalg.norm((await model.embed("cat", pooling="none"))[0], axis=1), 1.0, atol=1e-5)


async def test_dimensions_keep_the_first_numbers_at_unit_length(model: erllama.Model) -> None:
    """Cut before they are scaled; more than there are is refused."""
    whole, cut = await model.embed(TEXTS, normalize=False), await model.embed(TEXTS, dimensions=8)
    expected = whole.vectors[:, :8]
    assert close(cut, expected / numpy.linalg.norm(expected, axis=1, keepdims=True))
    with pytest.raises(erllama.InvalidOption) as caught:
        await model.embed(TEXTS, dimensions=model.info.n_embd + 1)
    assert caught.value.option == "dimensions"


async def test_an_input_that_is_too_long_is_refused_with_its_place_and_lengths(bert: erllama.Model) -> None:
    """Also a list of tokens; the others of the call are not computed without it."""
    long = "cat " * 100
    count = len(await bert.tokenize(long))
    with pytest.raises(erllama.InputTooLong) as caught:
        await bert.embed(["cat", long])
    assert (caught.value.index, caught.value.tokens, caught.value.limit) == (1, count, 64)
    with pytest.raises(erllama.InputTooLong):
        await bert.embed([7] * 65)
    assert (await bert.embed([7] * 64)).token_counts == (64,)


@pytest.mark.parametrize("truncate", [True, "end", "start"])
async def test_an_input_that_is_too_long_is_cut_where_it_is_asked_for(bert: erllama.Model, truncate: Any) -> None:
    """At its end or at its beginning; the control tokens around it stay."""
    text = "the " * 40 + "cat " * 40
    tokens = await bert.tokenize(text)
    frame = 1 if tokens[0] == CLS else 0
    assert not frame or tokens[-1] == SEP
    room = 64 - 2 * frame
    body = tokens[frame : len(tokens) - frame]
    body = body[-room:] if truncate == "start" else body[:room]
    expected = await bert.embed([*tokens[:frame], *body, *tokens[len(tokens) - frame :]])
    found = await bert.embed(["cat", text], truncate=truncate)
    assert (found.token_counts[1], found.truncated) == (64, (False, True))
    assert close(found[1], expected.vector)


@pytest.mark.parametrize("kind", ["llama-dense", "llama-recurrent", "stub-dense"])
async def test_a_generating_model_embeds_inputs_that_are_longer_than_a_decode(
    kind: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Up to its context, whatever else waits; what is cut in pieces is as a whole."""
    async with embedding(kind, tmp_path_factory.getbasetemp()) as model:
        long = [7 + i % 50 for i in range(500)]
        alone = await model.embed(long)
        beside = await asyncio.gather(model.embed([long, [9, 8, 7]]), model.embed(TEXTS), model.embed([long]))
        assert close(beside[0][0], alone.vector)
        assert close(beside[2].vector, alone.vector)
        with pytest.raises(erllama.InputTooLong) as caught:
            await model.embed([7] * 513)
        assert caught.value.limit == 512


async def test_embeddings_leave_replies_as_they_are(tmp_path_factory: pytest.TempPathFactory) -> None:
    """And streams beside them, whose cells are others."""
    async with embedding("llama-dense", tmp_path_factory.getbasetemp()) as model:
        same: Any = {"temperature": 0.0, "response_tokens": 40}
        expected = await model.complete("once upon a time", **same)
        many = asyncio.gather(*(model.embed(TEXTS) for _ in range(10)))
        found, _ = await asyncio.gather(model.complete("once upon a time", **same), many)
        assert found.generated == expected.generated


async def test_an_encoder_tells_what_it_is_and_refuses_to_generate(bert: erllama.Model) -> None:
    """Every call that would continue a prompt; tokens and their text are there."""
    assert (bert.info.can_generate, bert.info.can_rank, bert.info.pooling) == (False, False, "mean")
    messages = [{"role": "user", "content": "hi"}]
    session = bert.session()
    for call in (
        lambda: bert.complete("hi"), lambda: bert.chat(messages), lambda: bert.prefill_only("hi"),
        lambda: bert.score("hi", ["a"]), lambda: bert.choose("hi", ["a", "b"]), lambda: bert.explain("hi"),
        lambda: bert.rerank("a", ["b"], method="score"), lambda: session.chat("hi"),
        lambda: bert.complete("hi", reproducible=True),
    ):  # fmt: skip
        with pytest.raises(erllama.EmbeddingOnly):
            await call()
    with pytest.raises(erllama.EmbeddingOnly):
        async with bert.stream("hi"):
            pass
    await bert.evict()
    assert await bert.detokenize(await bert.tokenize("cat"), special=False)


async def test_control_tokens_in_a_text_are_read_as_its_letters(bert: erllama.Model) -> None:
    """A text cannot end its own frame."""
    plain = await bert.embed("[SEP]<|end|>")
    assert plain.token_counts[0] > len(await bert.tokenize("")) + 1
    assert SEP not in (await bert.tokenize("[SEP]", special=False))[1:-1]


@pytest.mark.parametrize(
    ("inputs", "error", "says"),
    [
        ("", erllama.EmptyPrompt, "input 0"),
        ([], erllama.EmptyPrompt, "no input"),
        (["cat", ""], erllama.EmptyPrompt, "input 1"),
        ([[5], []], erllama.EmptyPrompt, "input 1"),
        (b"cat", erllama.RequestError, "bytes"),
        (["cat", b"dog"], erllama.RequestError, "input 1"),
        (7, erllama.RequestError, "int"),
        (None, erllama.RequestError, "NoneType"),
        ({"cat"}, erllama.RequestError, "set"),
        ({"text": "cat"}, erllama.RequestError, "dict"),
        ((text for text in TEXTS), erllama.RequestError, "generator"),
        ([1.5], erllama.RequestError, "float"),
        ([True], erllama.RequestError, "bool"),
        ([5, "cat"], erllama.RequestError, "str"),
        ([[["cat"]]], erllama.RequestError, "list"),
        ([1 << 40], erllama.TokenOutOfRange, "vocabulary"),
        ([-1], erllama.TokenOutOfRange, "vocabulary"),
        ("\ud800", erllama.InvalidText, "input 0"),
    ],
)
async def test_inputs_that_are_none_are_refused_with_what_is_expected(
    bert: erllama.Model, inputs: Any, error: type[erllama.ErllamaError], says: str
) -> None:
    """Before anything is computed."""
    with pytest.raises(error, match=says):
        await bert.embed(inputs)


@pytest.mark.slow
async def test_no_inputs_of_any_length_end_the_process(tmp_path_factory: pytest.TempPathFactory) -> None:
    """llama.cpp would abort for an encoder's input beyond a micro-batch, or beyond its positions."""
    for n_ctx in (1, 2, 30, 1000):
        sizes: Any = {"n_ctx": n_ctx, "n_batch": n_ctx, "n_ubatch": max(1, n_ctx // 2)}
        async with encoder("llama", tmp_path_factory.getbasetemp(), **sizes) as model:
            limit = min(n_ctx, 128)
            for count in (1, limit):
                assert (await model.embed([[7] * count] * 20)).token_counts == (count,) * 20
            with pytest.raises(erllama.InputTooLong):
                await model.embed([7] * (limit + 1))


@pytest.mark.either_loop
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["dense", "window", "recurrent", "hybrid"])
async def test_a_longer_input_after_a_long_one_leaves_that_as_it_is(
    kind: Kind, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The context grows between them, and not while cells of the first are still wanted."""
    context: Any = {"n_ctx": 4096, "n_batch": 64, "n_threads": 1}
    inputs = [[7 + i % 50 for i in range(1500)], [9 + i % 40 for i in range(4000)]]
    fields: Any = {"model_path": tiny_gguf(kind, tmp_path_factory.getbasetemp()), "context_opts": context}
    async with erllama.Runtime() as runtime:
        model = await runtime.load_model("one", fields)
        together = await model.embed(inputs, pooling="last")
        assert close(together, [(await model.embed(one, pooling="last")).vector for one in inputs])


async def test_many_texts_of_a_closed_runtime_are_refused_as_few_are() -> None:
    """Its threads are gone, and that is no error of the caller's."""
    async with erllama.Runtime() as runtime:
        model = await runtime.load_model("m", {"backend": "stub"})
    for count in (10, 4_001):
        with pytest.raises(erllama.RuntimeClosed):
            await model.embed(["ab"] * count)
