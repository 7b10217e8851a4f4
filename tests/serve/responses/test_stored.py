"""Answers by their ids: shown, listed, forgotten, cancelled, and nobody else's."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from helpers.gated import Gated
from helpers.listening import listening
from helpers.open_responses import check, read_stream
from helpers.served import Served, served
from starlette.requests import HTTPConnection

from erllama_py.serve.core.service import Everybody, Tenant

PATH = "/v1/responses"
ASK: dict[str, Any] = {"model": "tiny", "input": "hello", "max_output_tokens": 8, "temperature": 0}


class ByHeader(Everybody):
    """Tenants by what a header says."""

    def admit(self, connection: HTTPConnection) -> Tenant:
        name = connection.headers.get("x-tenant", "")
        return Tenant(name=name, salt=name or None)


async def make(at: Served, who: str = "", **change: Any) -> Any:
    """A stored answer."""
    answer = await at.client.post(PATH, json=ASK | change, headers={"x-tenant": who})
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.mark.anyio
async def test_an_answer_is_shown_as_it_was_given_until_it_is_forgotten() -> None:
    """Whole or streamed; afterwards it is not there, however often it is asked for."""
    async with served() as at:
        whole = await make(at)
        streamed = read_stream((await at.client.post(PATH, json=ASK | {"stream": True})).text)[-1]["response"]
        for given in (whole, streamed):
            path = f"{PATH}/{given['id']}"
            assert (await at.client.get(path)).json() == given
            assert (await at.client.get(path + "?stream=true")).status_code == 400
            gone = await at.client.delete(path)
            assert gone.json() == {"id": given["id"], "object": "response", "deleted": True}
            for answer in (await at.client.get(path), await at.client.delete(path)):
                assert answer.status_code == 404
                assert answer.json()["error"]["code"] == "response_not_found"


@pytest.mark.anyio
async def test_a_turn_cannot_go_on_from_what_is_not_there() -> None:
    """An id that never was, one that was forgotten, and one whose own past was."""
    async with served() as at:
        first = await make(at)
        second = await make(at, previous_response_id=first["id"])
        await at.client.delete(f"{PATH}/{first['id']}")
        for previous in ("resp_0", first["id"], second["id"]):
            for stream in (False, True):
                asked = ASK | {"previous_response_id": previous, "stream": stream}
                answer = await at.client.post(PATH, json=asked)
                assert answer.status_code == 400
                assert answer.json()["error"]["code"] == "previous_response_not_found"
        assert (await at.client.get(f"{PATH}/{second['id']}")).status_code == 200


@pytest.mark.anyio
async def test_the_input_is_listed_in_pages() -> None:
    """The newest first, unless asked otherwise; its own items, not those of turns before."""
    items = [{"role": "user", "content": str(number)} for number in range(5)]
    async with served() as at:
        before = await make(at)
        given = await make(at, input=items, previous_response_id=before["id"])
        path = f"{PATH}/{given['id']}/input_items"
        first = (await at.client.get(path, params={"limit": 3})).json()
        rest = (await at.client.get(path, params={"limit": 3, "after": first["last_id"]})).json()
        assert (first["has_more"], rest["has_more"]) == (True, False)
        texts = [check(item, "ItemField")["content"][0]["text"] for item in first["data"] + rest["data"]]
        assert texts == ["4", "3", "2", "1", "0"]
        upwards = (await at.client.get(path, params={"order": "asc"})).json()
        assert upwards["data"] == (first["data"] + rest["data"])[::-1]
        for wrong in ({"limit": "0"}, {"limit": "x"}, {"limit": "9" * 9}, {"order": "up"}, {"after": "msg_1"}):
            answer = await at.client.get(path, params=wrong)
            assert answer.status_code == 400
            assert answer.json()["error"]["param"] == next(iter(wrong))


@pytest.mark.anyio
async def test_another_tenants_answers_are_not_there() -> None:
    """Neither to be shown nor to be changed, nor to go on from; nor can its sealed texts be used."""
    async with served(access=ByHeader()) as at:
        mine, theirs = {"x-tenant": "ada"}, {"x-tenant": "bob"}
        given = await make(at, "ada")
        path = f"{PATH}/{given['id']}"
        asked: list[tuple[str, str]] = [
            ("GET", path), ("GET", path + "/input_items"), ("POST", path + "/cancel"), ("DELETE", path),
        ]  # fmt: skip
        for method, where in asked:
            assert (await at.client.request(method, where, headers=theirs)).status_code == 404
        follow = ASK | {"previous_response_id": given["id"]}
        assert (await at.client.post(PATH, json=follow, headers=theirs)).status_code == 400
        reference = ASK | {"input": [{"type": "item_reference", "id": given["output"][0]["id"]}]}
        assert (await at.client.post(PATH, json=reference, headers=theirs)).status_code == 404
        assert (await at.client.post(PATH, json=follow, headers=mine)).status_code == 200
        compact = {"model": "tiny", "previous_response_id": given["id"]}
        items = (await at.client.post(f"{PATH}/compact", json=compact, headers=mine)).json()["output"]
        assert (await at.client.post(PATH, json=ASK | {"input": items}, headers=theirs)).status_code == 400
        assert (await at.client.post(PATH, json=ASK | {"input": items}, headers=mine)).status_code == 200


@pytest.mark.anyio
async def test_answers_outlive_the_process_where_there_is_a_directory(tmp_path: Path) -> None:
    """And what was sealed for clients with them."""
    async with served(responses_directory=tmp_path) as at:
        given = await make(at)
        compact = {"model": "tiny", "previous_response_id": given["id"]}
        items = (await at.client.post(f"{PATH}/compact", json=compact)).json()["output"]
    async with served(responses_directory=tmp_path) as at:
        assert (await at.client.get(f"{PATH}/{given['id']}")).json() == given
        await make(at, previous_response_id=given["id"])
        await make(at, input=items)


@pytest.mark.anyio
async def test_where_nothing_can_be_kept_the_answer_says_that_it_is_not_stored(tmp_path: Path) -> None:
    """It is given all the same: it is larger than all that is stored, or its directory cannot be written."""
    (tmp_path / "file").write_text("no directory")
    given: list[dict[str, Any]] = [
        {"settings": {"max_stored_bytes": 100}}, {"responses_directory": tmp_path / "file" / "answers"},
    ]  # fmt: skip
    for one in given:
        async with served(**one) as at:
            assert (await make(at))["store"] is False
            events = read_stream((await at.client.post(PATH, json=ASK | {"stream": True})).text)
            assert events[-1]["response"]["store"] is False
    async with served(**given[0]) as at:
        assert (await at.client.get(f"{PATH}/{(await make(at))['id']}")).status_code == 404


LONG = ASK | {"stream": True, "max_output_tokens": 1900}


@asynccontextmanager
async def half_way() -> AsyncIterator[tuple[Served, httpx.AsyncClient]]:
    """A server at a socket, and a model that says the first words of a reply: it could be over in no time."""
    gate = Gated()
    gate.shut_after = 5
    gate.gate.set()
    async with served(make=gate.make) as at, listening(at.app) as url, httpx.AsyncClient(base_url=url) as client:
        yield at, client


def id_in(line: str) -> str:
    """Of the answer whose first event this is."""
    return str(msgspec.json.decode(line.removeprefix("data: "))["response"]["id"])


@pytest.mark.anyio
@pytest.mark.slow  # uvicorn looks ten times a second whether it should stop
async def test_an_answer_under_way_can_be_cancelled_by_its_id() -> None:
    """It ends with what it has, which is stored; one that is over stays as it is."""
    async with half_way() as (_, client):
        async with client.stream("POST", PATH, json=LONG) as stream:
            lines = stream.aiter_lines()
            read = [await anext(lines), await anext(lines)]
            path = f"{PATH}/{id_in(read[1])}"
            cancelled = check((await client.post(path + "/cancel")).json())
            read += [line async for line in lines]
        assert cancelled["status"] == "incomplete"
        assert cancelled["incomplete_details"] == {"reason": "cancelled"}
        assert read_stream("\n".join(read) + "\n")[-1]["response"] == cancelled
        assert (await client.post(path + "/cancel")).json() == cancelled
        assert (await client.post(f"{PATH}/resp_1/cancel")).status_code == 404


@pytest.mark.anyio
@pytest.mark.slow  # the same
async def test_an_answer_whose_client_leaves_is_not_stored() -> None:
    """It ends with its client."""
    async with half_way() as (at, client):
        async with client.stream("POST", PATH, json=LONG) as stream:
            lines = stream.aiter_lines()
            read = [await anext(lines), await anext(lines)]
        path = f"{PATH}/{id_in(read[1])}"
        assert (await client.post(path + "/cancel")).status_code == 404  # which waits until it is over
        assert at.model.queue_depth == 0
