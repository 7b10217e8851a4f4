"""`/erllama/models`, `/erllama/tree` and `/erllama/cache`: for operators, and without a word of anybody's text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from helpers.served import served
from starlette.requests import HTTPConnection

import erllama_py as erllama
from erllama_py.serve.core.served import ServedState
from erllama_py.serve.core.service import Tenant
from erllama_py.serve.operations.protocol import prefers_text, without_folders
from erllama_py.serve.operations.tree import shown

CANARY = "the heron of Lindau"
ASK: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": CANARY * 20}], "max_tokens": 4}


class Strangers:
    """An `Access` whose tenants are no operators."""

    def admit(self, connection: HTTPConnection) -> Tenant:
        return Tenant(name="somebody", salt="theirs")

    def spent(self, tenant: Tenant, tokens: int) -> None:
        pass


@pytest.mark.anyio
async def test_the_tree_is_data_or_drawn() -> None:
    """As `Accept` asks for."""
    async with served() as at:
        tree = (await at.client.get("/erllama/tree")).json()
        assert tree["name"] == "runtime"
        names = [child["name"] for branch in tree["children"] for child in branch["children"]]
        assert "model:tiny" in names
        drawn = await at.client.get("/erllama/tree", headers={"accept": "text/plain"})
        assert drawn.headers["content-type"].startswith("text/plain")
        assert "── model:tiny (state machine) running" in drawn.text


@pytest.mark.anyio
async def test_models_are_told_of_whether_they_are_there_or_not() -> None:
    """Of a host's runtime: those that it has loaded, and those that are still to come."""
    async with served(only=["tiny", "second"]) as at:
        told = msgspec.convert((await at.client.get("/erllama/models")).json(), ServedState)
        assert [(one.name, one.state, one.phase) for one in told.models] == [
            ("tiny", "loaded", "idle"), ("second", "loading", None)
        ]  # fmt: skip
        assert told == at.app.service.states()


@pytest.mark.anyio
async def test_the_cache_is_summed_up() -> None:
    """What was saved, and why others missed; neither texts nor keys."""
    async with served() as at:
        for _ in range(2):
            assert (await at.client.post("/v1/chat/completions", json=ASK)).status_code == 200
        await at.runtime.cache.flush()
        answer = await at.client.get("/erllama/cache")
        report = answer.json()
        assert [tier["name"] for tier in report["tiers"]] == ["ram"]
        assert sum(row["rows"] for row in report["rows"]) == report["tiers"][0]["rows"] > 0
        assert sum(row["nbytes"] for row in report["rows"]) == report["tiers"][0]["used_bytes"]
        assert (report["hits"], report["misses"]) == ({"live": 1}, {"empty": 1})
        assert report["counters"]["hits.live"] == 1
        assert "heron" not in answer.text
        assert "key" not in answer.text


@pytest.mark.anyio
async def test_who_is_no_operator_sees_none_of_it() -> None:
    """They are about all tenants together."""
    async with served(access=Strangers()) as at:
        for path in ("/erllama/models", "/erllama/tree", "/erllama/cache", "/metrics"):
            answer = await at.client.get(path)
            assert (answer.status_code, answer.json()["error"]["code"]) == (403, "operators_only")
        assert (await at.client.get("/health")).status_code == 200


@pytest.mark.anyio
async def test_a_closed_runtime_has_a_tree_and_no_cache() -> None:
    """What ended, and 503."""
    async with served() as at:
        await at.runtime.__aexit__(None, None, None)
        assert (await at.client.get("/erllama/tree")).json()["state"] == "stopped"
        assert (await at.client.get("/erllama/cache")).status_code == 503


def test_no_folder_of_the_machine_is_in_a_tree(tmp_path: Path) -> None:
    """The last part of a path is enough to know which file it is."""
    failure = f"ModelFileNotFound: {tmp_path}/deep/model.gguf does not exist"
    leaf = erllama.TreeNode("model:m", "state machine", "failed", 3, None, failure, detail=f"in {tmp_path}/rows")
    node = shown(erllama.TreeNode("runtime", "supervisor", "running", 0, 1.0, None, children=(leaf,)))
    assert str(tmp_path) not in str(node)
    assert node.children[0].last_failure == "ModelFileNotFound: model.gguf does not exist"
    assert node.children[0].detail == "in rows"


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("no such file: '/srv/models/a.gguf'", "no such file: 'a.gguf'"),
        ("/srv/a: 3 of 4", "a: 3 of 4"),
        ("12 tokens/s and 3/4 of it", "12 tokens/s and 3/4 of it"),
        ("~/x/y.gguf", "y.gguf"),
        ("see https://example.org/a/b", "see https://example.org/a/b"),
        ("a tier / a row", "a tier / a row"),
    ],
)
def test_folders_are_left_out(text: str, left: str) -> None:
    """Of paths, and of nothing else that has a slash."""
    assert without_folders(text) == left


@pytest.mark.parametrize(
    ("accept", "text"),
    [
        ("", False), ("*/*", False), ("application/json", False), ("text/plain", True), ("TEXT/PLAIN;q=0.5", True),
        ("text/html,application/xhtml+xml,*/*;q=0.8", True), ("text/plain;q=0.2, application/json", False),
        ("text/plain;q=x", False), ("text/plain;q=0", False), (",;,", False),
    ],
)  # fmt: skip
def test_accept_says_which(accept: str, text: bool) -> None:
    """JSON unless text is preferred."""
    assert prefers_text(accept) is text
