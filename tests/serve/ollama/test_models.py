"""What Ollama's clients find: a server, its models, and what it does not do."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from helpers.served import lines, served, served_script
from helpers.tiny_gguf import tiny_gguf
from ollama import ListResponse, ProcessResponse, ShowResponse

import erllama_py as erllama
from erllama_py.serve.access import AccessOpts, KeyOpts, make_key
from erllama_py.serve.app import create_app
from erllama_py.serve.ollama.details import running, size_of, tagged, usable_context


@pytest.mark.anyio
async def test_a_server_is_found() -> None:
    """By the words that programs compare; a browser is told what it is. Versions are numbers alone."""
    async with served() as at:
        assert (await at.client.get("/")).text == "Ollama is running"
        assert (await at.client.head("/")).status_code == 200
        page = await at.client.get("/", headers={"accept": "text/html,application/xhtml+xml"})
        assert "erllama" in page.text
        said = (await at.client.get("/api/version")).json()
        assert all(part.isdecimal() for part in said["version"].split("."))
        assert said["erllama_py"] == erllama.__version__


@pytest.mark.anyio
async def test_models_are_listed_with_tags() -> None:
    """By all their names; running ones are all of them, for ever."""
    async with served(aliases={"gpt:mini": "tiny"}) as at:
        listed = ListResponse.model_validate((await at.client.get("/api/tags")).json())
        assert [one.model for one in listed.models] == ["tiny:latest", "gpt:mini"]
        assert listed.models[0].digest == at.model.info.fingerprint
        running = ProcessResponse.model_validate((await at.client.get("/api/ps")).json())
        assert [one.name for one in running.models] == ["tiny:latest", "gpt:mini"]
        first = running.models[0]
        assert (first.context_length, first.size_vram) == (2048, 0)
        assert first.expires_at is not None
        assert first.expires_at > datetime.now(UTC)


@pytest.mark.anyio
@pytest.mark.parametrize("name", ["tiny", "tiny:latest"])
async def test_names_mean_the_same_with_the_tag(name: str) -> None:
    """In all APIs: clients take names from `/api/tags` to `/v1`."""
    async with served() as at:
        assert (await at.client.post("/api/show", json={"model": name})).status_code == 200
        assert (await at.client.post("/api/show", json={"name": name})).status_code == 200
        chat = {"model": name, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}
        assert (await at.client.post("/v1/chat/completions", json=chat)).status_code == 200


@pytest.mark.anyio
async def test_a_model_file_is_described_as_it_is(tmp_path: Path) -> None:
    """Its architecture, size, quantisation and template; the time is the server's; its path is in no answer."""
    path = tiny_gguf("dense", tmp_path).rename(tmp_path / "secret-place.gguf")
    async with served({"backend": "llama", "model_path": str(path), "context_opts": {"n_ctx": 64}}) as at:
        tags, ps = (await at.client.get("/api/tags")).text, (await at.client.get("/api/ps")).text
        answer = await at.client.post("/api/show", json={"model": "tiny"})
        assert not [text for text in (tags, ps, answer.text) if "secret-place" in text or str(tmp_path) in text]
        shown, info = ShowResponse.model_validate(answer.json()), at.model.info
        assert shown.modelinfo is not None
        assert shown.modelinfo["general.architecture"] == "llama"
        assert shown.modelinfo["general.parameter_count"] == info.n_params
        assert shown.modelinfo["llama.context_length"] == 64
        assert shown.details is not None
        assert (shown.details.format, shown.details.family) == ("gguf", "llama")
        assert shown.details.quantization_level == info.quant_type.upper()
        assert shown.modified_at == datetime.fromtimestamp(round(at.app.service.started_at, 6), UTC)
        assert ListResponse.model_validate_json(tags).models[0].size == info.size > 0


@pytest.mark.anyio
async def test_what_a_model_can_do() -> None:
    """Found from its chat template; an encoder only embeds."""
    thinks = "{% for m in messages %}{{ m.content }}{% endfor %}{% if false %}</think>{% endif %}"
    async with served_script("x", controls=("<think>", "</think>"), template=thinks) as at:
        assert (await at.client.post("/api/show", json={"model": "tiny"})).json()["capabilities"] == [
            "completion", "thinking",
        ]  # fmt: skip
    async with served() as at:
        assert (await at.client.post("/api/show", json={"model": "tiny"})).json()["capabilities"] == [
            "completion", "tools",
        ]  # fmt: skip
    async with served({"stub": {"embeds_only": True}}) as at:
        assert (await at.client.post("/api/show", json={"model": "tiny"})).json()["capabilities"] == ["embedding"]


@pytest.mark.anyio
@pytest.mark.parametrize("path", ["show", "chat", "generate", "embed", "embeddings", "pull"])
async def test_a_model_that_is_not_there_is_404(path: str) -> None:
    """With the names of those that are."""
    async with served() as at:
        answer = await at.client.post(f"/api/{path}", json={"model": "other:7b"})
        assert answer.status_code == 404
        assert answer.json()["error"].startswith("model 'other:7b' not found: served are 'tiny'")


@pytest.mark.anyio
async def test_pulling_what_is_served_is_done_already() -> None:
    """Clients pull what they are about to use."""
    async with served() as at:
        assert lines((await at.client.post("/api/pull", json={"model": "tiny"})).text)[-1] == {"status": "success"}
        whole = await at.client.post("/api/pull", json={"name": "tiny:latest", "stream": False})
        assert whole.json() == {"status": "success"}
        refused = (await at.client.post("/api/pull", json={"model": "x"})).json()["error"]
        assert "those of its command and of its configuration" in refused


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/api/create", 403), ("POST", "/api/copy", 403), ("POST", "/api/push", 403),
        ("DELETE", "/api/delete", 403), ("GET", "/api/chat", 404), ("HEAD", "/api/blobs/sha256:0", 404),
        ("POST", "/api/blobs/sha256:0", 404), ("GET", "/api/", 404),
    ],
)  # fmt: skip
async def test_what_is_not_served_is_said(method: str, path: str, status: int) -> None:
    """In Ollama's shape."""
    async with served() as at:
        answer = await at.client.request(method, path)
        assert answer.status_code == status
        assert method == "HEAD" or "is not served here" in answer.json()["error"]


@pytest.mark.anyio
async def test_lists_are_there_while_the_server_drains() -> None:
    """A client that looks for the server finds it; nothing else is begun."""
    async with served() as at:
        at.app.service.open.draining = True
        assert (await at.client.get("/api/version")).status_code == 200
        assert (await at.client.get("/api/tags")).status_code == 200
        refused = await at.client.post("/api/show", json={"model": "tiny"})
        assert (refused.status_code, refused.json()["error"]) == (503, "the server is shutting down")


@pytest.mark.anyio
async def test_a_server_is_found_before_it_is_ready() -> None:
    """Its models are not: the runtime is opened later."""
    transport = httpx.ASGITransport(app=create_app(erllama.Runtime()))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        assert (await client.get("/")).status_code == (await client.get("/api/version")).status_code == 200
        for answer in (await client.get("/api/tags"), await client.post("/api/chat", json={"model": "tiny"})):
            assert answer.status_code == 503
            assert answer.headers["retry-after"]
            assert isinstance(answer.json()["error"], str)


@pytest.mark.anyio
async def test_a_key_is_asked_for_in_ollama_s_shape() -> None:
    """Where the server has keys; its models are those of the key."""
    key, digest = make_key()
    access = AccessOpts(keys=(KeyOpts(name="anna", hash=digest, models=("other",)),))
    async with served(access=access) as at:
        refused = await at.client.get("/api/tags")
        assert (refused.status_code, type(refused.json()["error"])) == (401, str)
        told = await at.client.get("/api/tags", headers={"authorization": f"Bearer {key}"})
        assert told.json() == {"models": []}


def test_sizes_and_names_as_ollama_writes_them() -> None:
    """Rounded, with their letters."""
    assert [size_of(n) for n in (8_030_261_248, 134_515_008, 999_999_999, 22_000)] == [
        "8.0B",
        "134.52M",
        "1000.00M",
        "22.00K",
    ]
    assert (tagged("a"), tagged("a:b")) == ("a:latest", "a:b")


@pytest.mark.anyio
@pytest.mark.parametrize(("layers", "share"), [(0, 0.0), (-1, 1.0), (999, 1.0), (12, None)])
async def test_what_lies_on_a_gpu(layers: int, share: float | None) -> None:
    """All, nothing, or what nobody knows."""
    async with served({"model_opts": {"n_gpu_layers": layers}}) as at:
        info = at.model.info
        told: Any = running("tiny", info, None).get("size_vram")
        assert told == (None if share is None else share * info.memory_estimate)
        assert usable_context(info) == info.context_size
