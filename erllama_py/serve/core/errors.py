"""The body of an error in the form of OpenAI's API reference, which other servers have taken over."""

from __future__ import annotations

from typing import Any

from erllama_py.serve.core.problems import Kind, Problem

TYPES: dict[Kind, str] = {
    "invalid": "invalid_request_error", "too_large": "invalid_request_error", "not_found": "invalid_request_error",
    "conflict": "invalid_request_error", "unauthenticated": "authentication_error", "forbidden": "permission_error",
    "rate_limited": "rate_limit_error", "overloaded": "rate_limit_error", "unavailable": "service_unavailable_error",
    "internal": "server_error",
}  # fmt: skip


def error_body(problem: Problem, request_id: str = "") -> dict[str, Any]:
    """What was wrong, in `message`; where, in `param`; and two words for programs."""
    return {
        "error": {
            "message": problem.message, "type": TYPES[problem.kind], "param": problem.param, "code": problem.code,
        }
    }  # fmt: skip
