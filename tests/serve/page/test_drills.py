"""Crashing a model on purpose: who may, how often, and that it comes back."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from helpers.clock import ManualClock
from helpers.runtime import until
from helpers.served import served
from hypothesis import example, given
from hypothesis import strategies as st
from starlette.requests import HTTPConnection

import erllama_py as erllama
from erllama_py.actors.clock import BudgetClock
from erllama_py.actors.restart_budget import RestartAfter, decide
from erllama_py.options.process import RestartOpts
from erllama_py.serve.core.service import Tenant
from erllama_py.serve.page.drills import MOST, Bound, Drilled, bound, wait, with_one
from erllama_py.tree import model_limits

CRASH = "/erllama/models/tiny/crash"
DEFAULT = RestartOpts()
BOUND = bound(DEFAULT.intensity, DEFAULT.period, 0.0)
TIMES = st.lists(st.floats(0.0, 200.0), max_size=12)


class Strangers:
    """An `Access` whose tenants are no operators."""

    def admit(self, connection: HTTPConnection) -> Tenant:
        return Tenant(name="somebody")

    def spent(self, tenant: Tenant, tokens: int) -> None:
        pass


async def back(model: erllama.Model, restarts: int) -> None:
    """Wait until it has come back so often, and is up."""
    await until(lambda: model.info.restarts == restarts and model.phase == "idle")


@given(TIMES, st.floats(0.0, 300.0))
@example([1.0, 1.0, 1.4326524555181886e-213], 0.0)
@example([0.1, 0.1, 0.1], 0.3)
def test_waiting_as_long_as_told_is_enough(at: list[float], now: float) -> None:
    """And a second less is not, where there was anything to wait for."""
    told = wait(at, now, BOUND)
    assert wait(at, now + told, BOUND) == 0
    if told > 1:
        assert wait(at, now + told - 1, BOUND) > 0


@given(
    st.lists(st.floats(0.0, 30.0), max_size=40), st.integers(1, 8), st.floats(1.0, 300.0), st.floats(0.0, 200.0)
)  # fmt: skip
@example([0.0] * 12, 5, 60.0, 30.0)
@example([0.0, 0.0, 0.0, 59.92], 5, 60.0, 0.0)
def test_drills_alone_never_use_up_the_budget_of_a_model(
    gaps: list[float], intensity: int, period: float, load_seconds: float
) -> None:
    """Whenever they are asked for, and however long its loads take, in which the supervisor's clock stands still."""
    most, limits = bound(intensity, period, load_seconds), model_limits(RestartOpts(intensity=intensity, period=period))
    assert 1 <= most.most <= max(1, intensity - 2)
    drills: dict[str, Drilled] = {}
    history = tuple[float, ...]()
    clock = ManualClock()
    budget_clock = BudgetClock(clock)
    for gap in gaps:
        clock.advance(gap)
        if wait(drills["m"].at if drills else (), clock.now(), most) == 0:
            decision = decide(limits, history, budget_clock.now(), 0.999)
            assert isinstance(decision, RestartAfter)
            assert len(decision.history) <= most.most
            drills, history = with_one(drills, "m", clock.now(), most), decision.history
            clock.advance(decision.delay)
            budget_clock.stop()
            clock.advance(load_seconds)
            budget_clock.go_on()


def test_old_drills_are_forgotten() -> None:
    """Of all models, each by its own budget: names of models that are gone do not pile up."""
    slow = bound(5, 300.0, 0.0)
    drills = with_one(with_one({}, "old", 0.0, BOUND), "slow", 0.0, slow)
    drills = with_one(drills, "new", BOUND.seconds, BOUND)
    assert {name: one.at for name, one in drills.items()} == {"slow": (0.0,), "new": (BOUND.seconds,)}
    assert set(with_one(drills, "new", slow.seconds, BOUND)) == {"new"}


def test_a_budget_of_none_has_no_drill() -> None:
    """And one of few has one."""
    assert [bound(count, 60.0, 9.0).most for count in range(7)] == [0, 1, 1, 1, 2, 3, 3]
    assert bound(5, 5.0, 0.0) == BOUND == Bound(MOST, 61.0)


@pytest.mark.anyio
@pytest.mark.parametrize("where", ["thread", "actor"])
async def test_a_drill_crashes_a_model_that_comes_back(where: str) -> None:
    """With one restart more than was told, and it answers again."""
    async with served() as at:
        told = (await at.client.post(CRASH, json={"where": where})).json()
        assert told == {"model": "tiny", "where": where, "restarts": 0}
        await until(lambda: at.model.info.restarts == 1)
        ask: Any = {"model": "tiny", "messages": [{"role": "user", "content": "ping"}], "max_tokens": 1}
        assert (await at.client.post("/v1/chat/completions", json=ask)).status_code == 200


@pytest.mark.anyio
async def test_an_open_reply_goes_on_after_a_drill() -> None:
    """As after a real fault."""
    async with served({"stub": {"seconds_per_token": 0.001}}) as at:
        ask: Any = {"model": "tiny", "messages": [{"role": "user", "content": "ping"}], "max_tokens": 200}
        open_one = asyncio.create_task(at.client.post("/v1/chat/completions", json=ask | {"ignore_eos": True}))
        await until(lambda: at.model.phase == "generating")
        assert (await at.client.post(CRASH, json={"where": "decode"})).status_code == 200
        answer = await open_one
        assert (answer.status_code, answer.json()["usage"]["completion_tokens"]) == (200, 200)


@pytest.mark.anyio
@pytest.mark.slow
@pytest.mark.parametrize(("where", "named"), [("process", "SIGSEGV"), ("assertion", "SIGABRT")])
async def test_the_process_of_a_model_is_ended_and_its_reply_goes_on(where: str, named: str) -> None:
    """Nothing of the reply is lost; the page tells what ended it, and how many requests went on."""
    async with served({"isolation": "process", "stub": {"seconds_per_token": 0.005}}) as at:
        ask: Any = {"model": "tiny", "messages": [{"role": "user", "content": "ping"}], "max_tokens": 400}
        ask |= {"ignore_eos": True, "temperature": 0}
        before = (await at.client.post("/v1/chat/completions", json=ask)).json()["choices"]
        pid = at.model.info.pid
        open_one = asyncio.create_task(at.client.post("/v1/chat/completions", json=ask))
        await until(lambda: at.model.phase == "generating")
        assert (await at.client.post(CRASH, json={"where": where})).status_code == 200
        assert (await open_one).json()["choices"] == before
        work = (await at.client.get("/erllama/live")).json()["models"][0]["work"]
        assert (work["isolation"], work["restarts"], work["continued"]) == ("process", 1, 1)
        assert (work["last_crash"]["reason"], work["last_crash"]["pid"]) == ("signal", pid)
        assert work["last_crash"]["problem"].startswith(named)
        assert work["pid"] not in (pid, None)
        [state] = (await at.client.get("/erllama/models")).json()["models"]
        assert (state["pid"], state["restarts"]) == (work["pid"], 1)
        assert state["last_crash"] == work["last_crash"]["problem"]
        tree = (await at.client.get("/erllama/tree", headers={"accept": "text/plain"})).text
        assert f"process {work['pid']}, " in tree


@pytest.mark.anyio
@pytest.mark.parametrize("where", ["process", "assertion"])
async def test_what_has_no_process_of_its_own_is_not_ended_by_a_signal(where: str) -> None:
    """That would end the server."""
    async with served() as at:
        answer = await at.client.post(CRASH, json={"where": where})
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "no_process")
        assert "one of 'actor', 'thread', 'decode'" in answer.json()["error"]["message"]
        assert at.model.info.restarts == 0


@pytest.mark.anyio
async def test_drills_are_few_a_minute() -> None:
    """Else the model would be given up; when there may be another one is told."""
    async with served() as at:
        for number in range(1, MOST + 1):
            assert (await at.client.post(CRASH, json={})).status_code == 200
            await back(at.model, number)
        refused = await at.client.post(CRASH, json={})
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "drill_limit")
        assert 1 <= int(refused.headers["retry-after"]) <= BOUND.seconds + 2
        assert at.model.phase == "idle"


@pytest.mark.anyio
async def test_a_model_of_few_restarts_has_few_drills() -> None:
    """It is up after all that are taken; one that is never restarted has none."""
    async with served({"restarts": {"intensity": 1, "period": 90.0}}) as at:
        assert (await at.client.post(CRASH, json={})).status_code == 200
        await back(at.model, 1)
        refused = (await at.client.post(CRASH, json={})).json()["error"]
        assert refused["code"] == "drill_limit"
        assert refused["message"].startswith("1 drill of this model in 9")
        assert at.model.phase == "idle"
    async with served({"restarts": {"intensity": 0}}) as at:
        answer = await at.client.post(CRASH, json={})
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "no_restarts")
        assert at.model.phase == "idle"


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        ("/erllama/models/nobody/crash", "{}", 404, "model_not_found"),
        ("/erllama/models/owner/repo/crash", "{}", 404, "model_not_found"),
        (CRASH, '{"where": "heart"}', 400, None),
        (CRASH, '{"when": "now"}', 400, None),
        (CRASH, "", 400, "invalid_json"),
    ],
)
async def test_a_wrong_drill_is_refused_and_crashes_nothing(
    path: str, body: str, status: int, code: str | None
) -> None:
    """With what is wrong in it."""
    async with served() as at:
        answer = await at.client.post(path, content=body, headers={"content-type": "application/json"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
        assert (at.model.phase, at.model.info.restarts) == ("idle", 0)


@pytest.mark.anyio
async def test_a_drill_of_an_unknown_kind_is_told_which_there_are() -> None:
    """With what was asked for."""
    async with served() as at:
        answer = await at.client.post(CRASH, json={"where": "heart"})
        said = "where: expected one of 'actor', 'assertion', 'decode', 'process', 'thread', got 'heart'"
        assert answer.json()["error"]["message"] == said


@pytest.mark.anyio
async def test_a_model_that_is_not_up_cannot_be_crashed() -> None:
    """It is on its way back already: a fault would have no effect."""
    async with served({"stub": {"fail_decode_after": 0}}) as at:
        for _ in range(6):
            await at.client.post("/v1/completions", json={"model": "tiny", "prompt": "x", "max_tokens": 1})
        await until(lambda: at.model.phase == "failed")
        answer = await at.client.post(CRASH, json={})
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "not_up")


@pytest.mark.anyio
async def test_only_operators_may_and_only_where_it_is_on() -> None:
    """Both are told so."""
    async with served(access=Strangers()) as at:
        answer = await at.client.post(CRASH, json={})
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "operators_only")
    async with served(settings={"drills": False}) as at:
        answer = await at.client.post(CRASH, json={})
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "drills_off")
        assert at.model.info.restarts == 0
        assert (await at.client.get("/erllama/live")).json()["server"]["drills"] is False
