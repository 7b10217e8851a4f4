"""The log of a server: one line a request, with ids and counts and none of its text."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from erllama_py.watch.log import get_logger

NAME = "erllama_py.http"


def log_request(
    api: str, request_id: str, route: str, status: int, seconds: float, facts: Mapping[str, Any], *, quiet: bool = False
) -> None:
    """A request is over. `quiet`: one of many that tell nothing, as those for `/health`."""
    known = {"api": api, "request_id": request_id, "route": route, "status": status, "seconds": round(seconds, 4)}
    get_logger(NAME).log(logging.DEBUG if quiet else logging.INFO, "request", **known, **facts)


def log_refusal(api: str, request_id: str, status: int, why: str | None) -> None:
    """A request was turned away before an endpoint saw it. `why` is a word of ours, not of its client."""
    get_logger(NAME).info("refused", api=api, request_id=request_id, status=status, why=why)


def log_failure(request_id: str, route: str, error: BaseException) -> None:
    """A request failed inside the server."""
    get_logger(NAME).error("a request failed", request_id=request_id, route=route, exc_info=error)
