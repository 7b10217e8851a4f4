"""all-MiniLM-L6-v2 against figures that its makers publish, and its batches against one text at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import numpy
import pytest

import erllama_py as erllama
from erllama_py.serve.models import fetch

pytestmark = [pytest.mark.anyio, pytest.mark.real_model, pytest.mark.slow]

# The cosines that the documentation of sentence-transformers prints for this model, to the digits that it prints: the
# quick start, and the pages on semantic textual similarity and on paraphrases.
PUBLISHED = [
    ("The weather is lovely today.", "It's so sunny outside!", 0.6660),
    ("The weather is lovely today.", "He drove to the stadium.", 0.1046),
    ("It's so sunny outside!", "He drove to the stadium.", 0.1411),
    ("The new movie is awesome", "The new movie is so great", 0.8939),
    ("The cat sits outside", "The dog plays in the garden", 0.2838),
    ("A man is playing guitar", "A woman watches TV", -0.0327),
    ("A man is eating food.", "A man is eating a piece of bread.", 0.7553),
    ("A man is riding a horse.", "A man is riding a white horse on an enclosed ground.", 0.7369),
]
# The file's matrices are of 16 bits, the published figures of 32, rounded to four digits.
PUBLISHED_WITHIN = 1e-3
# llama.cpp adds in another order in another batch; its activations between two layers are of 16 bits.
BATCH_WITHIN = 2e-3


@pytest.fixture
async def minilm() -> AsyncIterator[erllama.Model]:
    """The model that `make test` has fetched."""
    async with erllama.Runtime() as runtime:
        yield await runtime.load_model("minilm", {"model_path": fetch("minilm"), "context_opts": {"n_threads": 1}})


async def test_cosines_are_those_that_are_published(minilm: erllama.Model) -> None:
    """Within a thousandth: the tokenizer, the pooling and the model are as their makers meant them."""
    assert (minilm.info.can_generate, minilm.info.pooling, minilm.info.n_embd) == (False, "mean", 384)
    texts = sorted({text for one, other, _ in PUBLISHED for text in (one, other)})
    vectors = dict(zip(texts, await minilm.embed(texts), strict=True))
    found = [float(vectors[one] @ vectors[other]) for one, other, _ in PUBLISHED]
    assert found == pytest.approx([cosine for *_, cosine in PUBLISHED], abs=PUBLISHED_WITHIN)


async def test_texts_of_a_batch_are_as_if_each_was_alone(minilm: erllama.Model) -> None:
    """Two hundred of several lengths in one call, and the same in calls of their own that come together."""
    words = "the weather is lovely today and a man is eating bread in the garden while it rains"
    texts = [" ".join(words.split()[i % 5 : i % 5 + 1 + i % 11] * (1 + i % 4)) for i in range(200)]
    together = (await minilm.embed(texts)).vectors
    crowd = await asyncio.gather(*(minilm.embed(text) for text in texts))
    assert numpy.abs(numpy.stack([one.vector for one in crowd]) - together).max() < BATCH_WITHIN
    for i in range(0, 200, 17):
        assert numpy.abs((await minilm.embed(texts[i])).vector - together[i]).max() < BATCH_WITHIN


async def test_a_text_that_is_too_long_is_refused_or_cut(minilm: erllama.Model) -> None:
    """There are 512 positions; a cut text is near the whole one's beginning."""
    long = "the weather is lovely today " * 200
    with pytest.raises(erllama.InputTooLong) as caught:
        await minilm.embed(long)
    assert caught.value.limit == 512
    cut = await minilm.embed(long, truncate=True)
    assert (cut.token_counts, cut.truncated) == ((512,), (True,))


async def test_a_query_finds_its_document(minilm: erllama.Model) -> None:
    """By cosines."""
    documents = ["The stock market fell on Tuesday.", "Cats meow and purr.", "A recipe for bread with yeast."]
    for query, best in (("What sounds do cats make?", 1), ("How do I bake a loaf?", 2), ("share prices", 0)):
        assert (await minilm.rerank(query, documents, method="embeddings")).order[0] == best


@pytest.mark.parametrize("name", ["smollm2", "gemma3"])
async def test_generating_models_embed_beside_a_stream(name: str) -> None:
    """With a small batch where the vocabulary is large; what is alike is nearer, the reply is as without."""
    config: erllama.ModelConfigDict = {
        "model_path": fetch(name), "context_opts": {"n_ctx": 512, "n_threads": 1, "n_seq_max": 2},
    }  # fmt: skip
    texts = ["Cats purr and meow.", "Kittens meow and purr.", "The parliament passed the new tax law on Tuesday."]
    async with erllama.Runtime() as runtime:
        model = await runtime.load_model(name, config)
        alone = await model.complete("The capital of France is", temperature=0.0, response_tokens=12)
        beside, found = await asyncio.gather(
            model.complete("The capital of France is", temperature=0.0, response_tokens=12), model.embed(texts)
        )
        assert beside.generated == alone.generated
        vectors = found.vectors
        assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2]
        again = numpy.stack([(await model.embed(text)).vector for text in texts])
        assert numpy.abs(again - vectors).max() < 2e-2
