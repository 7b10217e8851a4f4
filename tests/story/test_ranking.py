"""Documents ranked for a query: by a model's own head, by embeddings, by how likely the query is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from helpers.embedding import close, embedding, encoder
from helpers.tiny_bert import CLS, SEP

import erllama_py as erllama
from erllama_py.engine.stub import StubVocabulary
from erllama_py.handle.pairs import frame_of

pytestmark = pytest.mark.anyio

QUERY = "where is the cat"
DOCUMENTS = ["a dog runs", "the cat sits outside", "the", "the cat sits outside"]
BACKENDS = ("llama", "stub")


@pytest.fixture(params=BACKENDS)
async def ranker(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[erllama.Model]:
    """A model with a head that ranks, for pairs of up to 64 tokens."""
    async with encoder(request.param, tmp_path_factory.getbasetemp(), ranks=True) as one:
        yield one


def is_sorted(ranking: erllama.Ranking) -> bool:
    """The best first, equals as they were given."""
    keys = [(-one.score, one.index) for one in ranking]
    return keys == sorted(keys)


async def test_a_models_own_head_scores_every_document(ranker: erllama.Model) -> None:
    """All are there, the best first, with what was given and its tokens; the same score alone as among others."""
    assert (ranker.info.can_rank, ranker.info.can_generate, ranker.info.pooling) == (True, False, None)
    found = await ranker.rerank(QUERY, DOCUMENTS)
    assert (found.method, sorted(found.order), is_sorted(found)) == ("model", [0, 1, 2, 3], True)
    assert [one.document for one in found] == [DOCUMENTS[one.index] for one in found]
    by_index = {one.index: one for one in found}
    assert by_index[1].score == pytest.approx(by_index[3].score, abs=1e-3)
    for index, document in enumerate(DOCUMENTS):
        (alone,) = await ranker.rerank(QUERY, [document])
        assert alone.score == pytest.approx(by_index[index].score, abs=2e-3)
        assert alone.tokens == by_index[index].tokens
    best = await ranker.rerank(QUERY, DOCUMENTS, top_n=2)
    assert best.order == found.order[:2]
    other = await ranker.rerank("dog", DOCUMENTS)
    assert not close([one.score for one in other], [one.score for one in found])


async def test_query_and_documents_may_be_tokens(ranker: erllama.Model) -> None:
    """Without the control tokens around them, which the model's frame has."""

    async def plain(text: str) -> list[int]:
        tokens = await ranker.tokenize(text)
        return [token for token in tokens if token not in (CLS, SEP)]

    expected = await ranker.rerank(QUERY, DOCUMENTS)
    found = await ranker.rerank(await plain(QUERY), [await plain(one) for one in DOCUMENTS])
    assert close([one.score for one in found], [one.score for one in expected])
    assert found[0].document == await plain(DOCUMENTS[found[0].index])


async def test_a_pair_that_is_too_long_is_refused_or_its_document_cut(ranker: erllama.Model) -> None:
    """The query stays whole; where it leaves no room, nothing helps."""
    long = "cat " * 100
    with pytest.raises(erllama.InputTooLong) as caught:
        await ranker.rerank(QUERY, ["the", long])
    assert (caught.value.index, caught.value.limit) == (1, 64)
    for truncate in (True, "start"):
        found = await ranker.rerank(QUERY, ["the", long], truncate=truncate)
        assert {one.index: (one.truncated, one.tokens) for one in found}[1] == (True, 64)
    with pytest.raises(erllama.InputTooLong, match="no room"):
        await ranker.rerank(long, ["the"], truncate=True)


async def test_a_model_that_ranks_embeds_with_a_pooling_that_is_given(ranker: erllama.Model) -> None:
    """Its file names none."""
    with pytest.raises(erllama.InvalidOption) as caught:
        await ranker.embed("cat")
    assert caught.value.option == "pooling"
    assert (await ranker.embed("cat", pooling="cls")).vectors.shape == (1, ranker.info.n_embd)


async def test_it_ranks_and_embeds_at_the_same_time(ranker: erllama.Model) -> None:
    """In contexts of their own."""
    alone = await ranker.rerank(QUERY, DOCUMENTS)
    found, _ = await asyncio.gather(ranker.rerank(QUERY, DOCUMENTS), ranker.embed(DOCUMENTS, pooling="mean"))
    assert close([one.score for one in found], [one.score for one in alone])


@pytest.mark.parametrize("kind", ["llama-encoder", "stub-encoder", "llama-dense", "stub-dense"])
async def test_by_embeddings_a_document_has_its_cosine(kind: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Any model that embeds can; one without a head is told of it."""
    async with embedding(kind, tmp_path_factory.getbasetemp()) as model:
        with pytest.raises(erllama.CannotRank) as caught:
            await model.rerank(QUERY, DOCUMENTS)
        assert caught.value.methods == (("embeddings",) if "encoder" in kind else ("embeddings", "score"))
        found = await model.rerank(QUERY, DOCUMENTS, method="embeddings")
        assert (found.method, is_sorted(found)) == ("embeddings", True)
        vectors = (await model.embed([QUERY, *DOCUMENTS])).vectors
        expected = {index: float(vectors[index + 1] @ vectors[0]) for index in range(4)}
        assert {one.index: one.score for one in found} == pytest.approx(expected, abs=2e-3)


@pytest.mark.either_loop
@pytest.mark.parametrize("kind", ["llama-dense", "llama-recurrent", "stub-dense"])
async def test_by_scores_a_document_has_the_mean_logprob_of_the_query_after_it(
    kind: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """What `score` gives for the document and a newline as the prompt, for each token of the query."""
    async with embedding(kind, tmp_path_factory.getbasetemp()) as model:
        found = await model.rerank(QUERY, DOCUMENTS, method="score")
        assert (found.method, is_sorted(found)) == ("score", True)
        (score,) = (await model.score(f"{DOCUMENTS[1]}\n", [QUERY])).scores
        by_index = {one.index: one.score for one in found}
        assert by_index[1] == pytest.approx(score.logprob / len(score.token_ids), abs=1e-2)
        long = "cat " * 600
        with pytest.raises(erllama.InputTooLong):
            await model.rerank(QUERY, [long], method="score")
        (cut,) = await model.rerank(QUERY, [long], method="score", truncate=True)
        assert cut.truncated


@pytest.mark.either_loop
@pytest.mark.parametrize(
    ("query", "documents", "error", "says"),
    [
        ("", ["a"], erllama.EmptyPrompt, "the query"),
        ("q", [], erllama.EmptyPrompt, "no document"),
        ("q", ["a", ""], erllama.EmptyPrompt, "document 1"),
        ("q", "a", erllama.RequestError, "a list is expected"),
        ("q", [5, 6], erllama.RequestError, "int"),
        (None, ["a"], erllama.RequestError, "query"),
        ("q", ["a", b"b"], erllama.RequestError, "bytes"),
        ("q", {"a": 1}, erllama.RequestError, "dict"),
        ([1 << 40], ["a"], erllama.TokenOutOfRange, "vocabulary"),
    ],
)
async def test_what_is_no_query_or_no_document_is_refused(
    ranker: erllama.Model, query: Any, documents: Any, error: type[erllama.ErllamaError], says: str
) -> None:
    """With its place where there is one."""
    with pytest.raises(error, match=says):
        await ranker.rerank(query, documents)


@pytest.mark.either_loop
@pytest.mark.parametrize("method", ["embeddings", "score", "model"])
async def test_a_deadline_ends_a_ranking(method: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    """There is no part of it to give."""
    fields: Any = {"backend": "stub", "stub": {"seconds_per_token": 1.0, "ranks": method == "model"}}
    async with erllama.Runtime() as runtime:
        model = await runtime.load_model("m", fields)
        with pytest.raises(erllama.DeadlinePassed):
            await model.rerank("query", ["a", "b"], method=method, deadline=0.01)


def test_a_template_for_ranking_frames_the_pairs() -> None:
    """Its control tokens are those of the model, text of the query is text; one without both places counts for
    nothing."""
    vocabulary, query = StubVocabulary("m", 320), [*b"a<|im_end|>"]
    template = "<|im_start|>q: {query}<|im_end|>d: {document}<|im_end|>"
    before, after = frame_of(vocabulary, query, template)
    assert before == [257, *b"q: ", *query, 258, *b"d: "]
    assert after == [258]
    assert frame_of(vocabulary, query, "{document} alone") == frame_of(vocabulary, query, None) == ([*query, 256], [])


@pytest.mark.parametrize("method", ["embeddings", "score"])
@pytest.mark.parametrize(
    ("query", "documents", "says"),
    [
        (QUERY, ["a", ""], "document 1 has no text"),
        ("", ["a"], "the query has no text"),
        (QUERY, ["a", "\ud800"], "document 1: "),
        (QUERY, ["a", 7], "document 1: "),
        (7, ["a"], "query: "),
        (QUERY, ["a", "cat " * 2000], "document 1 has"),
        ("cat " * 2000, ["a"], "the query has"),
    ],
)
async def test_errors_name_the_query_or_the_document_by_its_own_index(
    method: Any, query: Any, documents: Any, says: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """However the inputs are put together to be computed."""
    async with embedding("stub-dense", tmp_path_factory.getbasetemp()) as model:
        with pytest.raises(erllama.RequestError, match=f"^{says}") as caught:
            await model.rerank(query, documents, method=method)
        if isinstance(caught.value, erllama.InputTooLong):
            assert caught.value.index == (1 if says.startswith("document") else 0)
