"""Batches over HTTP: made of files, answered line by line beside live requests, listed, cancelled, taken up again."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import openai
import pytest
from helpers.batches import CHAT, begin, jsonl, line, results, serving, some, times, until, upload
from helpers.checkpoints import turns
from helpers.listening import listening
from openai.types import Batch

from erllama_py.serve.batches.protocol import shown

pytestmark = pytest.mark.anyio
LINES = [line(number) for number in range(20)]
IDS = {one["custom_id"]: 1 for one in LINES}
SLOW: Any = {"stub": {"seconds_per_token": 0.002}, "context_opts": {"n_ctx": 4096, "n_seq_max": 1}}
LONG: Any = {"max_tokens": 8, "ignore_eos": True}


async def test_each_line_is_answered_as_a_request_would_be() -> None:
    """The same body, as an answer over HTTP has it, beside the line's own id."""
    async with serving() as at:
        batch = await until(at.client, await begin(at.client, jsonl(LINES)))
        assert batch["status"] == "completed", batch
        assert batch["request_counts"] == {"total": 20, "completed": 20, "failed": 0}
        done, failed = await results(at.client, batch)
        assert not failed
        assert times(done) == IDS
        live = (await at.client.post(CHAT, json=LINES[3]["body"])).json()
        mine = next(one for one in done if one["custom_id"] == "line-3")
        assert mine["error"] is None
        assert mine["response"]["status_code"] == 200
        assert mine["response"]["request_id"].startswith("req_")
        assert mine["response"]["body"]["choices"] == live["choices"]


@pytest.mark.slow
async def test_the_sdk_makes_lists_and_cancels_batches() -> None:
    """Over a real server; what it gets are its own types."""
    async with (
        serving() as at,
        listening(at.app) as address,
        openai.AsyncOpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as sdk,
    ):
        file = await sdk.files.create(file=("in.jsonl", jsonl(LINES)), purpose="batch")
        ask: Any = {"input_file_id": file.id, "endpoint": CHAT, "completion_window": "24h"}
        hour: Any = {"anchor": "created_at", "seconds": 3600}
        made = await sdk.batches.create(**ask, metadata={"of": "me"}, output_expires_after=hour)
        assert (made.status, made.metadata, made.object) == ("validating", {"of": "me"}, "batch")
        assert made.expires_at == made.created_at + 86_400
        batch = await sdk.batches.retrieve(made.id)
        while batch.status != "completed":
            batch = await sdk.batches.retrieve(made.id)
        Batch.model_validate(batch.to_dict(), strict=True)
        moments = [batch.created_at, batch.in_progress_at, batch.finalizing_at, batch.completed_at]
        assert moments == sorted(filter(None, moments))
        assert batch.model == "tiny"
        output = await sdk.files.retrieve(batch.output_file_id or "")
        assert (output.purpose, output.expires_at) == ("batch_output", output.created_at + 3600)
        assert batch.error_file_id is None
        assert len((await sdk.files.content(output.id)).text.splitlines()) == 20
        other = await sdk.batches.create(**ask)
        assert [one.id async for one in sdk.batches.list(limit=1)] == [other.id, made.id]
        await sdk.files.delete(output.id)
        with pytest.raises(openai.ConflictError, match="cannot be cancelled"):
            await sdk.batches.cancel(made.id)
        with pytest.raises(openai.NotFoundError, match="no batch"):
            await sdk.batches.retrieve("batch_0")


URLS: list[tuple[str, Any]] = [
    ("/v1/completions", {"prompt": "hello"}),
    ("/v1/embeddings", {"input": ["a", "b"]}),
    ("/v1/responses", {"input": "hello", "max_output_tokens": 4}),
    ("/v1/rerank", {"query": "a", "documents": ["b", "c"], "method": "embeddings"}),
]


@pytest.mark.parametrize(("url", "body"), URLS)
async def test_other_endpoints_take_lines_too(url: str, body: Any) -> None:
    """The answer is what the endpoint says over HTTP."""
    asked = [{"custom_id": "a", "method": "POST", "url": url, "body": {"model": "tiny", **body}}]
    async with serving() as at:
        batch = await until(at.client, await begin(at.client, jsonl(asked), url=url))
        done, failed = await results(at.client, batch)
        assert not failed, failed
        live = (await at.client.post(url, json=asked[0]["body"])).json()
        assert done[0]["response"]["body"].keys() == live.keys()


async def test_what_is_wrong_with_a_line_is_told_by_line() -> None:
    """As a live request is refused; the others are answered."""
    bad = [
        line(20, model="nothing"), line(21, temperature=-1), line(22, stream=True),
        {"custom_id": "line-23", "method": "POST", "url": CHAT, "body": []},
        {"custom_id": "line-24", "method": "POST", "url": CHAT, "body": {"model": "tiny"}},
        line(25, text="word " * 5000),
    ]  # fmt: skip
    async with serving() as at:
        batch = await until(at.client, await begin(at.client, jsonl([*LINES, *bad])))
        assert batch["request_counts"] == {"total": 26, "completed": 20, "failed": 6}
        done, failed = await results(at.client, batch)
        assert times(done) == IDS
        told = {one["custom_id"]: one for one in failed}
        assert told["line-20"]["response"]["body"]["error"]["code"] == "model_not_found"
        assert told["line-22"]["error"]["code"] == "stream_not_supported"
        assert told["line-25"]["response"]["body"]["error"]["code"] == "context_length_exceeded"
        for custom_id, status in (("20", 404), ("21", 400), ("23", 400), ("24", 400)):
            one = told[f"line-{custom_id}"]["response"]
            assert one["status_code"] == status
            assert one["body"]["error"]["message"]


@pytest.mark.parametrize(
    ("data", "codes"),
    [
        (b"", ["empty_file"]),
        (b"{\n" + jsonl(LINES) + b"[]\n", ["invalid_json_line", "invalid_line"]),
        (jsonl([LINES[0], LINES[0]]), ["duplicate_custom_id"]),
        (jsonl([line(1, url="/v1/embeddings")]), ["mismatched_url"]),
        (jsonl(line(1, text="x" * 400_000) for _ in range(2)), ["line_too_long", "line_too_long"]),
        (jsonl(line(number) for number in range(31)), ["too_many_tasks"]),
    ],
)
async def test_a_file_that_is_no_batch_fails(data: bytes, codes: list[str]) -> None:
    """With all that is wrong in it, and nothing asked."""
    settings = {"max_body_bytes": 300_000, "max_batch_lines": 30}
    async with serving(settings=settings) as at:
        batch = await until(at.client, await begin(at.client, data))
        assert batch["status"] == "failed"
        assert [one["code"] for one in batch["errors"]["data"]] == codes
        assert batch["failed_at"] >= batch["created_at"]
        assert batch["output_file_id"] is batch["error_file_id"] is None
        assert at.model.counters.requests == 0


@pytest.mark.parametrize(
    ("change", "status", "param"),
    [
        ({"input_file_id": "file-nothing"}, 404, "input_file_id"),
        ({"endpoint": "/v1/models"}, 400, "endpoint"),
        ({"completion_window": "24"}, 400, "completion_window"),
        ({"completion_window": "0h"}, 400, "completion_window"),
        ({"completion_window": "99d"}, 400, "completion_window"),
        ({"metadata": {"a": "b" * 513}}, 400, "metadata[...]"),
        ({"metadata": {str(number): "" for number in range(17)}}, 400, "metadata"),
    ],
)
async def test_a_batch_that_makes_no_sense_is_refused(change: Any, status: int, param: str) -> None:
    """With the name of what is wrong."""
    async with serving() as at:
        file = (await upload(at.client, jsonl(LINES))).json()
        ask = {"input_file_id": file["id"], "endpoint": CHAT, "completion_window": "24h", **change}
        answer = await at.client.post("/v1/batches", json=ask)
        assert (answer.status_code, answer.json()["error"]["param"]) == (status, param)
        assert (await at.client.get("/v1/batches")).json()["data"] == []


async def test_an_output_is_no_input() -> None:
    """Its lines are no requests."""
    async with serving() as at:
        batch = await until(at.client, await begin(at.client, jsonl(LINES)))
        ask = {"input_file_id": batch["output_file_id"], "endpoint": CHAT, "completion_window": "24h"}
        assert (await at.client.post("/v1/batches", json=ask)).status_code == 400


async def test_a_batch_is_cancelled_half_way() -> None:
    """The lines at work are given up, what is answered is there; twice is once."""
    async with serving(SLOW) as at:
        batch = await begin(at.client, jsonl(line(number, **LONG) for number in range(200)))
        await some(at.client, batch)
        path = f"/v1/batches/{batch['id']}/cancel"
        first, second = (await at.client.post(path)).json(), await at.client.post(path)
        assert first["status"] in ("cancelling", "cancelled")
        assert second.status_code in (200, 409)
        batch = await until(at.client, batch)
        assert batch["status"] == "cancelled"
        assert batch["cancelled_at"] >= batch["cancelling_at"] >= batch["created_at"]
        done, failed = await results(at.client, batch)
        assert 0 < batch["request_counts"]["completed"] == len(done) < 200
        assert not failed
        assert set(times(done).values()) == {1}


async def test_a_batch_that_has_not_begun_is_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its turn is not waited for."""
    monkeypatch.setattr("erllama_py.serve.batches.manager.SIDE_BY_SIDE", 1)
    async with serving(SLOW) as at:
        long = await begin(at.client, jsonl(line(number, **LONG) for number in range(200)))
        await some(at.client, long)
        waits = await begin(at.client, jsonl(LINES))
        assert waits["status"] == "validating"
        await at.client.post(f"/v1/batches/{waits['id']}/cancel")
        assert (await until(at.client, waits))["status"] == "cancelled"
        assert (await until(at.client, long, "in_progress"))["request_counts"]["failed"] == 0


async def test_an_input_that_is_deleted_leaves_errors() -> None:
    """One for each line that was not begun."""
    async with serving(SLOW) as at:
        batch = await begin(at.client, jsonl(line(number, **LONG) for number in range(100)))
        await some(at.client, batch)
        await at.client.delete(f"/v1/files/{batch['input_file_id']}")
        batch = await until(at.client, batch)
        done, failed = await results(at.client, batch)
        assert batch["status"] == "completed"
        assert len(times(done, failed)) == len(done) + len(failed) == 100
        assert failed
        assert {one["error"]["code"] for one in failed} == {"input_file_deleted"}


async def test_a_batch_goes_on_after_a_restart(tmp_path: Path) -> None:
    """A server that is told to end begins no line any more; the next one asks those that are left, and no other."""
    async with serving(SLOW, files_directory=tmp_path) as at:
        batch = await begin(at.client, jsonl(LINES), metadata={"of": "me"})
        await some(at.client, batch)
    asked = at.model.counters.requests
    async with serving(files_directory=tmp_path) as at:
        batch = await until(at.client, batch)
        assert (batch["status"], batch["metadata"]) == ("completed", {"of": "me"})
        done, failed = await results(at.client, batch)
        assert not failed
        assert times(done) == IDS
        assert at.model.counters.requests < 20
        assert at.model.counters.requests + asked <= 20 + 8  # those at work at the end


async def test_a_model_that_is_removed_is_an_error_of_its_lines() -> None:
    """What was answered before stays."""
    async with serving(SLOW) as at:
        batch = await begin(at.client, jsonl(line(number, **LONG) for number in range(100)))
        await some(at.client, batch)
        await at.model.unload()
        batch = await until(at.client, batch)
        assert batch["status"] == "completed"
        done, failed = await results(at.client, batch)
        assert done
        assert failed
        assert len(times(done, failed)) == 100
        assert {one["response"]["body"]["error"]["code"] for one in failed} <= {"model_not_found", "model_unavailable"}


async def test_a_model_that_crashes_is_waited_for() -> None:
    """Its lines are asked again."""
    config: Any = {"stub": {"fail_decode_after": 30}, "context_opts": {"n_ctx": 2048, "n_seq_max": 4}}
    async with serving(config) as at:
        batch = await until(at.client, await begin(at.client, jsonl(LINES)))
        done, failed = await results(at.client, batch)
        assert len(times(done, failed)) == len(done) + len(failed) == 20
        assert at.model.counters.restarts > 0
        assert done


async def test_lines_leave_room_for_live_requests() -> None:
    """They are half of the open requests at most: those that ask how the batch is are never refused for its sake."""
    async with serving(settings={"max_open": 4, "batch_concurrency": 8}) as at:
        batch = await until(at.client, await begin(at.client, jsonl(LINES)))
        assert batch["request_counts"] == {"total": 20, "completed": 20, "failed": 0}


async def _computed(data: bytes) -> int:
    """How many tokens of prompts a batch computes, on a model whose cells hold a few of them."""
    config: Any = {
        "context_opts": {"n_ctx": 2048, "n_seq_max": 2},
        "policy": {"min_tokens": 100_000, "cold_min_tokens": 100_000},
    }
    async with serving(config) as at:
        batch = await until(at.client, await begin(at.client, data))
        done, failed = await results(at.client, batch)
        assert not failed
        usages = [one["response"]["body"]["usage"] for one in done]
        return sum(one["prompt_tokens"] - one["prompt_tokens_details"]["cached_tokens"] for one in usages)


@pytest.mark.slow
async def test_prompts_that_begin_alike_are_computed_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the order of a shuffled file most of what they share would be computed again."""
    asked = []
    for number in range(40):
        system = {"role": "system", "content": f"{number % 10} is the word. " * 12}
        asked.append(line(number, messages=[system, {"role": "user", "content": f"{number}"}], max_tokens=1))
    together = await _computed(jsonl(asked))

    def as_in_the_file(places: list[Any], done: set[int]) -> list[Any]:
        return list(places)

    monkeypatch.setattr("erllama_py.serve.batches.running.in_order", as_in_the_file)
    assert together < 0.6 * await _computed(jsonl(asked))


async def test_a_fault_of_the_server_ends_a_batch_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """It failed, and says whose fault it is; the log has the rest."""
    async with serving() as at:

        def broken(*_: object) -> bytes:
            raise RuntimeError("broken")

        with monkeypatch.context() as patch:
            patch.setattr("erllama_py.serve.batches.answers.answered", broken)
            batch = await until(at.client, await begin(at.client, jsonl(LINES)))
        assert batch["status"] == "failed"
        assert [one["code"] for one in batch["errors"]["data"]] == ["internal_error"]
        assert (await until(at.client, await begin(at.client, jsonl(LINES))))["status"] == "completed"


async def test_lines_are_no_latencies_of_live_requests() -> None:
    """What a batch waits is not in the histograms; its tokens are counted."""
    async with serving() as at:
        await until(at.client, await begin(at.client, jsonl(LINES)))
        async with asyncio.timeout(30):
            while at.app.service.batches.open:
                await turns(1)
        page = (await at.client.get("/metrics")).text
        assert 'erllama_http_generated_tokens_total{api="openai",model="tiny"} 80.0' in page
        assert "erllama_time_to_first_token_seconds_count" not in page
        assert "erllama_batches_open 0.0" in page
        assert 'erllama_batch_lines_total{result="completed"} 20.0' in page
        assert 'erllama_batch_lines_total{result="failed"} 0.0' in page


async def test_a_line_that_hides_its_stream_fails_alone() -> None:
    """What is wrong beside it, in a field that its endpoint does not look at, does not hide it."""
    body = {"model": "tiny", "input": "hi", "max_output_tokens": 2}
    asked = [
        {"custom_id": name, "method": "POST", "url": "/v1/responses", "body": {**body, **more}}
        for name, more in (("a", {"stream": True, "messages": 5}), ("b", {}))
    ]
    async with serving() as at:
        batch = await until(at.client, await begin(at.client, jsonl(asked), url="/v1/responses"))
        assert (batch["status"], batch["request_counts"]) == ("completed", {"total": 2, "completed": 1, "failed": 1})


async def test_what_is_not_on_a_page_of_batches_is_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """A list of a thousand batches, each with its problems and metadata, would hold the loop up."""
    async with serving() as at:
        file = (await upload(at.client, b"{")).json()["id"]
        ask = {"input_file_id": file, "endpoint": CHAT, "completion_window": "24h"}
        made = [(await at.client.post("/v1/batches", json=ask)).json()["id"] for _ in range(5)]
        looked = list[str]()

        def noted(batch_id: str, *given: Any) -> Any:
            looked.append(batch_id)
            return shown(batch_id, *given)

        monkeypatch.setattr("erllama_py.serve.batches.manager.shown", noted)
        page = (await at.client.get("/v1/batches?limit=2")).json()
        assert [one["id"] for one in page["data"]] == made[:2:-1] == looked
        assert (page["has_more"], page["first_id"], page["last_id"]) == (True, made[4], made[3])
