"""Spans of requests over HTTP: one each, with its route and status, and its model's below it."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import pytest
from helpers.demand import config, demanded, stub
from helpers.in_step import in_step
from helpers.runtime import slow_stub, until
from helpers.served import events, served
from helpers.traces import Spans, attributes, traced
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind, StatusCode
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import erllama_py as erllama
from erllama_py.serve.app import create_app
from erllama_py.serve.operations.logs import configure_logging
from erllama_py.serve.operations.tracing import Traces, described, failure, is_looked_at, method_of

CANARY = "heron-of-Lindau"
PATH = "/v1/chat/completions"
ROUTE = f"POST {PATH}"
ASK: dict[str, Any] = {
    "model": "tiny", "messages": [{"role": "user", "content": CANARY}], "max_tokens": 4, "temperature": 0,
}  # fmt: skip
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def root(spans: Spans) -> ReadableSpan:
    """The span of the only request."""
    (found,) = spans.below(None)
    return found


@pytest.mark.anyio
@pytest.mark.parametrize("stream", [False, True])
async def test_a_request_has_a_span_with_its_route_and_its_models_below_it(stream: bool) -> None:
    """A stream's lasts until its last byte, after that of its model."""
    with traced() as spans:
        async with served() as at:
            answer = await at.client.post(PATH, json=ASK | {"stream": stream})
    span = root(spans)
    assert [name for name, _ in spans.tree(span)] == ["chat tiny"]
    known = attributes(span)
    assert (span.name, span.kind, span.status.status_code) == (ROUTE, SpanKind.SERVER, StatusCode.UNSET)
    assert known["http.request.method"] == "POST"
    assert known["http.route"] == PATH
    assert known["http.response.status_code"] == 200
    assert known["url.scheme"] == "http"
    assert known["erllama.api"] == "openai"
    assert known["erllama.request_id"] == answer.headers["x-request-id"]
    assert known["gen_ai.request.model"] == "tiny"
    assert (spans.one("chat tiny").end_time or 0) <= (span.end_time or 0)


@pytest.mark.anyio
async def test_the_traceparent_of_a_request_is_honoured() -> None:
    """Its trace goes on, and what its caller does not sample is not."""
    with traced() as spans:
        async with served() as at:
            await at.client.post(PATH, json=ASK, headers={"traceparent": PARENT, "tracestate": "a=b"})
            await at.client.post(PATH, json=ASK, headers={"traceparent": "00-nonsense-01"})
    first, second = spans.below(None)
    assert first.context is not None
    assert first.parent is not None
    assert f"{first.context.trace_id:032x}" == PARENT.split("-")[1]
    assert f"{first.parent.span_id:016x}" == PARENT.split("-")[2]
    assert first.context.trace_state.get("a") == "b"
    assert second.parent is None
    model = spans.below(first)[0]
    assert model.context is not None
    assert model.context.trace_id == first.context.trace_id


@pytest.mark.anyio
async def test_errors_of_clients_are_none_and_those_of_the_server_are() -> None:
    """Each with its status; what is not there has no route, and no span holds a path."""
    with traced() as spans:
        async with served() as at:
            await at.client.post(PATH, json={})
            await at.client.post(f"/{CANARY}?q={CANARY}", json=ASK)
            await at.client.get(f"/v1/models/{CANARY}")
            await at.client.post(PATH, json=ASK | {"model": CANARY})
            await at.client.request("BREW", PATH)
            await at.client.get(PATH, headers={"host": "evil.example"})
            await at.model.unload()
            await at.client.post(PATH, json=ASK)
            await at.runtime.__aexit__(None, None, None)
            await at.client.post(PATH, json=ASK)
    told = [(one.name, attributes(one).get("http.response.status_code"), one.status.status_code.name) for one in
            spans.below(None)]  # fmt: skip
    assert told == [
        (ROUTE, 400, "UNSET"), ("POST", 404, "UNSET"), ("GET /v1/models/{name:path}", 404, "UNSET"),
        (ROUTE, 404, "UNSET"), (f"_OTHER {PATH}", 405, "UNSET"), ("GET", 403, "UNSET"), (ROUTE, 404, "UNSET"),
        (ROUTE, 503, "ERROR"),
    ]  # fmt: skip
    assert attributes(spans.below(None)[-1])["error.type"] == "RuntimeClosed"
    assert CANARY not in spans.text()


LONG = ASK | {"max_tokens": 1_500, "ignore_eos": True, "stream": True}


@pytest.mark.anyio
async def test_a_stream_whose_model_is_given_up_is_an_error_although_its_status_was_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By the class of the error, on both spans."""
    monkeypatch.setattr("erllama_py.tree.MODEL_LIMITS", erllama.RestartLimits(intensity=0))
    with traced() as spans:
        async with served(make=in_step()) as at:
            said = (await _ask(at.app, LONG, at_first=at.model.inject_fault)).decode()
    assert "error" in events(said)[-1]
    for span in (root(spans), spans.one("chat tiny")):
        assert (attributes(span)["error.type"], span.status.status_code) == ("ModelCrashed", StatusCode.ERROR)
    assert attributes(root(spans))["http.response.status_code"] == 200


@pytest.mark.anyio
async def test_a_client_that_leaves_its_stream_ends_its_spans() -> None:
    """Once, without an error: nobody has made a mistake. What was computed for it is counted."""
    gone = asyncio.Event()
    with traced() as spans:
        async with served(make=in_step()) as at:
            await _ask(at.app, LONG, gone, at_first=gone.set)
    span, below = root(spans), spans.one("chat tiny")
    assert attributes(span)["erllama.client_left"] is True
    assert attributes(span)["http.response.status_code"] == 200
    assert attributes(below)["gen_ai.response.finish_reasons"] == ("cancelled",)
    assert attributes(below)["gen_ai.usage.output_tokens"] > 0
    assert {one.status.status_code for one in (span, below)} == {StatusCode.UNSET}


@pytest.mark.anyio
async def test_the_span_of_a_stream_that_is_to_be_taken_up_lasts_as_long_as_its_request() -> None:
    """Its client has left: it says what the request came to, and its calls lie within it."""
    gone = asyncio.Event()
    with traced() as spans:
        async with served(make=in_step()) as at:
            body = LONG | {"max_tokens": 100}
            await _ask(at.app, body, gone, at_first=gone.set, headers=[(b"x-conversation-id", b"a")])
            assert not [span for span in spans.all() if span.name == ROUTE]
            await until(lambda: not at.app.service.lasting.tasks)
            await at.client.get("/v1/stream/a")
    span, call = spans.one(ROUTE), spans.one("chat tiny")
    assert attributes(span)["erllama.finish_reason"] == "length"
    assert (span.end_time or 0) >= (call.end_time or 0)
    assert spans.below(span) == [call]
    assert spans.one("GET /v1/stream/{conversation_id:path}").parent is None


@pytest.mark.anyio
@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_before_an_answer_has_seen_no_status(stream: bool) -> None:
    """While its request waits, or its prompt is read."""
    with traced() as spans:
        async with slow_stub() as (runtime, model, gate):
            gone = asyncio.Event()
            asked = asyncio.ensure_future(_ask(create_app(runtime), ASK | {"model": "slow", "stream": stream}, gone))
            await until(lambda: model.queue_depth == 1)
            gone.set()
            await until(lambda: model.queue_depth == 0)
            gate.set()
            await asked
    span, below = root(spans), spans.one("chat slow")
    assert attributes(span)["erllama.client_left"] is True
    assert "http.response.status_code" not in attributes(span)
    assert attributes(below)["gen_ai.response.finish_reasons"] == ("cancelled",)
    assert {one.status.status_code for one in (span, below)} == {StatusCode.UNSET}


async def _ask(
    app: ASGIApp, body: dict[str, Any], gone: asyncio.Event | None = None, at_first: Callable[[], object] | None = None,
    headers: Sequence[tuple[bytes, bytes]] = (),
) -> bytes:  # fmt: skip
    """The body of an answer, to a client that leaves when it is `gone`; `at_first` is called at its first piece."""
    leave, said = gone or asyncio.Event(), bytearray()
    sent = iter([{"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}])

    async def receive() -> Message:
        if (message := next(sent, None)) is not None:
            return message
        await leave.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        if not said and message.get("body") and at_first is not None:
            at_first()
        said.extend(message.get("body", b""))

    scope: Scope = {
        "type": "http", "method": "POST", "path": PATH, "raw_path": PATH.encode(), "query_string": b"",
        "headers": [(b"host", b"localhost"), (b"content-type", b"application/json"), *headers],
        "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80), "scheme": "http", "root_path": "",
        "http_version": "1.1",
    }  # fmt: skip
    await app(scope, receive, send)
    return bytes(said)


@pytest.mark.anyio
async def test_what_only_looks_at_the_server_has_no_spans() -> None:
    """Scrapes, health checks and pages come every few seconds."""
    with traced() as spans:
        async with served() as at:
            for path in (
                "/",
                "/health",
                "/health/live",
                "/metrics",
                "/erllama/tree",
                "/erllama/cache",
                "/openapi.json",
            ):
                assert (await at.client.get(path)).status_code == 200
    assert spans.all() == []


@pytest.mark.parametrize(
    ("method", "path", "looks"),
    [
        ("GET", "/", True), ("HEAD", "/", True), ("GET", "/erllama/live", True), ("POST", "/erllama/reload", False),
        ("GET", "/v1/models", False), ("POST", "/", False), ("GET", "/erllama", False),
    ],
)  # fmt: skip
def test_what_looks_and_what_asks(method: str, path: str, looks: bool) -> None:
    """What changes something is traced."""
    assert is_looked_at(method, path) is looks


@pytest.mark.anyio
async def test_in_a_host_that_makes_spans_itself_there_is_no_second_span_of_a_server() -> None:
    """The application's is an internal one below the host's, whatever the request says."""

    class Host:
        def __init__(self, app: ASGIApp) -> None:
            self.app = app

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            with trace.get_tracer("host").start_as_current_span("host", kind=SpanKind.SERVER):
                await self.app(scope, receive, send)

    with traced() as spans:
        async with served() as at:
            host = Starlette(routes=[Mount("/llm", at.app)])
            at.client._transport.app = Host(host)  # type: ignore[attr-defined]  # httpx's, over an application
            await at.client.post(f"/llm{PATH}", json=ASK, headers={"traceparent": PARENT})
            await at.client.get("/llm/health")
    first, second = spans.below(None)
    assert [(one.name, one.kind) for one in spans.below(first)] == [(ROUTE, SpanKind.INTERNAL)]
    assert spans.below(second) == []


@pytest.mark.anyio
async def test_lines_of_the_log_name_their_trace() -> None:
    """With the ids as traces show them; without a span there are none."""
    lines = io.StringIO()
    with configure_logging("json", "info", lines):
        async with served() as at:
            await at.client.post(PATH, json=ASK)
            with traced() as spans:
                await at.client.post(PATH, json=ASK)
    said = [json.loads(line) for line in lines.getvalue().splitlines()]
    before, inside = [line for line in said if line["event"] == "request"]
    context = root(spans).context
    assert context is not None
    assert (inside["trace_id"], inside["span_id"]) == (f"{context.trace_id:032x}", f"{context.span_id:016x}")
    assert not {"trace_id", "span_id"} & set(before)


@pytest.mark.parametrize(
    ("status", "facts", "kind"),
    [
        (200, {}, None), (404, {}, None), (499, {}, None), (503, {}, "503"), (None, {}, None),
        (200, {"error": "ModelCrashed"}, "ModelCrashed"), (500, {"error": "KeyError"}, "KeyError"),
    ],
)  # fmt: skip
def test_what_counts_as_an_error(status: int | None, facts: dict[str, Any], kind: str | None) -> None:
    """As the conventions have it for servers: their own, and not a client's."""
    assert failure(status, facts) == kind


def test_of_what_the_log_knows_words_and_ids_are_attributes() -> None:
    """What is not listed is left out, so a new fact of the log never gets into traces by itself."""
    facts = {"api": "openai", "model": "m", "prompt_tokens": 3, "text": CANARY, "status": 499}
    assert described(facts) == {"erllama.api": "openai", "gen_ai.request.model": "m", "erllama.client_left": True}


def test_methods_are_those_that_are_known() -> None:
    """A client may write anything."""
    assert method_of({"method": "POST"}) == "POST"
    assert method_of({"method": CANARY}) == "_OTHER"
    assert method_of({"type": "websocket"}) == "GET"


@pytest.mark.anyio
async def test_what_a_request_waits_for_a_model_on_demand_is_a_span() -> None:
    """Of the first one; the next one finds it there."""
    with traced() as spans:
        async with demanded(config(stub("tiny"))) as at:
            for _ in range(2):
                assert (await at.chat("tiny", CANARY)).status_code == 200
    first, second = spans.below(None)
    assert [name for name, _ in spans.tree(first)] == ["erllama.load", "chat tiny"]
    assert [name for name, _ in spans.tree(second)] == ["chat tiny"]
    assert attributes(spans.one("erllama.load"))["gen_ai.request.model"] == "tiny"


@pytest.mark.anyio
async def test_a_websocket_has_one_span_as_long_as_it_is_open() -> None:
    """It begins as a `GET`, whose status is that of the change of protocols; one that is refused has the refusal's."""

    async def accepts(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": CANARY})

    async def refuses(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "websocket.http.response.start", "status": 403, "headers": []})

    async def ignore(message: Message) -> None:
        assert message

    async def nothing() -> Message:
        return {"type": "websocket.connect"}

    scope: Scope = {
        "type": "websocket",
        "path": f"/{CANARY}",
        "headers": [(b"traceparent", PARENT.encode())],
        "scheme": "ws",
    }
    with traced() as spans:
        for app in (accepts, refuses):
            await Traces(app)(dict(scope), nothing, ignore)
    told = [(one.name, one.kind, attributes(one)["http.response.status_code"]) for one in spans.below(None)]
    assert told == [("GET", SpanKind.SERVER, 101), ("GET", SpanKind.SERVER, 403)]
    assert {attributes(one)["url.scheme"] for one in spans.all()} == {"ws"}
    assert CANARY not in spans.text()


@pytest.mark.anyio
async def test_what_an_application_raises_is_an_error_of_its_span() -> None:
    """By its class; the span ends all the same."""

    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        raise LookupError(CANARY)

    with traced() as spans, suppress(LookupError):
        await _ask(Traces(broken), {})
    assert (attributes(root(spans))["error.type"], root(spans).status.status_code) == ("LookupError", StatusCode.ERROR)
    assert CANARY not in spans.text()
