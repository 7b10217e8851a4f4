"""How a server ends: asked by a signal, hurried by a second one, whatever it is doing."""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from helpers.server_process import Child, child

pytestmark = pytest.mark.slow
CHAT = "/v1/chat/completions"
ASK: dict[str, Any] = {
    "model": "tiny", "messages": [{"role": "user", "content": "hello"}], "temperature": 0, "ignore_eos": True,
}  # fmt: skip
STREAM = {"stream": True, "stream_options": {"include_usage": True}}


def events(lines: Iterator[str]) -> Iterator[Any]:
    """The data of server-sent events."""
    for line in lines:
        if line.startswith("data: "):
            data = line.removeprefix("data: ")
            yield data if data == "[DONE]" else json.loads(data)


def usage(events: list[Any]) -> Any:
    """The counts at the end of a stream."""
    assert events[-1] == "[DONE]"
    return events[-2]["usage"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_server(tmp_path: Path, number: signal.Signals) -> None:
    """By itself, with 0, and with nothing to complain of."""
    with child(tmp_path) as server:
        server.ready()
        assert server.client.post(CHAT, json=ASK | {"max_tokens": 4}).status_code == 200
        server.tell(number)
        assert server.wait() == 0
        assert server.complaints() == ""


def test_what_is_open_may_end(tmp_path: Path) -> None:
    """New requests are told to come again, and a probe that it ends; a stream comes to its own end."""
    with child(tmp_path) as server:
        server.ready()
        server.hold()
        with server.client.stream("POST", CHAT, json=ASK | STREAM | {"max_tokens": 100}) as answer:
            coming = events(answer.iter_lines())
            next(coming)
            server.tell()
            health = _once_draining(server)
            assert health.json()["status"] == "draining"
            late = httpx.post(server.url + CHAT, json=ASK, timeout=30)
            assert late.status_code == 503
            assert int(late.headers["retry-after"]) > 0
            assert late.json()["error"]["code"] == "shutting_down"
            server.go_on()
            assert usage(list(coming))["completion_tokens"] == 100
        assert server.wait() == 0


def _once_draining(server: Child) -> httpx.Response:
    while (health := httpx.get(server.url + "/health", timeout=30)).status_code == 200:
        pass
    return health


def test_a_second_signal_hurries(tmp_path: Path) -> None:
    """A stream ends with what it has, as a stream ends; a whole answer is told to come again."""
    with child(tmp_path) as server:
        server.ready()
        server.hold()
        with server.client.stream("POST", CHAT, json=ASK | STREAM | {"max_tokens": 3000}) as answer:
            coming = events(answer.iter_lines())
            next(coming)
            server.tell()
            _once_draining(server)
            server.tell(signal.SIGINT)
            assert usage(list(coming))["completion_tokens"] < 3000
        assert server.wait() == 0
        assert server.complaints() == ""


def test_the_time_to_drain_is_kept(tmp_path: Path) -> None:
    """After it a stream ends as if hurried."""
    with child(tmp_path, server={"port": 0, "drain_seconds": 0.2}) as server:
        server.ready()
        server.hold()
        with server.client.stream("POST", CHAT, json=ASK | STREAM | {"max_tokens": 3000}) as answer:
            coming = events(answer.iter_lines())
            next(coming)
            server.tell()
            assert usage(list(coming))["completion_tokens"] < 3000
        assert server.wait() == 0


def test_a_server_answers_while_it_loads(tmp_path: Path) -> None:
    """That it is not ready; and ends at once when it is told to."""
    with child(tmp_path, model={"stub": {"load_seconds": 600.0}}) as server:
        answer = server.client.post(CHAT, json=ASK)
        assert answer.status_code == 503
        assert answer.headers["retry-after"]
        assert server.client.get("/health").status_code == 503
        server.tell()
        assert server.wait() == 0
        assert server.complaints() == ""


def test_a_model_that_cannot_be_loaded_ends_the_server(tmp_path: Path) -> None:
    """With one line, and 1."""
    with child(tmp_path, model={"stub": {"fail_load": True}}) as server:
        assert server.wait() == 1
        complaint = server.complaints()
        assert complaint.startswith("erllama: ")
        assert complaint.count("\n") == 1


def test_an_engine_that_hangs_does_not_hold_it_up(tmp_path: Path) -> None:
    """Not when it is hurried."""
    with child(tmp_path, model={"stub": {"hang_decode_after": 1}}) as server:
        server.ready()
        with server.client.stream("POST", CHAT, json=ASK | STREAM | {"max_tokens": 100}) as answer:
            next(answer.iter_lines())
            server.tell()
            _once_draining(server)
            server.tell()
            assert server.wait() == 0


def test_a_client_that_does_not_read_does_not_hold_it_up(tmp_path: Path) -> None:
    """Nor one that never ends its body."""
    with child(tmp_path, server={"port": 0, "drain_seconds": 0.2}) as server:
        server.ready()
        url = httpx.URL(server.url)
        head = f"POST {CHAT} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100000\r\n\r\n{{"
        with socket.create_connection((url.host, url.port or 80)) as half:
            half.sendall(head.encode())
            body = json.dumps(ASK | STREAM | {"max_tokens": 3000, "n": 4}).encode()
            with socket.create_connection((url.host, url.port or 80)) as deaf:
                deaf.sendall(head.replace("100000", str(len(body)))[:-1].encode() + body)
                deaf.recv(1)
                server.tell()
                assert server.wait() == 0
