"""What no answer may hold, whatever goes wrong: a path of the machine, a traceback, a key."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from helpers.served import served
from helpers.tiny_gguf import tiny_gguf
from starlette.routing import Route

import erllama_py as erllama
from erllama_py.serve.access import AccessOpts, KeyOpts, hash_key, make_key
from erllama_py.serve.app import App, create_app

pytestmark = pytest.mark.anyio
KEY, DIGEST = make_key()
LONG = "x" * 60_000
HI = [{"role": "user", "content": "hi"}]
BODIES: list[Any] = [
    b"", b"{", b"[]", b"null", b"\xff\xfe", b"{" * 5000, b'{"model": 3}',
    {"model": "m"}, {"model": "nothing"}, {"model": "../../etc/passwd"}, {"model": "m", "messages": "x"},
    {"model": "m", "messages": [], "prompt": [], "input": []},
    {"model": "m", "messages": [{"role": "user", "content": LONG}], "prompt": LONG, "input": LONG,
     "max_tokens": 4},
    {"model": "m", "messages": HI, "prompt": "hi", "input": "hi", "max_tokens": 4,
     "temperature": -5, "n": 99, "response_format": {"type": "json_schema", "json_schema": {"schema": {"type": 1}}}},
    {"model": "m", "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {
        "url": "file:///etc/passwd"}}]}], "prompt": "hi", "input": "hi", "max_tokens": 4},
    {"model": "m", "messages": HI, "prompt": "hi", "input": "hi", "max_tokens": 2,
     "grammar": "root ::=", "tools": [{"type": "function"}], "previous_response_id": "../../etc/passwd"},
]  # fmt: skip


def secrets(folder: Path) -> list[str]:
    """What is the machine's own."""
    return [str(folder), str(Path(erllama.__file__).parent), sys.prefix, os.getcwd(), str(Path.home()),
            "Traceback", "site-packages", DIGEST, KEY, "root:x:0"]  # fmt: skip


async def asked(app: App, hidden: list[str]) -> list[int]:
    """Every endpoint with every body; the statuses."""
    statuses = list[int]()
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=60) as client:
        for key in (KEY, "wrong"):
            for route in [one for one in app.routes if isinstance(one, Route)]:
                path = route.path.replace("{name:path}", "../../etc/passwd").replace("{id}", "..%2f..%2fetc")
                for method in sorted((route.methods or set()) - {"HEAD"}):
                    for body in BODIES if method == "POST" else [b""]:
                        given: Any = {"content": body} if isinstance(body, bytes) else {"json": body}
                        answer = await client.request(method, path, headers={"x-api-key": key}, **given)
                        statuses.append(answer.status_code)
                        seen = answer.text + str(answer.headers)
                        assert [one for one in hidden if one in seen] == [], (method, path, body)
    return statuses


@pytest.mark.slow
async def test_no_path_of_the_machine(tmp_path: Path) -> None:
    """On a model in a file and a tier on a disk; before, while and after they are there."""
    access = AccessOpts(keys=(KeyOpts(name="a", hash=DIGEST, operator=True),))
    tiers: Any = {"disk": erllama.DiskTier(str(tmp_path / "kv"))}
    runtime = erllama.Runtime(tiers=tiers)
    app = create_app(runtime, access=access, only=["m"])
    hidden = secrets(tmp_path)
    assert 503 in await asked(app, hidden)
    async with runtime:
        options: Any = {
            "model_path": str(tiny_gguf("dense", tmp_path)), "tier": "disk", "tier_srv": "disk",
            "context_opts": {"n_ctx": 2048, "n_seq_max": 2},
        }  # fmt: skip
        model = await runtime.load_model("m", options)
        statuses = await asked(app, hidden)
        assert {200, 400, 401, 404} <= set(statuses)
        assert 500 not in statuses
        model.inject_fault("actor")
        await asked(app, hidden)
        await runtime.unload("m")
        await asked(app, hidden)
    assert 503 in await asked(app, hidden)


async def test_without_a_key_nobody_learns_what_is_served() -> None:
    """Neither models, their names, versions nor the tree; `/health` has counts alone."""
    access = AccessOpts(keys=(KeyOpts(name="one", hash=DIGEST),))
    async with served(access=access) as at:
        for route in [one for one in at.app.routes if isinstance(one, Route)]:
            for method in sorted(route.methods or {"GET", "POST"}):
                answer = await at.client.request(method, route.path, headers={"anthropic-version": "1"})
                known = {"/health": 200, "/page/": 404}  # a file of the page that there is not: the page is for all
                status = next((known[start] for start in known if route.path.startswith(start)), 401)
                assert answer.status_code == status, route.path
                assert "tiny" not in answer.text
                assert erllama.__version__ not in answer.text


async def test_a_model_that_is_being_loaded_is_there_for_those_who_may_use_it() -> None:
    """For others there is none of this name, now as later."""
    keys = (KeyOpts(name="one", hash=DIGEST, models=("tiny",)), KeyOpts(name="all", hash=hash_key("all")))
    aliases = {"hidden": "large"}
    async with served(access=AccessOpts(keys=keys), aliases=aliases, only=["tiny", "large"]) as at:
        for name in ("large", "hidden", "large:latest"):
            statuses = [
                (await at.client.post("/v1/embeddings", json={"model": name, "input": "x"}, headers={"x-api-key": key}))
                for key in (KEY, "all")
            ]
            assert [one.status_code for one in statuses] == [404, 503]
