"""`/v1/responses` over a WebSocket, by OpenAI's SDK and by a client that speaks by hand, over real sockets."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack
from typing import Any

import openai
import pytest
from helpers.open_responses import check, text_of
from helpers.runtime import until
from helpers.sockets import ASK, at, rest, say, standing, turn
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from erllama_py.serve.access import AccessOpts, KeyAccess
from erllama_py.serve.access.keys import make_key
from erllama_py.serve.access.settings import KeyOpts

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


async def test_events_are_those_of_a_stream() -> None:
    """A message each, numbered, and nothing else; the turn before is named by its id, stored or not."""
    async with at() as one, one.connect() as connection:
        events = await turn(connection, store=False)
        assert [event["sequence_number"] for event in events] == list(range(len(events)))
        assert events[0]["type"] == "response.created"
        first = check(events[-1]["response"])
        assert text_of(first)
        more = await turn(connection, store=False, input="and?", previous_response_id=first["id"])
        usage = more[-1]["response"]["usage"]
        assert usage["input_tokens_details"]["cached_tokens"] >= first["usage"]["total_tokens"] - 1
        third = await turn(connection, input="and?", previous_response_id=more[-1]["response"]["id"])
        assert third[-1]["type"] == "response.incomplete"


async def test_what_is_not_stored_is_the_connections_own() -> None:
    """The last answer alone; another connection does not know it. A turn that is refused takes it from nobody."""
    async with at() as one, one.connect() as connection, one.connect() as other:
        first = (await turn(connection, store=False))[-1]["response"]["id"]
        for asks in (turn(other, previous_response_id=first), turn(connection, previous_response_id="resp_0")):
            (error,) = await asks
            assert (error["status"], error["error"]["code"]) == (400, "previous_response_not_found")
            assert error["code"] == error["error"]["code"]
        second = (await turn(connection, store=False, previous_response_id=first))[-1]["response"]["id"]
        assert (await turn(connection, previous_response_id=first))[-1]["code"] == "previous_response_not_found"
        wrong = await turn(connection, previous_response_id=second, temperature=9)
        assert wrong[-1]["status"] == 400
        assert (await turn(connection, store=False, previous_response_id=second))[-1]["type"] == "response.incomplete"
        stored = (await turn(connection))[-1]["response"]["id"]
        assert (await turn(other, previous_response_id=stored))[-1]["type"] == "response.incomplete"


async def test_a_turn_that_fails_takes_what_it_goes_on_from() -> None:
    """Once it has begun: what there is of it may be wrong."""
    async with standing() as (one, gate, _), one.connect() as connection:
        gate.gate.set()
        first = (await turn(connection, model="m", store=False))[-1]["response"]["id"]
        gate.gate.clear()
        await say(connection, **ASK | {"model": "m", "max_output_tokens": 3000, "previous_response_id": first})
        await gate.shut(5)
        gate.fails = lambda part: True
        gate.gate.set()
        while json.loads(await connection.recv())["type"] != "response.failed":
            pass
        gate.fails = lambda part: False
        error = (await turn(connection, model="m", previous_response_id=first))[-1]
        assert error["code"] == "previous_response_not_found"


async def test_a_prompt_is_computed_before_its_turn() -> None:
    """`generate: false` has no reply, and the turn that goes on from it finds its prompt there."""
    async with at() as one, one.connect() as connection:
        events = await turn(connection, generate=False, store=False, input="a long story " * 20)
        assert [event["type"] for event in events] == [
            "response.created", "response.in_progress", "response.completed"
        ]  # fmt: skip
        warm = check(events[-1]["response"])
        assert warm["output"] == []
        assert warm["usage"]["output_tokens"] == 0
        after = await turn(connection, store=False, input="go on", previous_response_id=warm["id"])
        usage = after[-1]["response"]["usage"]
        assert usage["input_tokens_details"]["cached_tokens"] > 200


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("{", "invalid_json"),
        ("[]", "invalid_json"),
        ("\ud800".encode("utf-8", "surrogatepass").decode("latin-1"), "invalid_json"),
        ("[" * 100_000, "invalid_json"),
        (b"{}", "binary_message"),
        ("{}", "missing_required_parameter"),
        ('{"type": "session.update"}', "unknown_event_type"),
        ('{"type": 7}', "unknown_event_type"),
        ('{"type": "response.create", "stream_id": "a"}', "unsupported_parameter"),
        ('{"type": "response.create", "background": true}', "unsupported_parameter"),
        ('{"type": "response.create"}', "missing_required_parameter"),
        ('{"type": "response.create", "model": "none", "input": "x"}', "model_not_found"),
        ('{"type": "response.cancel"}', "response_not_found"),
    ],
)
async def test_a_message_that_is_wrong_is_answered(message: str | bytes, code: str) -> None:
    """By an event; the connection goes on."""
    async with at() as one, one.connect() as connection:
        await connection.send(message)
        error = json.loads(await connection.recv())
        assert (error["type"], error["error"]["code"]) == ("error", code)
        assert error["status"] >= 400
        assert (await turn(connection))[-1]["type"] == "response.incomplete"


async def test_turns_follow_each_other() -> None:
    """One is answered at a time, in the order in which they came; more than may wait are refused."""
    async with standing() as (one, gate, model), one.connect() as connection:
        for number in range(20):
            await say(connection, **ASK | {"model": "m", "metadata": {"number": str(number)}})
        refused = 0
        while refused < 3:  # the first turn may have begun to answer, where that took long
            event = json.loads(await connection.recv())
            refused += event.get("code") == "too_many_turns"
        assert model.queue_depth <= 1
        gate.gate.set()
        numbers = [(await rest(connection))[-1]["response"]["metadata"]["number"] for _ in range(17)]
        assert numbers == [str(number) for number in range(17)]


async def test_a_turn_is_cancelled() -> None:
    """By an event, with what it has."""
    async with standing() as (one, gate, _), one.connect() as connection:
        await say(connection, **ASK | {"model": "m", "max_output_tokens": 3000})
        created = json.loads(await connection.recv())
        await gate.shut(5)
        await say(connection, type="response.cancel", response_id=created["response"]["id"])
        await say(connection, type="response.cancel", response_id="resp_other")
        assert (await rest(connection))[-1]["code"] == "response_not_found"  # so the one before it was read
        gate.gate.set()
        ended = (await rest(connection))[-1]["response"]
        assert ended["incomplete_details"] == {"reason": "cancelled"}
        assert text_of(ended)


async def test_a_prompt_whose_computation_is_cancelled() -> None:
    """There is nothing of an answer: the error says that it was stopped, and the connection goes on."""
    async with standing() as (one, gate, model), one.connect() as connection:
        await say(connection, **ASK | {"model": "m", "generate": False})
        await until(lambda: model.queue_depth == 1)
        await say(connection, type="response.cancel")
        error = (await rest(connection))[-1]
        assert (error["status"], error["code"]) == (400, "request_stopped")
        gate.gate.set()
        assert (await turn(connection, model="m"))[-1]["type"] == "response.incomplete"


async def test_a_client_that_leaves_cancels_its_turn() -> None:
    """And nothing of it is left."""
    async with standing() as (one, gate, model):
        async with one.connect() as connection:
            await say(connection, **ASK | {"model": "m", "max_output_tokens": 3000})
            await connection.recv()
        gate.gate.set()
        await until(lambda: not len(one.app.service.open) and model.queue_depth == 0)
        await until(lambda: not one.server.server_state.connections)
        await until(lambda: one.app.service.open.drained == {one.app.service.lasting.drain})


async def test_keys_and_budgets_are_those_of_requests() -> None:
    """A handshake without a key is answered as a request is; each turn takes of its key's budget."""
    key, digest = make_key()
    access = AccessOpts(keys=(KeyOpts(name="me", hash=digest, requests_per_minute=2),))
    async with at(access=access) as one:
        with pytest.raises(InvalidStatus) as refused:
            await one.connect()
        assert refused.value.response.status_code == 401
        assert json.loads(refused.value.response.body)["error"]["code"] == "invalid_api_key"
        async with one.connect(additional_headers={"authorization": f"Bearer {key}"}) as connection:
            assert (await turn(connection))[-1]["type"] == "response.incomplete"
            error = (await turn(connection))[-1]
            assert (error["status"], error["code"]) == (429, "requests_limit")


async def test_a_key_that_is_taken_away_has_no_connection_any_more() -> None:
    """Its next turn is refused, and the connection closed; those of other keys go on."""
    keys = [make_key() for _ in range(2)]
    access = AccessOpts(keys=tuple(KeyOpts(name=name, hash=key[1]) for name, key in zip("ab", keys, strict=True)))
    async with at(access=access) as one:
        mine, yours = ({"authorization": f"Bearer {key}"} for key, _ in keys)
        async with one.connect(additional_headers=mine) as gone, one.connect(additional_headers=yours) as stays:
            assert (await turn(gone))[-1]["type"] == "response.incomplete"
            assert isinstance(one.app.service.access, KeyAccess)
            one.app.service.access.change(AccessOpts(keys=access.keys[1:]))
            assert (await turn(gone))[-1]["status"] == 401
            with pytest.raises(ConnectionClosed) as closed:
                await gone.recv()
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1008
            assert (await turn(stays))[-1]["type"] == "response.incomplete"


async def test_pages_and_names_that_are_not_known_are_refused() -> None:
    """A browser lets any page open a WebSocket: the server has to look where it comes from."""
    async with at(access=AccessOpts(origins=("https://ours.example",))) as one:
        port = one.url.rpartition(":")[2]
        named = connect(f"ws://evil.example:{port}/v1/responses", host="127.0.0.1", port=int(port))
        for asking in (one.connect(origin="https://evil.example"), named):
            with pytest.raises(InvalidStatus) as refused:
                await asking
            assert refused.value.response.status_code == 403
        for origin in ("https://ours.example", one.url.replace("ws", "http")):
            async with one.connect(origin=origin) as connection:
                assert await turn(connection)


async def test_bounds_of_connections() -> None:
    """One too many, one that is idle, a message that is too long."""
    async with at(max_websockets=1, max_body_bytes=10_000) as one:
        async with one.connect() as connection:
            with pytest.raises(InvalidStatus) as refused:
                await one.connect()
            assert refused.value.response.status_code == 429
            with pytest.raises(ConnectionClosed) as closed:
                await turn(connection, input="x" * 20_000)
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1009
        async with one.connect() as connection:
            assert await turn(connection)
    async with at(websocket_idle_seconds=0.1) as one, one.connect() as connection:
        with pytest.raises(ConnectionClosed) as closed:
            await connection.recv()
        assert closed.value.rcvd is not None
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1000, "idle")


async def test_one_key_leaves_connections_for_another() -> None:
    """It has three quarters of them at most, while there is no other."""
    keys = [make_key() for _ in range(2)]
    access = AccessOpts(keys=tuple(KeyOpts(name=name, hash=key[1]) for name, key in zip("ab", keys, strict=True)))
    async with at(access=access, max_websockets=4) as one, AsyncExitStack() as stack:
        mine, yours = ({"authorization": f"Bearer {key}"} for key, _ in keys)
        for _ in range(3):
            await stack.enter_async_context(one.connect(additional_headers=mine))
        with pytest.raises(InvalidStatus) as refused:
            await one.connect(additional_headers=mine)
        assert json.loads(refused.value.response.body)["error"]["code"] == "too_many_websockets"
        async with one.connect(additional_headers=yours) as connection:
            assert (await turn(connection))[-1]["type"] == "response.incomplete"


async def test_connections_are_bounded_with_those_of_http() -> None:
    """`max_connections` holds for them, too. A head that is longer than a WebSocket's may be is answered over HTTP."""
    async with at(max_connections=1) as one, one.connect() as connection:
        with pytest.raises((OSError, InvalidHandshake)):
            await one.connect()
        assert await turn(connection)
    async with at() as one:
        for headers in ({"x-long": "x" * 10_000}, {f"x-{number}": "x" for number in range(200)}):
            with pytest.raises(InvalidStatus) as long:
                await one.connect(additional_headers=headers)
            assert long.value.response.status_code == 405


async def test_a_client_that_is_there_answers_pings() -> None:
    """Pings of both sides; one that does not answer is left."""
    async with at(heartbeat_seconds=0.05, send_seconds=0.3) as one, one.connect() as connection:
        await (await connection.ping())
        first = one.server.server_state.connections.copy()
        assert await turn(connection)
        connection.transport.pause_reading()
        await until(lambda: not one.server.server_state.connections & first)
        connection.transport.abort()  # else it waits for the end of a handshake that it does not read


async def test_the_server_ends() -> None:
    """The turn that is answered is answered; then the connection is closed with a reason, and so is an idle one."""
    async with standing() as (one, gate, _), one.connect() as busy, one.connect() as idle:
        await say(busy, **ASK | {"model": "m"})
        await busy.recv()
        draining = asyncio.create_task(one.app.service.open.drain(20))
        with pytest.raises(ConnectionClosed) as closed:
            await idle.recv()
        assert closed.value.rcvd is not None
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1012, "the server is shutting down")
        with pytest.raises(InvalidStatus) as late:
            await one.connect()
        assert late.value.response.status_code == 503
        gate.gate.set()
        assert (await rest(busy))[-1]["type"] == "response.incomplete"
        with pytest.raises(ConnectionClosed):
            await busy.recv()
        assert await draining


async def test_openais_sdk() -> None:
    """`client.responses.connect`."""
    async with at() as one:
        url = one.url.replace("ws", "http") + "/v1"
        client = openai.AsyncOpenAI(base_url=url, api_key="none", websocket_base_url=one.url + "/v1")
        async with client.responses.connect() as connection:
            previous = None
            for text in ("hello", "and?"):
                asked: Any = {"model": "tiny", "input": text, "max_output_tokens": 6, "previous_response_id": previous}
                await connection.response.create(**asked)
                said = ""
                async for event in connection:
                    if event.type == "response.output_text.delta":
                        said += event.delta
                    if event.type == "response.incomplete":
                        previous = event.response.id
                        assert event.response.output_text == said
                        break
            await connection.response.create(model="none", input="x")
            error = await connection.recv()
            assert error.type == "error"
            assert error.error.code == "model_not_found"


async def test_other_paths_are_answered_as_if_nothing_was_offered() -> None:
    """There is no WebSocket there."""
    async with at() as one:
        with pytest.raises(InvalidStatus) as refused:
            await one.connect("/v1/models")
        assert refused.value.response.status_code == 200
