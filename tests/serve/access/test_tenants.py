"""Tenants see neither each other's text, counts nor timing: what a hit shows within one is not there for another.

Each way in which something is reused is first shown to be measurable, by the counts that clients are given and by the
tokens that the engine computed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from helpers.cache import config, text
from helpers.gated import Gated
from helpers.runtime import until
from helpers.tiny_gguf import tiny_gguf

import erllama_py as erllama
from erllama_py.serve.access import AccessOpts, KeyOpts, make_key
from erllama_py.serve.app import App, create_app

pytestmark = pytest.mark.anyio
CHAT, RESPONSES = "/v1/chat/completions", "/v1/responses"
KEYS = {name: make_key() for name in ("alice", "mallory", "operator")}
ACCESS = AccessOpts(
    keys=tuple(KeyOpts(name=name, hash=KEYS[name][1], operator=name == "operator") for name in KEYS), secret="s"
)
POLICY: dict[str, Any] = {
    "min_tokens": 16, "cold_min_tokens": 16, "boundary_align_tokens": 16, "boundary_trim_tokens": 4,
    "continued_interval": 64,
}  # fmt: skip
SECRET = text(400)


class Tenants:
    """An application, its clients by name, and what its engine computed."""

    def __init__(self, app: App, gate: Gated) -> None:
        self.gate = gate
        self.cache = app.service.runtime.cache
        self.model = app.service.runtime.model("m")
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        self.clients = {
            name: httpx.AsyncClient(
                transport=transport, base_url="http://localhost", headers={"x-api-key": key}, timeout=60
            )
            for name, (key, _) in KEYS.items()
        }

    async def chat(self, who: str, prompt: str = SECRET, **more: Any) -> dict[str, Any]:
        """One reply, with its counts and in `computed` what the engine did for it."""
        before = self.gate.computed
        messages = [{"role": "user", "content": prompt}]
        ask = {"model": "m", "messages": messages, "max_tokens": 4, "temperature": 0, **more}
        answer = await self.clients[who].post(CHAT, json=ask)
        assert answer.status_code == 200, answer.text
        told = answer.json()
        reply: dict[str, Any] = told["usage"] | {"message": told["choices"][0]["message"]}
        reply |= {"cached": reply["prompt_tokens_details"]["cached_tokens"], "computed": self.gate.computed - before}
        return reply


@asynccontextmanager
async def tenants(*, sequences: int = 4, runtime: Any = None, **more: Any) -> AsyncIterator[Tenants]:
    """A stub that saves to memory, or where `more` says."""
    gate = Gated()
    gate.gate.set()
    context = {"n_ctx": 16_384, "n_batch": 512, "n_ubatch": 512, "n_seq_max": sequences}
    async with erllama.Runtime(backend_factory=gate.make, **(runtime or {})) as opened:
        await opened.load_model("m", config("full", policy=POLICY, context_opts=context, **more))
        yield Tenants(create_app(opened, access=ACCESS), gate)
        gate.gate.set()


async def test_live_cells() -> None:
    """The same prompt again is read from cells; for another tenant it is the first."""
    async with tenants() as at:
        cold, warm = await at.chat("alice"), await at.chat("alice")
        other = await at.chat("mallory")
    assert warm["cached"] > 300
    assert warm["computed"] < cold["computed"] - 300
    assert (other["cached"], other["computed"]) == (cold["cached"], cold["computed"]) == (0, cold["computed"])
    assert other["message"] == cold["message"]


async def test_rows_in_memory() -> None:
    """With one sequence, which another prompt has taken meanwhile."""
    async with tenants(sequences=1) as at:
        cold = await at.chat("alice")
        await at.cache.flush()
        await at.chat("alice", text(400, 7))
        warm = await at.chat("alice")
        await at.chat("alice", text(400, 8))
        other = await at.chat("mallory")
    assert warm["cached"] > 100
    assert warm["computed"] < cold["computed"] - 100
    assert (other["cached"], other["computed"]) == (0, cold["computed"])


@pytest.mark.slow
async def test_rows_on_a_disk(tmp_path: Path) -> None:
    """After a restart."""
    disk: Any = {"tiers": {"disk": erllama.DiskTier(str(tmp_path / "kv"))}}
    for step in range(2):
        async with tenants(runtime=disk, tier="disk", tier_srv="disk") as at:
            if step == 0:
                cold = await at.chat("alice")
            else:
                other, warm = await at.chat("mallory"), await at.chat("alice")
    assert warm["cached"] > 200
    assert warm["computed"] < cold["computed"] - 200
    assert (other["cached"], other["computed"]) == (0, cold["computed"])


async def test_sessions() -> None:
    """`prompt_cache_key` is a conversation of one tenant: another's of this name is another one, be it busy or not."""
    async with tenants() as at:
        cold = await at.chat("alice", prompt_cache_key="s")
        warm = await at.chat("alice", prompt_cache_key="s")
        other = await at.chat("mallory", prompt_cache_key="s")
        assert warm["cached"] > 300
        assert (other["cached"], other["computed"]) == (0, cold["computed"])
        at.gate.gate.clear()
        mine = asyncio.create_task(at.chat("alice", text(400, 3), prompt_cache_key="s"))
        others = asyncio.create_task(at.chat("mallory", text(400, 3), prompt_cache_key="s"))
        await asyncio.sleep(0)
        at.gate.gate.set()
        assert (await mine)["cached"] == (await others)["cached"]  # and neither is refused as busy


async def test_prompts_that_arrive_together() -> None:
    """Of one tenant the second waits for what the first computes; another's computes its own."""
    counts = []
    for names in (("alice", "alice"), ("alice", "mallory")):
        async with tenants() as at:
            at.gate.gate.clear()
            tasks = [asyncio.create_task(at.chat(name)) for name in names]
            await until(partial(lambda model: model.queue_depth == 2, at.model))
            at.gate.gate.set()
            replies = await asyncio.gather(*tasks)
            counts.append((at.gate.computed, sum(reply["cached"] for reply in replies)))
    (together, cached), (apart, none) = counts
    assert cached > 300
    assert together < apart - 300
    assert none == 0


async def test_replies_that_come_back() -> None:
    """A conversation that goes on is recognised by its reply; not one that another tenant had."""
    async with tenants() as at:
        first = await at.chat("alice", max_tokens=40)
        opening = {"role": "user", "content": SECRET}
        history = [opening, first["message"], {"role": "user", "content": "more"}]
        warm = await at.chat("alice", messages=history)
        other = await at.chat("mallory", messages=history)
    assert warm["cached"] > first["prompt_tokens"]
    assert other["cached"] == 0


async def test_stored_answers() -> None:
    """An answer of another tenant is not there: neither to go on from, nor to read, nor to delete."""
    async with tenants() as at:
        alice, mallory = at.clients["alice"], at.clients["mallory"]
        ask = {"model": "m", "input": SECRET, "max_output_tokens": 16, "store": True}
        first = (await alice.post(RESPONSES, json=ask)).json()
        going = {"model": "m", "input": "more", "max_output_tokens": 16, "previous_response_id": first["id"]}
        warm = await alice.post(RESPONSES, json=going)
        assert warm.json()["usage"]["input_tokens_details"]["cached_tokens"] > 300
        missing = await mallory.post(RESPONSES, json=going | {"previous_response_id": "resp_" + "0" * 32})
        theirs = await mallory.post(RESPONSES, json=going)
        assert theirs.status_code == missing.status_code >= 400
        assert theirs.json()["error"]["code"] == missing.json()["error"]["code"]
        for method in ("GET", "DELETE"):
            answer = await mallory.request(method, f"{RESPONSES}/{first['id']}")
            unknown = await mallory.request(method, f"{RESPONSES}/resp_{'0' * 32}")
            assert answer.status_code == unknown.status_code
            assert SECRET not in answer.text
        assert (await alice.get(f"{RESPONSES}/{first['id']}")).status_code == 200


async def test_vectors() -> None:
    """The same text is computed anew for whoever asks: nothing is kept of it."""
    async with tenants() as at:
        counts = []
        for who in ("alice", "alice", "mallory"):
            answer = await at.clients[who].post("/v1/embeddings", json={"model": "m", "input": SECRET})
            assert answer.status_code == 200
            counts.append(answer.json()["usage"]["prompt_tokens"])
        assert len(set(counts)) == 1


async def test_ranking_by_score() -> None:
    """Documents that were ranked are cells and rows of the tenant that ranked them alone."""
    ask = {"model": "m", "query": "why", "documents": [SECRET], "method": "score"}
    async with tenants() as at:
        took = []
        for who in ("alice", "alice", "mallory"):
            before = at.gate.computed
            answer = await at.clients[who].post("/v1/rerank", json=ask)
            assert answer.status_code == 200, answer.text
            took.append(at.gate.computed - before)
    cold, warm, other = took
    assert warm < cold - 300
    assert other == cold


@pytest.mark.parametrize("path", ["/metrics", "/erllama/tree", "/erllama/cache"])
async def test_what_all_do_together(path: str) -> None:
    """Is for operators: others learn nothing of it."""
    async with tenants() as at:
        await at.chat("alice")
        for who in ("alice", "mallory"):
            refused = await at.clients[who].get(path)
            assert refused.status_code == 403
        shown = await at.clients["operator"].get(path)
        assert shown.status_code == 200
        assert SECRET[:20] not in shown.text


async def test_a_body_cannot_name_a_salt() -> None:
    """Nor what else is the server's to say: it is ignored."""
    salts: dict[str, Any] = {
        "cache_salt": "alice",
        "salt": "alice",
        "user": "alice",
        "priority": 1000,
        "safety_identifier": "alice",
    }
    async with tenants() as at:
        await at.chat("alice")
        other = await at.chat("mallory", **salts)
        assert other["cached"] == 0


@pytest.mark.slow
async def test_what_a_real_model_computes(tmp_path: Path) -> None:
    """It is what can be timed: next to nothing for a hit, and all for the first request of another tenant."""
    path = tiny_gguf("dense", tmp_path)
    async with erllama.Runtime() as runtime:
        options: Any = {"model_path": str(path), "policy": POLICY, "context_opts": {"n_ctx": 16_384, "n_seq_max": 4}}
        await runtime.load_model("m", options)
        at = Tenants(create_app(runtime, access=ACCESS), Gated())
        computed: dict[str, list[int]] = {"cold": [], "warm": [], "other": []}
        for seed in range(3):
            ask = {"model": "m", "prompt": text(3000, seed), "max_tokens": 1, "temperature": 0}
            for kind, who in (("cold", "alice"), ("warm", "alice"), ("other", "mallory")):
                before = at.model.counters.computed_tokens
                answer = await at.clients[who].post("/v1/completions", json=ask)
                assert answer.status_code == 200
                computed[kind].append(at.model.counters.computed_tokens - before)
    assert min(computed["cold"]) > 2500
    assert max(computed["warm"]) <= 1
    assert computed["other"] == computed["cold"]
