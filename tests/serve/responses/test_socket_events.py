"""What clients send over a WebSocket, read without making values of what may be of any size."""

from __future__ import annotations

import json
import tracemalloc

import pytest

from erllama_py.serve.core.problems import Problem
from erllama_py.serve.core.taking_up import streams
from erllama_py.serve.responses.socket_events import Cancel, Create, read_event

LISTS = b"[" + b"[]," * 200_000 + b"[]]"


def test_what_a_request_is_asked_for() -> None:
    """The fields of a request, the last one of a name, as a stream."""
    read = read_event(b' {"type":"response.create", "input": "x", "generate":false, "stream": false, "input": "y"} \n')
    assert isinstance(read, Create)
    assert not read.generate
    body = json.loads(read.body)
    assert (body["input"], body["stream"]) == ("y", True)
    assert read_event(b'{"type": "response.cancel", "response_id": "resp_\\u0030"}') == Cancel("resp_0")
    assert read_event(b'{"type": "response.cancel", "response_id": ["resp_0"]}') == Cancel(None)


@pytest.mark.parametrize(
    "field", ["type", "generate", "stream_id", "background", "response_id", "previous_response_id", "other"]
)
def test_huge_values_are_not_made(field: str) -> None:
    """One of eight megabytes would hold the event loop for seconds."""
    kind = b"" if field == "type" else b'"type": "response.create", '
    message = b'{%s"%s": %s}' % (kind, field.encode(), LISTS)
    tracemalloc.start()
    try:
        said = _said(message)
        assert streams(b'{"stream": %s}' % LISTS) is False
        assert tracemalloc.get_traced_memory()[1] < 6 * len(message)  # lists would take twenty times as much
    finally:
        tracemalloc.stop()
    assert len(said) < 200


def _said(message: bytes) -> str:
    try:
        read_event(message)
    except Problem as problem:
        return problem.message
    return ""
