"""`/erllama/live`: once or as a stream, for operators, until the client leaves or the server ends."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import msgspec
import pytest
from helpers.direct import Asked, asked
from helpers.runtime import until
from helpers.served import events, served
from starlette.requests import HTTPConnection

from erllama_py.serve.access import AccessOpts, KeyAccess, KeyOpts, make_key
from erllama_py.serve.core.service import Tenant
from erllama_py.serve.page.feed import Feed
from erllama_py.serve.page.live import HEARTBEAT, Live
from erllama_py.serve.page.reading import read

pytestmark = pytest.mark.anyio
LIVE = "/erllama/live"
STREAM = {"accept": "text/event-stream"}


class Strangers:
    """An `Access` whose tenants are no operators."""

    def admit(self, connection: HTTPConnection) -> Tenant:
        return Tenant(name="somebody")

    def spent(self, tenant: Tenant, tokens: int) -> None:
        pass


async def next_snapshot(one: Asked) -> Any:
    """The next event, which is a snapshot."""
    body = await one.body()
    assert body.startswith("event: snapshot\ndata: ")
    (told,) = events(body)
    return told


async def test_what_the_server_does_is_told_once_or_as_a_stream() -> None:
    """As `Accept` asks for; the first event comes at once."""
    async with served() as at:
        once = (await at.client.get(LIVE)).json()
        assert [one["id"] for one in once["models"]] == ["tiny"]
        assert once["models"][0]["work"]["generated_per_second"] is None
        async with asked(at.app, LIVE, STREAM) as (one, task):
            told = await next_snapshot(one)
            assert told["tree"]["name"] == "runtime"
            assert not task.done()
        assert task.done()


async def test_the_second_snapshot_has_rates() -> None:
    """Since the first: zero, where nothing was asked."""
    async with served() as at, asked(at.app, LIVE, STREAM) as (one, _):
        await next_snapshot(one)
        (model,) = (await next_snapshot(one))["models"]
        assert (model["work"]["generated_per_second"], model["work"]["computed_per_second"]) == (0.0, 0.0)


async def test_the_stream_ends_when_the_server_has_ended() -> None:
    """With a word for it, and not before the last request is over; later ones are refused."""
    async with served({"stub": {"seconds_per_token": 0.001}}) as at, asked(at.app, LIVE, STREAM) as (one, task):
        await next_snapshot(one)
        ask: Any = {"model": "tiny", "prompt": "x", "max_tokens": 300, "ignore_eos": True}
        open_one = asyncio.create_task(at.client.post("/v1/completions", json=ask))
        await until(lambda: len(at.app.service.open) == 1)
        draining = asyncio.create_task(at.app.service.open.drain(30))
        await asyncio.sleep(0)
        assert not task.done()
        await asyncio.gather(open_one, draining, task)
        bodies = [await one.body() for _ in range(one.sent.qsize())]
        assert bodies[-1] == "event: end\ndata: {}\n\n"
        late = await at.client.get(LIVE, headers=STREAM)
        assert (late.status_code, late.json()["error"]["code"]) == (503, "shutting_down")


async def test_it_answers_while_the_server_drains_and_is_no_request_that_is_waited_for() -> None:
    """Else a page that is open would hold up the end."""
    async with served() as at, asked(at.app, LIVE, STREAM) as (one, task):
        await next_snapshot(one)
        assert len(at.app.service.open) == 0
        assert await at.app.service.open.drain(30) is True
        await task


async def test_where_nothing_is_new_it_says_that_it_lives() -> None:
    """By a comment, after `heartbeat_seconds`."""
    async with served(settings={"heartbeat_seconds": 0.001}) as at:
        blocked = asyncio.Event()
        feed = Feed(lambda: read(at.app.service), lambda: _forever(blocked))
        stream = Live(feed)

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await (await stream(_Operator(at.app.service)))(scope, receive, send)  # type: ignore[arg-type]  # enough of one

        async with asked(app, LIVE, STREAM) as (one, _):
            bodies = [await one.body() for _ in range(3)]
            assert HEARTBEAT.decode() in bodies


async def _forever(event: asyncio.Event) -> None:
    await event.wait()


class _Operator:
    """What a handler sees of an exchange: whose it is, and its headers."""

    def __init__(self, service: Any) -> None:
        self.service = service
        self.request = type("Request", (), {"headers": STREAM, "client": None})

    def check_operator(self) -> None:
        """It is one."""


async def test_a_client_that_does_not_read_is_left() -> None:
    """After `send_seconds`; the others are not held up by it."""
    async with (
        served(settings={"send_seconds": 0.001}) as at,
        asked(at.app, LIVE, STREAM) as (slow, slow_task),
        asked(at.app, LIVE, STREAM) as (quick, quick_task),
    ):
        slow.reads.clear()
        await next_snapshot(quick)
        await slow_task
        await next_snapshot(quick)
        assert not quick_task.done()


async def test_who_is_no_operator_sees_none_of_it() -> None:
    """Neither once nor as a stream."""
    async with served(access=Strangers()) as at:
        for headers in ({}, STREAM):
            answer = await at.client.get(LIVE, headers=headers)
            assert (answer.status_code, answer.json()["error"]["code"]) == (403, "operators_only")


async def test_it_needs_the_key_of_an_operator() -> None:
    """Where there are keys; in a header, as for all others."""
    (chats, chats_hash), (operates, operates_hash) = make_key(), make_key()
    keys = (KeyOpts(name="a", hash=chats_hash), KeyOpts(name="b", hash=operates_hash, operator=True))
    async with served(access=AccessOpts(keys=keys)) as at:
        statuses = [
            (await at.client.get(LIVE, headers={"authorization": f"Bearer {key}"})).status_code
            for key in (chats, operates, "erl_wrong")
        ]
        assert statuses == [403, 200, 401]
        assert (await at.client.get(LIVE)).status_code == 401


async def test_a_key_that_is_taken_away_sees_no_more() -> None:
    """Nor does one that is no operator's any more, though its stream was begun before; others go on. To look costs no
    request of a budget."""
    keys = [make_key() for _ in range(3)]
    entries = [
        KeyOpts(name=name, hash=digest, operator=True, requests_per_minute=1)
        for name, (_, digest) in zip("abc", keys, strict=True)
    ]
    access = KeyAccess(AccessOpts(keys=tuple(entries)))
    async with served(access=access) as at, AsyncExitStack() as stack:
        watching = [
            await stack.enter_async_context(asked(at.app, LIVE, {**STREAM, "authorization": f"Bearer {key}"}))
            for key, _ in keys
        ]
        for one, _ in watching:
            await next_snapshot(one)
        access.change(AccessOpts(keys=(msgspec.structs.replace(entries[1], operator=False), entries[2])))
        for one, task in watching[:2]:
            await task
            assert await one.body() == "event: closed\ndata: {}\n\n"
        await next_snapshot(watching[2][0])
        assert not watching[2][1].done()


async def test_no_snapshot_of_a_reading_that_fails() -> None:
    """The stream ends with a word for it."""
    async with served() as at:

        async def broken() -> Any:
            raise RuntimeError("no reading")

        stream = Live(Feed(broken))

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await (await stream(_Operator(at.app.service)))(scope, receive, send)  # type: ignore[arg-type]  # enough of one

        async with asked(app, LIVE, STREAM) as (one, task):
            assert await one.body() == "event: failed\ndata: {}\n\n"
            await task


async def test_a_snapshot_is_small_and_made_fast_enough() -> None:
    """With eight models it is some kilobytes, so that a second of it holds up nobody."""
    async with served() as at:
        for number in range(7):
            await at.runtime.load_model(f"m{number}", {"backend": "stub"})
        body = (await at.client.get(LIVE)).content
        assert len(msgspec.json.decode(body)["models"]) == 8
        assert len(body) < 30_000
