"""`/v1/embeddings`, `/v1/rerank`, and what llama-server's clients ask of tokens."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import numpy
import pytest
from helpers.served import served
from helpers.tiny_bert import tiny_bert
from openai.types import CreateEmbeddingResponse

pytestmark = pytest.mark.anyio

EMBED = "/v1/embeddings"
ASK: dict[str, Any] = {"model": "tiny", "input": ["one", "two"]}
HELLO = {"model": "tiny", "messages": [{"role": "user", "content": "hello"}]}


async def test_texts_are_embedded() -> None:
    """As the library embeds them; as numbers, or packed."""
    async with served() as at:
        answer = CreateEmbeddingResponse.model_validate((await at.client.post(EMBED, json=ASK)).json(), strict=True)
        own = await at.model.embed(["one", "two"])
        assert [one.index for one in answer.data] == [0, 1]
        assert numpy.allclose([one.embedding for one in answer.data], own.vectors)
        assert answer.usage.prompt_tokens == sum(own.token_counts)
        packed = (await at.client.post(EMBED, json=ASK | {"encoding_format": "base64"})).json()
        numbers = [numpy.frombuffer(base64.b64decode(one["embedding"]), "<f4") for one in packed["data"]]
        assert numpy.array_equal(numbers, own.vectors)
        for given in ("one", [111, 110, 101], [[111, 110, 101]]):
            found = (await at.client.post(EMBED, json=ASK | {"input": given, "dimensions": 8})).json()["data"]
            assert [len(one["embedding"]) for one in found] == [8]
        many = (await at.client.post(EMBED, json=ASK | {"input": ["x"] * 100})).json()["data"]
        assert [one["index"] for one in many] == list(range(100))


@pytest.mark.parametrize(
    ("change", "status", "param"),
    [
        ({"input": []}, 400, None), ({"input": ""}, 400, None), ({"input": ["x", 3]}, 400, None),
        ({"input": None}, 400, "input"), ({"input": ["x"] * 2049}, 413, "input"),
        ({"dimensions": 0}, 400, "dimensions"),
        ({"encoding_format": "hex"}, 400, "encoding_format"), ({"model": "other"}, 404, "model"),
        ({"input": "word " * 3000}, 400, None), ({"dimensions": 9999}, 400, "dimensions"),
    ],
)  # fmt: skip
async def test_what_is_wrong_is_named(change: dict[str, Any], status: int, param: str | None) -> None:
    """In OpenAI's shape."""
    async with served() as at:
        answer = await at.client.post(EMBED, json=ASK | change)
        assert answer.status_code == status, answer.text
        assert answer.json()["error"]["param"] == param
        assert (await at.client.post(EMBED, json=ASK | {"input": "word " * 3000, "truncate": "END"})).status_code == 200


async def test_documents_are_ranked() -> None:
    """The best first, as texts or objects, on both paths; a model that cannot is told of the other ways."""
    documents = ["the sea", {"text": "a lighthouse by the sea"}, "bread"]
    body: dict[str, Any] = {"query": "the lighthouse", "documents": documents, "model": "tiny"}
    async with served({"stub": {"ranks": True}}) as at:
        for path in ("/v1/rerank", "/rerank"):
            answer = (await at.client.post(path, json=body)).json()
            scores = [one["relevance_score"] for one in answer["results"]]
            assert scores == sorted(scores, reverse=True)
            assert answer["usage"]["total_tokens"] > 0
        more = body | {"top_n": 1, "return_documents": True}
        (best,) = (await at.client.post("/rerank", json=more)).json()["results"]
        assert (best["index"], best["document"]["text"]) == (1, "a lighthouse by the sea")
        assert (await at.client.post("/rerank", json=body | {"documents": []})).status_code == 400
        assert (await at.client.post("/rerank", json=body | {"documents": ["x"] * 2049})).status_code == 413
        wrong = await at.client.post("/rerank", json=body | {"documents": [{"body": "x"}]})
        assert wrong.json()["error"]["param"] == "documents[0]"
    async with served() as at:
        assert (await at.client.post("/rerank", json=body)).status_code == 400
        assert (await at.client.post("/rerank", json=body | {"method": "score"})).status_code == 200


@pytest.mark.slow
async def test_an_encoder_without_a_head_ranks_by_its_vectors(tmp_path: Path) -> None:
    """Clients of Jina's and Cohere's cannot say how."""
    body: dict[str, Any] = {"query": "b", "documents": ["a", "b", "c"], "top_n": 1}
    config = {"backend": "llama", "model_path": tiny_bert(tmp_path), "context_opts": {"n_ctx": 64}}
    async with served(config) as at:
        found = (await at.client.post("/v1/rerank", json=body)).json()["results"]
        assert found == (await at.client.post("/v1/rerank", json=body | {"method": "embeddings"})).json()["results"]
        assert found[0]["index"] == 1
        assert (await at.client.post("/v1/rerank", json=body | {"method": "model"})).status_code == 400


async def test_tokens_are_counted_and_shown() -> None:
    """As the model would read them."""
    async with served() as at:
        count = (await at.client.post("/v1/chat/completions/input_tokens", json=HELLO)).json()["input_tokens"]
        chat = (await at.client.post("/v1/chat/completions", json=HELLO | {"max_tokens": 1})).json()
        assert count == chat["usage"]["prompt_tokens"]
        prompt = (await at.client.post("/apply-template", json=HELLO)).json()["prompt"]
        assert "hello" in prompt
        tokens = (await at.client.post("/tokenize", json={"content": prompt, "add_special": True})).json()["tokens"]
        assert len(tokens) >= count
        assert (await at.client.post("/detokenize", json={"tokens": tokens})).json()["content"].endswith(prompt)
        assert (await at.client.post("/detokenize", json={"tokens": [99_999]})).status_code == 400
