"""What the endpoints of files and batches take, and what they show. Source: OpenAI's API reference."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal, Protocol, TypeVar

import msgspec
from msgspec import Meta

from erllama_py.serve.batches.journal import ENDED, State
from erllama_py.serve.core.api import Api
from erllama_py.serve.core.errors import error_body
from erllama_py.serve.core.exchange import Exchange
from erllama_py.serve.core.problems import Problem

ItemT = TypeVar("ItemT", bound="Item")
API = Api("openai", error_body)
_WINDOW = re.compile(r"^([1-9]\d{0,3})([hd])$")
_HOURS = {"h": 1, "d": 24}
MOST_HOURS = 30 * 24


class ExpiresAfter(msgspec.Struct, frozen=True, kw_only=True):
    """How long a file is kept after it has come."""

    anchor: Literal["created_at"]
    seconds: Annotated[int, Meta(ge=3600, le=30 * 86_400)]


class BatchRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What a batch is made of."""

    input_file_id: Annotated[str, Meta(max_length=128)]
    endpoint: Annotated[str, Meta(max_length=128)]
    completion_window: Annotated[str, Meta(max_length=8)]
    metadata: (
        Annotated[dict[Annotated[str, Meta(max_length=64)], Annotated[str, Meta(max_length=512)]], Meta(max_length=16)]
        | None
    ) = None
    output_expires_after: ExpiresAfter | None = None


def window_seconds(window: str) -> int:
    """How long a batch may take: `"24h"`, `"7d"`. Raises `Problem`."""
    found = _WINDOW.match(window)
    hours = int(found[1]) * _HOURS[found[2]] if found else 0
    if not 1 <= hours <= MOST_HOURS:
        message = "completion_window: expected hours or days, such as 24h or 7d, and 30 days at most"
        raise Problem("invalid", message, param="completion_window")
    return hours * 3600


def shown(batch_id: str, state: State, completed: int, failed: int) -> dict[str, Any]:
    """A batch as clients see it. The counts are those of the moment."""
    created, ended = state.created, state.ended_at
    if state.over:
        completed, failed = state.completed, state.failed
    errors = [msgspec.structs.asdict(one) for one in state.problems]
    return {
        "id": batch_id, "object": "batch", "endpoint": created.endpoint, "input_file_id": created.input_file_id,
        "model": state.models[0] if len(state.models) == 1 else None,
        "completion_window": created.completion_window, "status": state.status,
        "errors": {"object": "list", "data": errors} if errors else None,
        "output_file_id": created.output_file_id if state.over and completed else None,
        "error_file_id": created.error_file_id if state.over and failed else None,
        "created_at": created.at, "expires_at": created.expires_at, "in_progress_at": state.in_progress_at,
        "finalizing_at": state.finalizing_at, "cancelling_at": state.cancelling_at,
        **{f"{one}_at": ended if state.status == one else None for one in sorted(ENDED)},
        "request_counts": {"total": state.total, "completed": completed, "failed": failed},
        "metadata": created.metadata,
    }  # fmt: skip


class Item(Protocol):
    """What is listed."""

    @property
    def id(self) -> str:
        """By which a page goes on after it."""


def page(
    items: Sequence[ItemT], exchange: Exchange, shown_as: Callable[[ItemT], Any], *, limit: int, most: int
) -> dict[str, Any]:
    """A part of a list, the oldest first, as `limit`, `order` and `after` ask for it. What is not on the page costs
    next to nothing.

    Raises `Problem`.
    """
    asked = exchange.request.query_params
    said, order, after = asked.get("limit", str(limit)), asked.get("order", "desc"), asked.get("after")
    if not (said.isdecimal() and len(said) < 6 and 1 <= int(said) <= most):
        raise Problem("invalid", f"limit: expected 1 to {most}", param="limit")
    if order not in ("asc", "desc"):
        raise Problem("invalid", "order: expected asc or desc", param="order")
    items = items[::-1] if order == "desc" else items
    if after is not None:
        at = next((at for at, one in enumerate(items) if one.id == after), None)
        if at is None:
            raise Problem("invalid", "after: nothing in this list has this id", param="after")
        items = items[at + 1 :]
    data = items[: int(said)]
    return {
        "object": "list", "data": [shown_as(one) for one in data], "has_more": len(items) > len(data),
        "first_id": data[0].id if data else None, "last_id": data[-1].id if data else None,
    }  # fmt: skip
