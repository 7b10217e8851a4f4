"""How an API says what all of them have to say: errors, and values as JSON."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from starlette.responses import Response

from erllama_py.serve.core.problems import STATUS, Kind, Problem, problem_of

JSON = "application/json"


class Api(msgspec.Struct, frozen=True):
    """How one API says what all of them have to say."""

    name: str
    error: Callable[[Problem, str], Any]
    """The body of an error, and of its request's id."""
    params: Mapping[str, str] = {}
    """What it calls options that this library calls otherwise, for errors: `{"response_tokens": "max_tokens"}`."""
    id_header: bytes = b"x-request-id"
    """The header that tells a client the id of its request."""
    statuses: Mapping[Kind, int] = {}
    """Where its clients expect another status than `STATUS` has."""

    def problem(self, error: BaseException) -> Problem:
        """An error in words that its client knows."""
        problem = problem_of(error)
        if problem.status == STATUS[problem.kind]:
            problem.status = self.statuses.get(problem.kind, problem.status)
        if problem.param is not None:
            first, dot, rest = problem.param.partition(".")
            problem.param = self.params.get(first, first) + dot + rest
        return problem

    def failure(self, error: BaseException, request_id: str) -> Response:
        """The response to a request that fails."""
        problem = self.problem(error)
        headers = {self.id_header.decode(): request_id}
        if problem.retry_after is not None:
            headers["retry-after"] = str(problem.retry_after)
        if problem.status == 408:  # the rest of the body is not waited for
            headers["connection"] = "close"
        return json_response(self.error(problem, request_id), problem.status, headers)


_encode = msgspec.json.Encoder().encode


def json_response(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A struct, or plain values, as JSON."""
    return Response(_encode(value), status, headers, media_type=JSON)


def new_id() -> str:
    """The id of a request, which its client and the log get."""
    return f"req_{uuid.uuid4().hex}"
