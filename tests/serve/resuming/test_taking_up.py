"""Requests that name a stream: which begin it, which take it up, and what each wrong one is told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from helpers.gated import gated
from helpers.runtime import until
from helpers.served import served
from hypothesis import given
from hypothesis import strategies as st

from erllama_py.serve.access import AccessOpts
from erllama_py.serve.access.keys import make_key
from erllama_py.serve.access.settings import KeyOpts
from erllama_py.serve.app import App, create_app
from erllama_py.serve.core.problems import Problem
from erllama_py.serve.core.settings import ServerOpts
from erllama_py.serve.core.taking_up import Known, begins, streams

pytestmark = pytest.mark.anyio
PATH = "/v1/chat/completions"
ASK: dict[str, Any] = {
    "model": "tiny", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 8, "stream": True,
    "temperature": 0, "ignore_eos": True,
}  # fmt: skip
NAMED = {"x-conversation-id": "a"}
KNOWN = st.builds(
    Known, digest=st.sampled_from([b"same", b"other"]), over=st.booleans(),
    place=st.sampled_from(["kept", "ahead", "evicted"]),
)  # fmt: skip


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@given(known=st.none() | KNOWN, bodiless=st.booleans(), after=st.none() | st.integers(0, 9))
def test_what_a_request_comes_to(anyio_backend: str, known: Known | None, bodiless: bool, after: int | None) -> None:
    """A client that has events is never answered from the beginning, and none gets another request's events."""
    digest = None if bodiless else b"same"
    try:
        begun = begins(known, digest, after)
    except Problem as problem:
        begun = None
        refused = problem.code
    if begun is None:
        assert refused in {"stream_not_found", "conversation_busy", "event_id_ahead", "events_evicted"}
    elif begun:
        assert not bodiless
        assert not after
        assert known is None or known.over
    else:
        assert known is not None
        assert known.place == "kept"
        assert bodiless or known.digest == b"same"


@pytest.mark.parametrize(
    ("body", "asked"),
    [(b'{"stream": true}', True), (b'{"stream": false}', False), (b"{}", False), (b"[1", False), (b"\xff", False)],
)
async def test_which_bodies_ask_for_a_stream(body: bytes, asked: bool) -> None:
    """What is no JSON asks for nothing: its endpoint says what is wrong."""
    assert streams(body) is asked


async def test_events_have_numbers_and_follow_each_other() -> None:
    """A stream that is over is taken up at each of its events; one that did not name itself has no numbers."""
    async with served() as at:
        whole = (await at.client.post(PATH, json=ASK, headers=NAMED)).text
        parts = whole.split("\n\n")[:-1]
        assert [part.split("\n")[0] for part in parts] == [f"id: {n}" for n in range(1, len(parts) + 1)]
        for after in range(len(parts) + 1):
            rest = await at.client.post(PATH, json=ASK, headers=NAMED | {"last-event-id": str(after)})
            assert rest.text == "".join(part + "\n\n" for part in parts[after:])
            assert rest.headers["content-type"].startswith("text/event-stream")
            found = await at.client.get("/v1/stream/a", params={"after": after})
            assert found.text == rest.text
        assert "id: " not in (await at.client.post(PATH, json=ASK)).text
        assert at.model.counters.requests == 2


@pytest.mark.parametrize(
    ("headers", "body", "status", "code"),
    [
        ({"x-conversation-id": "b", "last-event-id": "3"}, {}, 404, "stream_not_found"),
        ({"last-event-id": "999"}, {}, 400, "event_id_ahead"),
        ({"last-event-id": "-1"}, {}, 400, "invalid_event_id"),
        ({"last-event-id": "three"}, {}, 400, "invalid_event_id"),
        ({"last-event-id": "9" * 5000}, {}, 400, "invalid_event_id"),
        ({"last-event-id": "3"}, {"max_tokens": 9}, 409, "conversation_busy"),
        ({"last-event-id": "3"}, {"stream": False}, 400, "not_a_stream"),
        ({"x-conversation-id": ""}, {}, 400, "invalid_conversation_id"),
        ({"x-conversation-id": "x" * 257}, {}, 400, "invalid_conversation_id"),
        ({"x-conversation-id": "a\tb"}, {}, 400, "invalid_conversation_id"),
    ],
)
async def test_what_is_wrong_is_named(headers: dict[str, str], body: dict[str, Any], status: int, code: str) -> None:
    """In the shape of the API that is asked."""
    async with served() as at:
        await at.client.post(PATH, json=ASK, headers=NAMED)
        answer = await at.client.post(PATH, json=ASK | body, headers=NAMED | headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


async def test_an_event_that_is_not_there_is_named_as_it_was_asked_for() -> None:
    """In a query as in a header: a client that sent no header is told of none."""
    async with served() as at:
        await at.client.post(PATH, json=ASK, headers=NAMED)
        for params, headers, param in (
            ({"after": "999"}, {}, "after"),
            ({}, {"last-event-id": "999"}, "last-event-id"),
        ):
            error = (await at.client.get("/v1/stream/a", params=params, headers=headers)).json()["error"]
            assert error["param"] == param
            assert error["message"].startswith(f"{param}: ")


async def test_other_requests_with_the_header_are_answered_as_without() -> None:
    """A reply that is wanted whole, one that is refused, one that is wrong: nothing of them is kept."""
    async with served() as at:
        whole = await at.client.post(PATH, json=ASK | {"stream": False}, headers=NAMED)
        assert whole.json()["object"] == "chat.completion"
        for body, status in ((ASK | {"model": "other"}, 404), (ASK | {"temperature": -1}, 400), ({}, 400)):
            answer = await at.client.post(PATH, json=body, headers=NAMED)
            assert answer.status_code == status
            assert "error" in answer.json()
        text = await at.client.post(PATH, content=b"no json", headers=NAMED)
        assert text.json()["error"]["code"] == "invalid_json"
        assert not len(at.app.service.lasting)
        assert not at.app.service.lasting.tasks
        again = await at.client.post(PATH, json=ASK | {"model": "other"}, headers=NAMED)
        assert again.status_code == 404


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"temperature": -1}, 400), ({"model": "other"}, 404), ({"messages": "none"}, 400), ({"stop": [""]}, 400),
        ({"messages": [{"role": "user", "content": "x" * 5000}]}, 400), ({"stream": False}, 200),
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", ["a", "b"])
async def test_a_request_that_is_refused_takes_no_stream_away(name: str, body: dict[str, Any], status: int) -> None:
    """Neither the one of its id nor another one whose place it would have."""
    async with served(settings={"max_resumable": 1}) as at:
        text = (await at.client.post(PATH, json=ASK, headers=NAMED)).text
        refused = await at.client.post(PATH, json=ASK | body, headers={"x-conversation-id": name})
        assert refused.status_code == status
        assert (await at.client.get("/v1/stream/a")).text == text
        rest = await at.client.post(PATH, json=ASK, headers=NAMED | {"last-event-id": "2"})
        assert text.endswith(rest.text)
        assert at.model.counters.requests == (2 if status == 200 else 1)


async def test_the_same_id_again() -> None:
    """Once the stream is over, another request begins another one, and so does the same one."""
    async with served() as at:
        await at.client.post(PATH, json=ASK, headers=NAMED)
        first = await at.client.post(PATH, json=ASK, headers=NAMED)
        second = await at.client.post(PATH, json=ASK | {"max_tokens": 2}, headers=NAMED)
        assert at.model.counters.requests == 3
        assert (await at.client.get("/v1/stream/a")).text == second.text != first.text


async def test_0_is_from_the_beginning() -> None:
    """Of a stream that is there, else it is begun: a client may always say how far it has come."""
    async with served() as at:
        asked = NAMED | {"last-event-id": "0"}
        texts = {(await at.client.post(PATH, json=ASK, headers=asked)).text for _ in range(3)}
        assert len(texts) == 1
        assert at.model.counters.requests == 1


async def test_a_stream_is_its_tenants_alone() -> None:
    """Another tenant's id looks like one that is not there, and is free for a stream of its own."""
    mine, yours = make_key(), make_key()
    access = AccessOpts(keys=(KeyOpts(name="me", hash=mine[1]), KeyOpts(name="you", hash=yours[1])))
    async with served(access=access) as at:
        me, you = ({"authorization": f"Bearer {key}"} | NAMED for key in (mine[0], yours[0]))
        text = (await at.client.post(PATH, json=ASK, headers=me)).text
        theirs = [
            await at.client.get("/v1/stream/a", headers=you),
            await at.client.get("/v1/stream/none", headers=you),
            await at.client.post(PATH, json=ASK, headers=you | {"last-event-id": "3"}),
        ]
        assert {(one.status_code, one.text) for one in theirs} == {(404, theirs[0].text)}
        assert (await at.client.delete("/v1/stream/a", headers=you)).status_code == 200
        assert (await at.client.get("/v1/stream/a", headers=me)).text == text


async def test_a_stream_is_stopped() -> None:
    """By its id; the answer is the same where there is none."""
    async with served() as at:
        await at.client.post(PATH, json=ASK, headers=NAMED)
        stopped = await at.client.delete("/v1/stream/a")
        assert (await at.client.get("/v1/stream/a")).status_code == 404
        assert (await at.client.delete("/v1/stream/a")).text == stopped.text


async def test_where_it_is_turned_off_the_header_says_nothing() -> None:
    """`resume_seconds = 0`."""
    async with served(settings={"resume_seconds": 0}) as at:
        answer = await at.client.post(PATH, json=ASK, headers=NAMED)
        assert "id: " not in answer.text
        assert (await at.client.get("/v1/stream/a")).status_code == 404
        begun = await at.client.post(PATH, json=ASK, headers=NAMED | {"last-event-id": "0"})
        assert begun.text.endswith("data: [DONE]\n\n")
        # A client that has a part would take the beginning for the rest.
        late = await at.client.post(PATH, json=ASK, headers=NAMED | {"last-event-id": "3"})
        assert (late.status_code, late.json()["error"]["code"]) == (404, "stream_not_found")
        assert at.model.counters.requests == 2


async def test_a_browser_that_comes_again_after_the_end_is_told_so() -> None:
    """`EventSource` does so by itself, for ever, until it is told that there is nothing more."""
    async with served() as at:
        text = (await at.client.post(PATH, json=ASK, headers=NAMED)).text
        last = text.count("id: ")
        ended = await at.client.get("/v1/stream/a", headers={"last-event-id": str(last)})
        assert (ended.status_code, ended.content) == (204, b"")
        rest = await at.client.get("/v1/stream/a", headers={"last-event-id": str(last - 1)})
        assert (rest.status_code, rest.text.count("id: ")) == (200, 1)
        assert (await at.client.get("/v1/stream/a", params={"after": last})).status_code == 200


@pytest.mark.parametrize("name", ["a/b", "https://a.example/b?c#d", "a b", "%2F", "~" * 256])
async def test_whatever_the_header_names_is_found_without_the_request(name: str) -> None:
    """In the path, as it is quoted there."""
    async with served() as at:
        text = (await at.client.post(PATH, json=ASK, headers={"x-conversation-id": name})).text
        path = f"/v1/stream/{quote(name, safe='')}"
        assert (await at.client.get(path)).text == text
        assert (await at.client.delete(path)).json()["id"] == name
        assert (await at.client.get(path)).status_code == 404


async def test_responses_by_their_own_ids() -> None:
    """`starting_after` is a `sequence_number`."""
    async with served() as at:
        body = {"model": "tiny", "input": "hello", "max_output_tokens": 8, "stream": True, "temperature": 0}
        text = (await at.client.post("/v1/responses", json=body, headers=NAMED)).text
        created = json.loads(text.split("\n")[2].removeprefix("data: "))
        path = f"/v1/responses/{created['response']['id']}"
        assert (await at.client.get(path, params={"stream": "true"})).text == text
        rest = await at.client.get(path, params={"stream": "true", "starting_after": 2})
        assert json.loads(rest.text.split("\n")[2].removeprefix("data: "))["sequence_number"] == 3
        assert text.endswith(rest.text)
        wrong = await at.client.get(path, params={"stream": "true", "starting_after": "x"})
        assert wrong.json()["error"]["param"] == "starting_after"
        await at.client.delete("/v1/stream/a")
        over = await at.client.get(path, params={"stream": "true"})
        assert over.json()["error"]["code"] == "stream_not_found"
        missing = await at.client.get("/v1/responses/resp_0", params={"stream": "true"})
        assert missing.status_code == 404


@asynccontextmanager
async def standing(**settings: Any) -> AsyncIterator[tuple[httpx.AsyncClient, App, Any]]:
    """An application over a model whose decodes wait for a gate."""
    async with gated(context={"n_ctx": 4096, "n_seq_max": 4}) as (runtime, _, gate):
        app = create_app(runtime, settings=ServerOpts(**settings))
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=30) as client:
            try:
                yield client, app, gate
            finally:
                gate.gate.set()


async def test_one_request_for_all_who_ask_the_same_while_it_runs() -> None:
    """Each reads all of it; another request under its id is refused until it is over or stopped."""
    async with standing() as (client, app, gate):
        body = ASK | {"model": "m"}
        asking = [asyncio.create_task(client.post(PATH, json=body, headers=NAMED)) for _ in range(2)]
        await until(lambda: len(app.service.open) == 2)
        other = await client.post(PATH, json=body | {"max_tokens": 2}, headers=NAMED)
        assert (other.status_code, other.json()["error"]["code"]) == (409, "conversation_busy")
        gate.gate.set()
        first, second = await asyncio.gather(*asking)
        assert first.text == second.text
        assert first.headers["x-request-id"] == second.headers["x-request-id"]


async def test_a_request_that_finds_the_queue_full_takes_no_stream_away() -> None:
    """It is told to come again; until it has, the stream of its id is there."""
    async with standing() as (client, app, gate):
        body = ASK | {"model": "m"}
        gate.gate.set()
        text = (await client.post(PATH, json=body, headers=NAMED)).text
        app.service.open.places.most = 0
        full = await client.post(PATH, json=body, headers=NAMED)
        assert full.status_code == 429
        app.service.open.places.most = 9
        assert (await client.get("/v1/stream/a")).text == text


async def test_a_request_that_its_client_has_stopped_is_not_asked_again() -> None:
    """While there is nothing of its reply: clients ask again by themselves after 409, 429 and 503."""
    async with standing() as (client, app, gate):
        asking = asyncio.create_task(client.post(PATH, json=ASK | {"model": "m"}, headers=NAMED))
        await until(lambda: any(one._readers for one in app.service.lasting._waiting.values()))
        await client.delete("/v1/stream/a")
        stopped = await asking
        assert (stopped.status_code, stopped.json()["error"]["code"]) == (400, "request_stopped")
        assert "retry-after" not in stopped.headers
        gate.gate.set()


async def test_bounds_of_how_many_there_are() -> None:
    """One that nobody reads makes room; where all are read the next one is refused."""
    async with standing(max_resumable=2) as (client, app, gate):
        body = ASK | {"model": "m"}
        asking = [
            asyncio.create_task(client.post(PATH, json=body, headers={"x-conversation-id": name})) for name in "ab"
        ]
        await until(lambda: len(app.service.lasting) == 2)
        full = await client.post(PATH, json=body, headers={"x-conversation-id": "c"})
        assert (full.status_code, full.json()["error"]["code"]) == (429, "too_many_streams")
        assert int(full.headers["retry-after"]) > 0
        gate.gate.set()
        await asyncio.gather(*asking)
        assert (await client.post(PATH, json=body, headers={"x-conversation-id": "c"})).status_code == 200
        first, second, third = [(await client.get(f"/v1/stream/{name}")).status_code for name in "abc"]
        assert {first, second} == {404, 200}  # whichever was left first
        assert third == 200


async def test_bounds_of_what_is_kept() -> None:
    """In total: those that are over go, the longest left first."""
    async with served(settings={"max_resume_bytes": 6000}) as at:
        for name in "abcd":
            answer = await at.client.post(PATH, json=ASK, headers={"x-conversation-id": name})
            assert len(answer.content) > 1500
            assert at.app.service.lasting.nbytes <= 6000
        assert [(await at.client.get(f"/v1/stream/{name}")).status_code for name in "ad"] == [404, 200]
