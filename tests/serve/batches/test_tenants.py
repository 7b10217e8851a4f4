"""Whose batches they are: what a key is charged for, what it may have, and whose turn it is."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import msgspec
import pytest
from helpers.batches import CHAT, begin, jsonl, line, results, serving, some, times, until, upload
from helpers.checkpoints import turns

from erllama_py.serve.access import AccessOpts, KeyOpts, make_key

pytestmark = pytest.mark.anyio
LINES = [line(number) for number in range(20)]
SLOW: Any = {"stub": {"seconds_per_token": 0.002}, "context_opts": {"n_ctx": 4096, "n_seq_max": 1}}
LONG: Any = {"max_tokens": 8, "ignore_eos": True}


async def test_a_batch_is_charged_to_its_key() -> None:
    """Its tokens count; a key that is gone has no lines answered any more."""
    key, digest = make_key()
    access = AccessOpts(keys=(KeyOpts(name="a", hash=digest, tokens_per_day=10_000, priority=5),))
    async with serving(access=access) as at:
        at.client.headers["authorization"] = f"Bearer {key}"
        batch = await until(at.client, await begin(at.client, jsonl(LINES)))
        assert batch["request_counts"]["completed"] == 20
        budget: Any = at.app.service.access
        assert budget._budgets["a"].left(time.monotonic())[0] < 9900


async def test_a_tenant_without_a_key_is_asked_for_no_more() -> None:
    """The lines of a batch whose key was taken away are refused as its requests would be."""
    key, digest = make_key()
    access = AccessOpts(keys=(KeyOpts(name="a", hash=digest),))
    async with serving(SLOW, access=access) as at:
        at.client.headers["authorization"] = f"Bearer {key}"
        batch = await begin(at.client, jsonl(LINES))
        await some(at.client, batch)
        known: Any = at.app.service.access
        known.change(AccessOpts(keys=(KeyOpts(name="b", hash=make_key()[1]),)))
        async with asyncio.timeout(30):
            while not at.app.service.batches.failed:
                await turns(1)
        known.change(access)
        batch = await until(at.client, batch)
        done, failed = await results(at.client, batch)
        assert len(times(done, failed)) == len(LINES)
        assert {one["response"]["status_code"] for one in failed} == {401}


async def test_many_batches_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """More than are worked on at a time; the oldest that are over are forgotten when there are too many."""
    async with serving(settings={"max_batches": 7}) as at:
        made = [await begin(at.client, jsonl(LINES[:3])) for _ in range(7)]
        for one in made:
            assert (await until(at.client, one))["request_counts"]["completed"] == 3
        async with asyncio.timeout(30):
            while at.app.service.batches.open:
                await turns(1)
        assert at.app.service.batches.completed == 21
        last = await begin(at.client, jsonl(LINES[:3]))
        listed = (await at.client.get("/v1/batches")).json()["data"]
        assert [one["id"] for one in listed] == [one["id"] for one in [*made[1:], last][::-1]]
        assert (await at.client.get(f"/v1/batches/{made[0]['id']}")).status_code == 404


async def test_a_tenant_has_so_many_open_batches_at_most() -> None:
    """429 for the next one, until one is over."""
    async with serving(SLOW, settings={"max_batches": 1}) as at:
        batch = await begin(at.client, jsonl(line(number, **LONG) for number in range(50)))
        ask = {"input_file_id": batch["input_file_id"], "endpoint": CHAT, "completion_window": "24h"}
        refused = await at.client.post("/v1/batches", json=ask)
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "too_many_batches")
        await at.client.post(f"/v1/batches/{batch['id']}/cancel")
        await until(at.client, batch)
        assert (await at.client.post("/v1/batches", json=ask)).status_code == 200


async def test_a_batch_of_another_tenant_does_not_wait_for_all_of_one() -> None:
    """However many one has at work, and however long they are: each tenant has one of its own at work."""
    keys = [make_key() for _ in range(2)]
    access = AccessOpts(keys=tuple(KeyOpts(name=f"k{at}", hash=digest) for at, (_, digest) in enumerate(keys)))
    async with serving(SLOW, access=access) as at:
        at.client.headers["authorization"] = f"Bearer {keys[0][0]}"
        long = [await begin(at.client, jsonl(line(number, **LONG) for number in range(100))) for _ in range(4)]
        await some(at.client, long[0])
        at.client.headers["authorization"] = f"Bearer {keys[1][0]}"
        assert (await until(at.client, await begin(at.client, jsonl(LINES[:3]))))["status"] == "completed"
        at.client.headers["authorization"] = f"Bearer {keys[0][0]}"
        for one in long:
            await at.client.post(f"/v1/batches/{one['id']}/cancel")
            assert (await until(at.client, one))["status"] == "cancelled"


async def test_what_a_reloaded_configuration_says_holds_at_once() -> None:
    """For what is kept, and for how much is done at a time."""
    async with serving(settings={"max_files": 1}) as at:
        assert (await upload(at.client, jsonl(LINES))).status_code == 200
        assert (await upload(at.client, jsonl(LINES))).json()["error"]["code"] == "too_many_files"
        change = {"max_files": 2, "max_batch_lines": 3, "max_batches": 1, "max_file_bytes": 1 << 20}
        at.app.service.settings = msgspec.structs.replace(at.app.service.settings, **change)
        batch = await until(at.client, await begin(at.client, jsonl(LINES)))
        assert [one["code"] for one in batch["errors"]["data"]] == ["too_many_tasks"]
        at.app.service.settings = msgspec.structs.replace(at.app.service.settings, max_files=5, max_file_bytes=10)
        assert (await upload(at.client, jsonl(LINES))).json()["error"]["code"] == "file_too_large"
