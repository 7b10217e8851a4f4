"""What a server logs: lines that say which request and which model, and never a word of what users write."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import re
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any, cast, get_args

import msgspec
import pytest
import structlog
from helpers.in_step import in_step
from helpers.runtime import until
from helpers.served import Served, served
from starlette.requests import HTTPConnection
from starlette.routing import Route

import erllama_py as erllama
from erllama_py.scheduler.messages import FaultPlace
from erllama_py.serve.access import AccessOpts
from erllama_py.serve.core.endpoint import Endpoint
from erllama_py.serve.core.service import Tenant, Unmeasured
from erllama_py.serve.operations import logs as module
from erllama_py.serve.operations.logs import Logs, Style, configure_logging

CANARY = "heron-of-Lindau"
PATH = "/v1/chat/completions"
ASK: dict[str, Any] = {
    "model": "tiny", "messages": [{"role": "user", "content": CANARY}], "max_tokens": 4, "temperature": 0,
}  # fmt: skip


SECRET: dict[str, Any] = {
    "model": "tiny", "messages": ASK["messages"], "input": CANARY, "prompt": CANARY, "system": CANARY, "query": CANARY,
    "instructions": CANARY, "documents": [CANARY, CANARY], "content": CANARY, "max_tokens": 4,
}  # fmt: skip


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    """Where lines go."""
    yield io.StringIO()
    assert not structlog.is_configured()


async def everywhere(at: Served) -> None:
    """To each endpoint a request with the canary as its text, and for each field of its body one with it there."""
    routes = [route for route in at.app.routes if isinstance(route, Route) and isinstance(route.endpoint, Endpoint)]
    for route in routes:
        path, kind = re.sub(r"{.*?}", CANARY, route.path), cast(Endpoint, route.endpoint).takes
        if not isinstance(kind, type) or not issubclass(kind, msgspec.Struct):
            await at.client.request(next(iter(route.methods or {"GET"})), path)
            continue
        names = [field.encode_name for field in msgspec.structs.fields(kind)]
        sound = {name: value for name, value in SECRET.items() if name in names}
        for body in (sound, sound | {"stream": True}, *(sound | {name: CANARY} for name in names)):
            await at.client.post(path, json=body)


async def everything(at: Served) -> None:
    """Requests that go well and ones that go wrong, each with the canary in it."""
    ask = at.client.post
    secret = {"role": "user", "content": CANARY}
    tool = {"type": "function", "function": {"name": "find", "description": CANARY, "parameters": {"type": CANARY}}}
    changes: list[dict[str, Any]] = [
        {}, {"stream": True}, {"n": 2}, {"tools": [tool]}, {"stop": [CANARY]}, {"prompt_cache_key": CANARY},
        {"model": CANARY}, {"temperature": CANARY}, {"messages": CANARY}, {"messages": [CANARY]},
        {"messages": [{"role": CANARY, "content": CANARY}]}, {"grammar": CANARY}, {"tool_choice": CANARY},
        {"response_format": {"type": CANARY}}, {"response_format": {"type": "json_schema", "json_schema": {CANARY: 1}}},
        {"response_format": {"type": "json_schema", "json_schema": {"schema": {"pattern": CANARY + "("}}}},
        {"messages": [secret] * 3_000}, {"messages": [{"role": "user", "content": CANARY * 1_000}]},
        {"chat_template_kwargs": {"x": CANARY}}, {"logit_bias": {CANARY: 1}},
        {"messages": [secret, {"role": "assistant", "tool_calls": [{"id": CANARY, "function": CANARY}]}]},
    ]  # fmt: skip
    for change in changes:
        for stream in ({}, {"stream": True}):
            await ask(PATH, json=ASK | change | stream)
    await ask(PATH, content=CANARY)
    await ask(PATH, content=b'{"messages": [{"content": "' + CANARY.encode())
    await ask(f"/{CANARY}", json=ASK)
    await ask(f"{PATH}?key={CANARY}", json=ASK, headers={"authorization": f"Bearer {CANARY}", "x-canary": CANARY})
    await at.client.get(f"/v1/models/{CANARY}")
    for where in set(get_args(FaultPlace)) - {"assertion"}:
        at.model.inject_fault(where)
        await ask(PATH, json=ASK)
        await until(lambda: at.model.phase == "idle")


@pytest.mark.slow
@pytest.mark.anyio
@pytest.mark.parametrize("structured", [False, True])
async def test_no_record_holds_a_word_of_a_prompt(
    structured: bool, caplog: pytest.LogCaptureFixture, lines: io.StringIO
) -> None:
    """At every level, whatever goes wrong, with the server's logging and with that of an application."""
    caplog.set_level(logging.DEBUG)  # first, as it is put back last
    logs = configure_logging("json", "debug", lines) if structured else None
    try:
        async with served() as at:
            await everything(at)
            await everywhere(at)
    finally:
        if logs is not None:
            logs.close()
    records = [f"{record.getMessage()} {record.__dict__}" for record in caplog.records]
    assert any(PATH in record for record in records)
    mine = [record for record in caplog.records if not record.name.startswith(("httpx", "httpcore"))]
    formatter = logging.Formatter()
    assert [text for record in mine if CANARY in (text := formatter.format(record) + str(record.__dict__))] == []
    own = [line for line in lines.getvalue().splitlines() if '"logger":"httpx"' not in line]
    assert [line for line in own if CANARY in line] == []


class Known:
    """An `Access` with one tenant."""

    def admit(self, connection: HTTPConnection) -> Tenant:
        return Tenant(name="alice")

    def spent(self, tenant: Tenant, tokens: int) -> None:
        pass


@pytest.mark.anyio
async def test_a_line_says_whose_request_it_was(lines: io.StringIO) -> None:
    """By the name of its key, which is no secret."""
    with configure_logging("json", "info", lines):
        async with served(access=Known()) as at:
            await at.client.post(PATH, json=ASK)
    said = [json.loads(line) for line in lines.getvalue().splitlines()]
    assert [one["tenant"] for one in said if one["event"] == "request"] == ["alice"]


@pytest.mark.anyio
@pytest.mark.parametrize("style", ["text", "json"])
async def test_a_line_says_which_request_and_model(style: Style, lines: io.StringIO) -> None:
    """And what it came to, in numbers."""
    with configure_logging(style, "info", lines):
        async with served() as at:
            answer = await at.client.post(PATH, json=ASK)
            assert (await at.client.get("/health")).status_code == 200
    line = next(line for line in lines.getvalue().splitlines() if PATH in line)
    assert answer.headers["x-request-id"] in line
    assert '"/health"' not in lines.getvalue().replace("'", '"')  # asked every few seconds: only at the level debug
    if style == "json":
        said = json.loads(line)
        assert (said["event"], said["level"], said["model"], said["status"]) == ("request", "info", "tiny", 200)
        assert (said["generated_tokens"], said["finish_reason"]) == (4, "length")
        assert said["timestamp"].endswith("Z")
    else:
        assert "\x1b" not in line  # no colours where it is no terminal


@pytest.mark.anyio
async def test_a_line_says_how_often_its_model_crashed(lines: io.StringIO) -> None:
    """Of a request that went on; others say nothing of it."""
    ask = ASK | {"max_tokens": 200, "ignore_eos": True}
    with configure_logging("json", "info", lines):
        async with served(make=in_step()) as at:
            asking = asyncio.create_task(at.client.post(PATH, json=ask))
            await until(lambda: at.model.phase == "generating")
            at.model.inject_fault("actor")
            assert (await asking).status_code == 200
            await at.client.post(PATH, json=ASK)
    said = [one for one in map(json.loads, lines.getvalue().splitlines()) if one["event"] == "request"]
    assert [(one["status"], one.get("crashes")) for one in said] == [(200, 1), (200, None)]


class Listening(Unmeasured):
    """Sees what is bound to what is logged while a request is at work."""

    def __init__(self) -> None:
        self.bound: dict[str, Any] = {}

    def first(self, model: str, seconds: float) -> None:
        self.bound = structlog.contextvars.get_contextvars()


@pytest.mark.anyio
async def test_what_the_library_logs_for_a_request_has_its_id() -> None:
    """And its model, by context variables, which end with the request."""
    meters = Listening()
    async with served(meters=meters) as at:
        for stream in (False, True):
            answer = await at.client.post(PATH, json=ASK | {"stream": stream})
            assert meters.bound == {"request_id": answer.headers["x-request-id"], "model": "tiny"}
            assert structlog.contextvars.get_contextvars() == {}


def test_records_of_others_are_lines_too(lines: io.StringIO) -> None:
    """Of uvicorn's, for instance, with their tracebacks in the same line."""
    with configure_logging("json", "info", lines):
        logging.getLogger("uvicorn.error").warning("no %s", "socket")
        try:
            raise ValueError("it is")
        except ValueError:
            structlog.get_logger("erllama_py").error("bad", value={1, 2}.__class__, exc_info=True)
        logging.getLogger("erllama_py.llama_cpp").info("llama_model_loader: 290 tensors")
    first, second = map(json.loads, lines.getvalue().splitlines())
    assert (first["event"], first["logger"], first["level"]) == ("no socket", "uvicorn.error", "warning")
    assert second["value"] == "<class 'set'>"
    assert "ValueError: it is" in second["exception"]


@pytest.mark.anyio
async def test_what_is_refused_at_the_door_is_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """With its id and the reason, and without the name that it asked for."""
    caplog.set_level(logging.INFO)
    async with served(access=AccessOpts()) as at:
        answer = await at.client.get("/v1/models", headers={"host": "evil.example"})
    (record,) = [record for record in caplog.records if record.getMessage().startswith("refused")]
    known: Any = record
    assert known.erllama["why"] == answer.json()["error"]["code"] == "unknown_host"
    assert known.erllama["request_id"] == answer.headers["x-request-id"]
    assert "evil" not in record.getMessage()


@pytest.mark.slow
@pytest.mark.anyio
async def test_a_crash_is_logged_once_and_not_for_each_request(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request that fails with it has its name, and no traceback; nor has one that is refused."""
    monkeypatch.setattr("erllama_py.tree.MODEL_LIMITS", erllama.RestartLimits(intensity=0))
    caplog.set_level(logging.INFO)
    async with served({"stub": {"seconds_per_token": 0.02}, "scheduler": {"max_pending": 1}}) as at:
        ask = ASK | {"max_tokens": 1000, "ignore_eos": True}  # longer than the test: a thread that hangs would stay
        asking = [asyncio.create_task(at.client.post(PATH, json=ask)) for _ in range(8)]
        await until(lambda: at.model.counters.refused >= 3)
        at.model.inject_fault()
        statuses = Counter([(await one).status_code for one in asking])
    assert set(statuses) == {429, 503}
    mine: list[Any] = [record for record in caplog.records if record.name == "erllama_py.http"]
    assert not any(record.exc_info for record in mine)
    assert len(mine) == 8
    assert {record.erllama.get("error") for record in mine if record.erllama["status"] == 503} == {"ModelCrashed"}


class Stuck(io.StringIO):
    """Somebody who does not read."""

    def __init__(self) -> None:
        super().__init__()
        self.free = threading.Event()

    def write(self, text: str) -> int:
        self.free.wait()
        return super().write(text)


def test_a_reader_that_is_stuck_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines beyond a bound are dropped, and counted."""
    monkeypatch.setattr(module, "MOST_LINES", 100)
    stream = Stuck()
    logs: Logs = configure_logging("json", "info", stream)
    log = logging.getLogger("x")
    for number in range(110):
        log.info("line %d", number)
    assert 5 <= logs.dropped <= 10
    stream.free.set()
    logs.close()
    logs.close()
    assert stream.getvalue().count("\n") == 110 - logs.dropped
