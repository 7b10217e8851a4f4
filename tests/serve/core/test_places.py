"""Who gets a place among those that all tenants share."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack

import httpx
import pytest
from helpers.gated import gated
from helpers.runtime import until
from hypothesis import given
from hypothesis import strategies as st

from erllama_py.serve.access import AccessOpts
from erllama_py.serve.access.keys import make_key
from erllama_py.serve.access.settings import KeyOpts
from erllama_py.serve.app import create_app
from erllama_py.serve.core.places import Places, may_take
from erllama_py.serve.core.problems import Problem
from erllama_py.serve.core.settings import ServerOpts

MOST = st.integers(1, 600)


def places(most: int) -> Places:
    return Places(most, "things", "too_many_things")


def filled(one: Places, tenant: str, held: ExitStack) -> int:
    """How many a tenant gets before it is refused."""
    for count in range(one.most + 1):
        try:
            held.enter_context(one.taken(tenant))
        except Problem:
            return count
    raise AssertionError("more than there are")


@given(MOST)
def test_one_that_is_alone(most: int) -> None:
    """Gets all where there are no keys, and three quarters where others may come: they get some of the rest."""
    with ExitStack() as held:
        assert filled(places(most), "", held) == most
    with ExitStack() as held:
        one = places(most)
        first = filled(one, "greedy", held)
        assert 3 * most <= 4 * first <= 3 * most + 4
        assert (filled(one, "other", held) > 0) == (most > first)


@given(MOST, st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=80))
def test_there_are_never_more_and_all_come_back(most: int, steps: list[tuple[str, bool]]) -> None:
    """Whoever takes and leaves them; one that has none gets one as long as there is any."""
    one, held = places(most), dict[str, list[ExitStack]]()
    for tenant, leaves in steps:
        mine = held.setdefault(tenant, [])
        if leaves and mine:
            mine.pop().close()
            continue
        place = ExitStack()
        try:
            place.enter_context(one.taken(tenant))
            mine.append(place)
        except Problem:
            assert mine or len(one) == most
        assert len(one) == sum(map(len, held.values())) <= most
    for mine in held.values():
        for place in mine:
            place.close()
    assert len(one) == 0


@given(st.integers(0, 900), st.integers(0, 900))
def test_where_nothing_is_free_nobody_gets_any(mine: int, free: int) -> None:
    """Also where a reload has left fewer than there are taken."""
    for shared in (True, False):
        assert not may_take(mine, -free, shared=shared)


@pytest.mark.anyio
async def test_requests_of_one_key_leave_room_for_another() -> None:
    """It is told to come again, by a code that clients know, while the other one is answered."""
    keys = {name: make_key() for name in ("one", "other")}
    access = AccessOpts(keys=tuple(KeyOpts(name=name, hash=key[1]) for name, key in keys.items()))
    body = {"model": "m", "prompt": "hello", "max_tokens": 2}
    async with gated(context={"n_ctx": 4096, "n_seq_max": 4}) as (runtime, _, gate):
        app = create_app(runtime, settings=ServerOpts(max_open=4), access=access)
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=30) as client:

            async def ask(name: str) -> httpx.Response:
                return await client.post("/v1/completions", json=body, headers={"x-api-key": keys[name][0]})

            asking = [asyncio.create_task(ask("one")) for _ in range(3)]
            await until(lambda: len(app.service.open) == 3)
            refused = await ask("one")
            assert (refused.status_code, refused.json()["error"]["code"]) == (429, "too_many_requests")
            assert int(refused.headers["retry-after"]) > 0
            asking.append(asyncio.create_task(ask("other")))
            await until(lambda: len(app.service.open) == 4)
            gate.gate.set()
            assert [answer.status_code for answer in await asyncio.gather(*asking)] == [200] * 4
