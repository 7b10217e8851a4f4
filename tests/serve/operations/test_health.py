"""`/health`: ready only when requests are answered."""

from __future__ import annotations

from collections.abc import Mapping

import httpx
import pytest
from helpers.coming_back import Comings, crash
from helpers.runtime import until
from helpers.served import served

import erllama_py as erllama
from erllama_py.serve.app import create_app
from erllama_py.serve.operations.health import Status, readiness


@pytest.mark.parametrize(
    ("phases", "missing", "draining", "status"),
    [
        ({"idle": 1}, 0, False, "ok"),
        ({"generating": 1, "prefilling": 2}, 0, False, "ok"),
        ({}, 0, False, "loading"),
        ({"idle": 1}, 1, False, "loading"),
        ({"idle": 1, "loading": 1}, 0, False, "loading"),
        ({"idle": 3, "restarting": 1}, 0, False, "restarting"),
        ({"hanging": 1, "restarting": 1}, 0, False, "hanging"),
        ({"failed": 1, "hanging": 1, "idle": 5}, 2, False, "failed"),
        ({"idle": 1}, 0, True, "draining"),
        ({"failed": 1}, 0, True, "draining"),
    ],
)
def test_the_worst_is_said(phases: Mapping[str, int], missing: int, draining: bool, status: Status) -> None:
    """With a sentence wherever it is not ready."""
    found = readiness(phases, missing, draining=draining)
    assert found.status == status
    assert (found.reason is None) == (status == "ok")
    assert sum(found.models.values()) == sum(phases.values()) + missing


@pytest.mark.anyio
async def test_a_server_is_ready_when_its_models_are() -> None:
    """And names none of them: everybody may ask."""
    async with served() as at:
        answer = await at.client.get("/health")
        assert (answer.status_code, answer.json()) == (200, {"status": "ok", "reason": None, "models": {"idle": 1}})
        assert (await at.client.get("/health/live")).json()["status"] == "ok"


@pytest.mark.anyio
async def test_models_that_are_to_come_are_waited_for() -> None:
    """Those that are served, and those that aliases name."""
    async with served(only=["tiny", "second"]) as at:
        answer = await at.client.get("/health")
        assert (answer.status_code, answer.json()["status"]) == (503, "loading")
        assert answer.headers["retry-after"]
        assert "second" not in answer.text


@pytest.mark.anyio
async def test_before_and_after_the_runtime_is_open_it_is_not_ready() -> None:
    """It lives all the time."""
    runtime = erllama.Runtime()
    transport = httpx.ASGITransport(app=create_app(runtime))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        assert (await client.get("/health")).json()["status"] == "starting"
        async with runtime:
            answer = await client.get("/health")
            assert (answer.status_code, answer.json()["reason"]) == (503, "no model is loaded yet")
        assert (await client.get("/health")).json()["status"] == "starting"
        assert (await client.get("/health/live")).status_code == 200


@pytest.mark.anyio
async def test_while_a_model_is_restarted_it_is_not_ready() -> None:
    """And is again once the model is back."""
    comings = Comings()
    async with served(make=comings.make) as at:
        await crash(at.model, comings)
        assert (await at.client.get("/health")).json()["status"] == "restarting"
        comings.back.set()
        await until(lambda: at.model.phase == "idle")
        assert (await at.client.get("/health")).status_code == 200


@pytest.mark.anyio
async def test_while_it_drains_it_is_not_ready() -> None:
    """And still answers those who ask for that."""
    async with served() as at:
        at.app.service.open.hurry()
        answer = await at.client.get("/health")
        assert (answer.status_code, answer.json()["status"]) == (503, "draining")
        assert (await at.client.get("/health/live")).status_code == 200
