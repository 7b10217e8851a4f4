"""Which children a failure affects. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

Strategy = Literal["one_for_one", "one_for_all", "rest_for_one"]


def affected_children(strategy: Strategy, order: Sequence[str], failed: str) -> tuple[str, ...]:
    """The children, in start order, that are stopped and restarted when `failed` fails; itself included.

    `order` is the start order: what comes later may rest on what comes earlier, never the other way round.
    """
    if strategy == "one_for_one":
        return (failed,)
    if strategy == "one_for_all":
        return tuple(order)
    return tuple(order[order.index(failed) :])
