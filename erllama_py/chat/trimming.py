"""Conversations made shorter by their oldest turns. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_STANDING = ("system", "developer")  # what stands at the beginning of a conversation and is kept


def turns_of(messages: Sequence[Mapping[str, Any]]) -> int:
    """How many turns a conversation has: each begins with a user's message, and has the calls and results in it."""
    return len(_starts(messages))


def trimmed(messages: Sequence[Mapping[str, Any]], turns: int) -> list[Mapping[str, Any]]:
    """The conversation with its last `turns` turns, and with what stands at its beginning."""
    starts = _starts(messages)
    if turns >= len(starts):
        return list(messages)
    standing = _standing(messages)
    return [*messages[:standing], *messages[starts[-turns] :]] if turns else list(messages[:standing])


def place_after(place: int, messages: Sequence[Mapping[str, Any]], kept: int) -> int | None:
    """Where the message at a place is among the `kept` ones that were left of its conversation; None: it is dropped."""
    standing, dropped = _standing(messages), len(messages) - kept
    if place < standing:
        return place
    return place - dropped if place >= standing + dropped else None


def _standing(messages: Sequence[Mapping[str, Any]]) -> int:
    """How many messages stand at the beginning."""
    return next((at for at, one in enumerate(messages) if one.get("role") not in _STANDING), len(messages))


def _starts(messages: Sequence[Mapping[str, Any]]) -> list[int]:
    """Where turns begin: at a user's message that follows none, since several may be one question."""
    return [
        at
        for at, one in enumerate(messages)
        if one.get("role") == "user" and (at == 0 or messages[at - 1].get("role") != "user")
    ]
