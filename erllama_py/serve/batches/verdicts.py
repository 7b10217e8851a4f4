"""What becomes of a line by what its endpoint has answered: done, failed, or asked again later. Pure."""

from __future__ import annotations

from typing import Literal

import msgspec

# Of a server that is full, a model that is being loaded, a conversation with a turn under way.
LATER = frozenset((408, 409, 429, 503))
MOST_CRASHES = 3
"""A line that was being computed at so many crashes of its model may be their cause."""
MOST_SECONDS = 30.0
"""After so long a line is tried again at the latest, unless its answer names a later time."""


class Verdict(msgspec.Struct, frozen=True):
    """What is to be done with a line."""

    outcome: Literal["done", "failed", "again"]
    seconds: float = 0.0
    """After so long it is asked again."""


def verdict(status: int, code: str | None, retry_after: float | None, tries: int, crashes: int) -> Verdict:
    """By the answer's status, its error's `code`, and its `Retry-After`, after the `tries`-th try of a line.

    Only what names a time is tried again: a server says none where the same request cannot go well. `crashes` are the
    answers to this line, this one among them, that tell of a crash of its model.
    """
    if 200 <= status < 300:
        return Verdict("done")
    if status not in LATER or retry_after is None or (code == "model_crashed" and crashes >= MOST_CRASHES):
        return Verdict("failed")
    patience = min(MOST_SECONDS, 2.0 ** min(tries - 1, 10))
    return Verdict("again", max(retry_after, patience))
