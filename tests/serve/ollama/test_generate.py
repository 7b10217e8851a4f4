"""`/api/generate`, `/api/embed`, `/api/embeddings` as Ollama's clients see them."""

from __future__ import annotations

import math
from typing import Any

import pytest
from helpers.served import lines, served, served_script
from ollama import EmbeddingsResponse, EmbedResponse, GenerateResponse

PLAIN = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
ASK: dict[str, Any] = {"model": "tiny", "prompt": "hello", "options": {"num_predict": 8, "temperature": 0}}


@pytest.mark.anyio
async def test_a_prompt_is_answered() -> None:
    """In the model's template, streamed unless told not to, and with a context to go on from."""
    async with served() as at:
        whole = GenerateResponse.model_validate(
            (await at.client.post("/api/generate", json=ASK | {"stream": False})).json()
        )
        assert (whole.done, whole.done_reason, whole.eval_count) == (True, "length", 8)
        assert whole.context is not None
        assert len(whole.context) == (whole.prompt_eval_count or 0) + 8
        *pieces, last = lines((await at.client.post("/api/generate", json=ASK)).text)
        assert "".join(one["response"] for one in pieces) == whole.response
        assert last["context"] == whole.context


@pytest.mark.anyio
async def test_a_context_is_gone_on_from() -> None:
    """Its tokens are the beginning of the next prompt, which is cached as far as they go."""
    async with served_script("one", "two") as at:
        first = (await at.client.post("/api/generate", json=ASK | {"stream": False})).json()
        ask = ASK | {"prompt": "more", "context": first["context"], "stream": False}
        second = (await at.client.post("/api/generate", json=ask)).json()
        turn = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
        assert at.script.prompts[-1] == turn.format("hello") + "one<|end|>" + turn.format("more")
        assert second["prompt_eval_cached_count"] >= len(first["context"]) - 2
        assert second["context"][: len(first["context"])] == first["context"]


@pytest.mark.anyio
async def test_a_system_message_goes_first() -> None:
    """As a message of the conversation."""
    async with served_script("x") as at:
        await at.client.post("/api/generate", json=ASK | {"system": "short"})
        assert at.script.prompts[-1].startswith("<|im_start|>system\nshort<|im_end|>\n<|im_start|>user\nhello")


@pytest.mark.anyio
async def test_raw_is_taken_as_it_is() -> None:
    """Without a template, and without a context in the answer; what contradicts it is refused."""
    async with served_script("x") as at:
        told = (await at.client.post("/api/generate", json=ASK | {"raw": True, "stream": False})).json()
        assert at.script.prompts[-1] == "hello"
        assert "context" not in told
        for more in ({"system": "short"}, {"context": [1]}):
            answer = await at.client.post("/api/generate", json=ASK | {"raw": True} | more)
            assert (answer.status_code, next(iter(more)) in answer.json()["error"]) == (400, True)


@pytest.mark.anyio
async def test_without_a_prompt_the_model_is_there() -> None:
    """Also where a client wants it unloaded, which nothing here does."""
    async with served() as at:
        empty: list[dict[str, Any]] = [{}, {"prompt": ""}, {"prompt": "", "keep_alive": 0}]
        for more in empty:
            told = (await at.client.post("/api/generate", json={"model": "tiny"} | more)).json()
            assert (told["done"], told["done_reason"], told["response"]) == (True, "load", "")


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"suffix": "end"}, "suffix"),
        ({"template": "{{ .Prompt }}"}, "template"),
        ({"images": ["aGk="]}, "images"),
        ({"context": ["a"]}, "context"),
        ({"context": [-1]}, ""),
        ({"context": [1 << 40]}, ""),
        ({"prompt": 1}, "prompt"),
        ({"think": True}, "think"),
        ({"options": {"mirostat": 3}}, "options.mirostat"),
    ],
)
async def test_what_is_wrong_is_named(change: dict[str, Any], field: str) -> None:
    """With status 400."""
    async with served() as at:
        answer = await at.client.post("/api/generate", json=ASK | change)
        assert answer.status_code == 400
        assert field in answer.json()["error"]


@pytest.mark.anyio
async def test_texts_become_vectors() -> None:
    """Of length 1, in their order, all or as many numbers as are asked for."""
    async with served() as at:
        ask = {"model": "tiny", "input": ["hello", "hello you", "no"], "dimensions": 8}
        told = EmbedResponse.model_validate((await at.client.post("/api/embed", json=ask)).json())
        assert [len(one) for one in told.embeddings] == [8, 8, 8]
        assert all(math.isclose(sum(x * x for x in one), 1.0, rel_tol=1e-5) for one in told.embeddings)
        assert told.prompt_eval_count == 16
        assert told.total_duration
        alone = (await at.client.post("/api/embed", json=ask | {"input": "hello"})).json()
        assert alone["embeddings"] == [list(told.embeddings[0])]


@pytest.mark.anyio
async def test_many_vectors_are_written_in_pieces() -> None:
    """The JSON is the same as of few."""
    async with served({"stub": {"n_embd": 9000}}) as at:
        told = (await at.client.post("/api/embed", json={"model": "tiny", "input": ["a", "b", "c", "d"]})).json()
        assert [len(one) for one in told["embeddings"]] == [9000] * 4


@pytest.mark.anyio
async def test_as_many_texts_are_taken_as_by_the_other_api() -> None:
    """More would hold the event loop up."""
    async with served() as at:
        answer = await at.client.post("/api/embed", json={"model": "tiny", "input": ["a"] * 2049})
        assert answer.status_code == 413
        assert "at most 2048" in answer.json()["error"]


@pytest.mark.anyio
async def test_long_texts_are_cut_unless_told_not_to() -> None:
    """As Ollama does."""
    async with served() as at:
        ask = {"model": "tiny", "input": "x" * 5000}
        assert (await at.client.post("/api/embed", json=ask)).status_code == 200
        refused = await at.client.post("/api/embed", json=ask | {"truncate": False})
        assert refused.status_code == 400


@pytest.mark.anyio
async def test_without_a_text_there_is_no_vector() -> None:
    """Clients warm models up with it."""
    async with served() as at:
        empty: list[dict[str, Any]] = [{}, {"input": ""}, {"input": []}]
        for given in empty:
            assert (await at.client.post("/api/embed", json={"model": "tiny"} | given)).json()["embeddings"] == []
        assert (await at.client.post("/api/embeddings", json={"model": "tiny"})).json() == {"embedding": []}
        for wrong in ({"input": 3}, {"input": [3]}, {"input": ["a", ""]}, {"input": "a", "dimensions": 0}):
            answer = await at.client.post("/api/embed", json={"model": "tiny"} | wrong)
            assert answer.status_code == 400


@pytest.mark.anyio
async def test_the_old_way_to_embed() -> None:
    """One text, and its vector at its own length."""
    async with served() as at:
        told = await at.client.post("/api/embeddings", json={"model": "tiny", "prompt": "hello"})
        old = EmbeddingsResponse.model_validate(told.json()).embedding
        new = (await at.client.post("/api/embed", json={"model": "tiny", "input": "hello"})).json()["embeddings"][0]
        length = math.hypot(*old)
        assert not math.isclose(length, 1.0, rel_tol=1e-3)
        assert all(math.isclose(one / length, other, abs_tol=1e-4) for one, other in zip(old, new, strict=True))


@pytest.mark.anyio
async def test_a_model_without_a_template_goes_on_from_its_prompt() -> None:
    """As Ollama has it for base models."""
    async with served_script("x", template="") as at:
        await at.client.post("/api/generate", json=ASK)
        assert at.script.prompts[-1] == "hello"
