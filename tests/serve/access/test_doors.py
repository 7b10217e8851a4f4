"""Requests as they come to the application: from where, by which name, from which page, with which key."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from helpers.clock import ManualClock
from helpers.served import served

import erllama_py as erllama
from erllama_py.serve.access import AccessOpts, KeyAccess, KeyOpts, make_key
from erllama_py.serve.app import App

pytestmark = pytest.mark.anyio
ASK: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 4}
CHAT = "/v1/chat/completions"


def client_of(app: App, address: str = "10.0.0.7", url: str = "http://localhost") -> httpx.AsyncClient:
    """A client at another address, or asking by another name."""
    transport = httpx.ASGITransport(app=app, client=(address, 4321), raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url=url)


async def test_without_keys_other_machines_are_turned_away() -> None:
    """Unless it is said to be insecure; this one is served."""
    for insecure, status in ((False, 403), (True, 200)):
        async with served(access=AccessOpts(insecure=insecure)) as at, client_of(at.app) as other:
            answer = await other.post(CHAT, json=ASK)
            assert answer.status_code == status
            assert (await other.get("/health")).status_code == status
            assert (await at.client.post(CHAT, json=ASK)).status_code == 200
            passed_on = await at.client.post(CHAT, json=ASK, headers={"x-forwarded-for": "10.0.0.7"})
            assert passed_on.status_code == status
            # What all do together is for the machine itself.
            assert (await other.get("/erllama/cache")).status_code == 403
            assert (await at.client.get("/erllama/cache")).status_code == 200
    assert answer.json()


async def test_a_key_opens() -> None:
    """As either header has it; without one, and with a wrong one, there is nothing to be seen but the health."""
    key, digest = make_key()
    access = AccessOpts(keys=(KeyOpts(name="alice", hash=digest),))
    async with served(access=access) as at, client_of(at.app, url="http://llm.example.com") as other:
        for headers in ({"authorization": f"Bearer {key}"}, {"x-api-key": key}):
            assert (await other.post(CHAT, json=ASK, headers=headers)).status_code == 200
        for wrong in ({}, {"authorization": "Bearer no"}, {"x-api-key": digest}):
            for path in ("/v1/models", "/erllama/tree", "/erllama/cache"):
                answer = await other.get(path, headers=wrong)
                assert answer.status_code == 401
                assert "tiny" not in answer.text
            refused = await other.post(CHAT, json=ASK, headers=wrong)
            assert refused.status_code == 401
            assert refused.json()["error"]["code"] == "invalid_api_key"
        assert (await other.get("/health")).status_code == 200
        assert (await other.get("/erllama/cache", headers={"x-api-key": key})).status_code == 403


async def test_a_key_may_use_its_models() -> None:
    """Others are not there for it: in no list, and by no name."""
    key, digest = make_key()
    access = AccessOpts(keys=(KeyOpts(name="alice", hash=digest, models=("small",)),))
    async with served(access=access, aliases={"small": "tiny"}) as at:
        await at.runtime.load_model("large", {"backend": "stub"})
        at.client.headers["x-api-key"] = key
        listed = (await at.client.get("/v1/models")).json()["data"]
        assert [one["id"] for one in listed] == ["small"]
        for name, status in (("small", 200), ("large", 404), ("tiny", 404)):
            answer = await at.client.post(CHAT, json=ASK | {"model": name})
            assert answer.status_code == status
            assert "large" not in answer.text.replace("'large' not found", "")


async def test_a_rate_is_kept() -> None:
    """What is too much gets 429, and goes well after the time that it is told; others are not held up."""
    (one, first), (two, second) = make_key(), make_key()
    keys = (KeyOpts(name="a", hash=first, requests_per_minute=2), KeyOpts(name="b", hash=second))
    clock = ManualClock()
    async with served(access=KeyAccess(AccessOpts(keys=keys), clock.now)) as at:
        statuses = [(await at.client.post(CHAT, json=ASK, headers={"x-api-key": one})).status_code for _ in range(3)]
        assert statuses == [200, 200, 429]
        answer = await at.client.post(CHAT, json=ASK, headers={"x-api-key": one})
        assert answer.headers["retry-after"] == "30"
        assert answer.json()["error"]["code"] == "requests_limit"
        assert (await at.client.post(CHAT, json=ASK, headers={"x-api-key": two})).status_code == 200
        clock.advance(29.0)
        assert (await at.client.post(CHAT, json=ASK, headers={"x-api-key": one})).status_code == 429
        clock.advance(1.0)
        assert (await at.client.post(CHAT, json=ASK, headers={"x-api-key": one})).status_code == 200


async def test_a_token_budget_is_kept() -> None:
    """Tokens that were computed and generated count, those out of the cache do not; a debt is waited for."""
    key, digest = make_key()
    keys = (KeyOpts(name="a", hash=digest, tokens_per_minute=60),)
    clock = ManualClock()
    async with served(access=KeyAccess(AccessOpts(keys=keys), clock.now)) as at:
        at.client.headers["x-api-key"] = key
        content = "x" * 100
        answer = await at.client.post(CHAT, json=ASK | {"messages": [{"role": "user", "content": content}]})
        usage = answer.json()["usage"]
        debt = usage["prompt_tokens"] + usage["completion_tokens"] - 60
        refused = await at.client.post(CHAT, json=ASK)
        assert refused.status_code == 429
        assert refused.headers["retry-after"] == str(debt + 1)
        clock.advance(debt + 1.0)
        assert (await at.client.post(CHAT, json=ASK)).status_code == 200


@pytest.mark.parametrize(
    ("path", "ask"),
    [
        ("/v1/embeddings", {"input": ["x" * 100]}), ("/api/embed", {"input": ["x" * 100]}),
        ("/api/embeddings", {"prompt": "x" * 100}), ("/v1/rerank", {"query": "x", "documents": ["x" * 100]}),
        ("/v1/completions", {"prompt": "x" * 100, "max_tokens": 1}), ("/v1/responses", {"input": "x" * 100}),
        ("/v1/messages", {"messages": [{"role": "user", "content": "x" * 100}], "max_tokens": 0}),
        ("/api/generate", {"prompt": "x" * 100}),
    ],
)  # fmt: skip
async def test_all_that_is_computed_is_charged(path: str, ask: dict[str, Any]) -> None:
    """By whichever endpoint."""
    key, digest = make_key()
    keys = (KeyOpts(name="a", hash=digest, tokens_per_minute=60),)
    stub = {"stub": {"ranks": True}} if path == "/v1/rerank" else {}
    async with served(stub, access=KeyAccess(AccessOpts(keys=keys))) as at:
        at.client.headers["x-api-key"] = key
        answer = await at.client.post(path, json={"model": "tiny", "stream": False} | ask)
        assert answer.status_code == 200, answer.text
        assert (await at.client.post(CHAT, json=ASK)).status_code == 429


async def test_names_of_others_over_loopback_are_refused() -> None:
    """As a page would ask by whose name a browser finds this machine; with a key too."""
    key, digest = make_key()
    keys = (KeyOpts(name="a", hash=digest),)
    for access in (AccessOpts(), AccessOpts(keys=keys), AccessOpts(allowed_hosts=("llm.example.com",))):
        async with served(access=access) as at:
            at.client.headers["x-api-key"] = key
            for host, fine in (("localhost:80", True), ("127.0.0.1", True), ("[::1]:8080", True), ("evil.com", False),
                               ("llm.example.com", bool(access.allowed_hosts)), ("", False)):  # fmt: skip
                answer = await at.client.get("/v1/models", headers={"host": host})
                assert (answer.status_code == 200) == fine, host
                if not fine:
                    assert answer.status_code == 403
                    assert answer.json()["error"]["code"] == "unknown_host"


async def test_pages_of_others_may_not_call() -> None:
    """Neither read nor ask, not even with what browsers send unasked; those that are named may, and its own."""
    async with served(access=AccessOpts(origins=("https://chat.example.com",))) as at:
        ask = {"content-type": "text/plain"}
        for origin, status in (
            (None, 200), ("https://evil.com", 403), ("null", 403), ("http://localhost", 200),
            ("https://chat.example.com", 200), ("http://chat.example.com", 403), ("http://localhost:81", 403),
        ):  # fmt: skip
            headers = ask | ({"origin": origin} if origin else {})
            answer = await at.client.post(CHAT, json=ASK, headers=headers)
            assert answer.status_code == status, origin
            assert answer.headers.get("access-control-allow-origin") == (origin if status == 200 else None)


async def test_a_browser_asks_before() -> None:
    """A page that may call is told what it may send; others are not."""
    asked = {"access-control-request-method": "POST", "access-control-request-headers": "authorization,x-stainless-os"}
    async with served(access=AccessOpts(origins=("*",))) as at:
        answer = await at.client.options(CHAT, headers=asked | {"origin": "https://any.com"})
        assert answer.status_code == 204
        assert answer.headers["access-control-allow-origin"] == "https://any.com"
        assert answer.headers["access-control-allow-headers"] == asked["access-control-request-headers"]
        assert "access-control-allow-credentials" not in answer.headers
        failed = await at.client.post(CHAT, json={}, headers={"origin": "https://any.com"})
        assert failed.status_code == 400
        assert failed.headers["access-control-allow-origin"] == "https://any.com"
    async with served() as at:
        answer = await at.client.options(CHAT, headers=asked | {"origin": "https://any.com"})
        assert answer.status_code == 403
        assert "access-control-allow-origin" not in answer.headers


async def test_keys_that_cannot_be_are_refused_at_once() -> None:
    """With their place."""
    digest = make_key()[1]
    keys = (KeyOpts(name="a", hash=digest), KeyOpts(name="b", hash=digest))
    with pytest.raises(erllama.InvalidOption, match=r"keys\[1\].hash"):
        KeyAccess(AccessOpts(keys=keys))


async def test_a_proxy_on_this_machine_is_no_operator() -> None:
    """Of an insecure server: what it passes on comes from elsewhere."""
    async with served(access=AccessOpts(insecure=True)) as at:
        assert (await at.client.get("/erllama/tree")).status_code == 200
        for name in ("x-forwarded-for", "x-forwarded-host", "via", "forwarded", "cf-connecting-ip"):
            assert (await at.client.get("/erllama/tree", headers={name: "1"})).status_code == 403
            assert (await at.client.get("/v1/models", headers={name: "1"})).status_code == 200
