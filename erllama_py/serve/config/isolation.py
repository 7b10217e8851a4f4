"""Where engines run whose own tables do not say: what `[server]` says of all models."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import erllama_py as erllama
from erllama_py.serve.core.settings import ServerOpts


def default_isolation(
    platform: str = sys.platform, frozen: bool = hasattr(sys, "frozen")
) -> Literal["thread", "process"]:
    """Where engines of a server run unless anybody says: a server is there for others, whom a crash is not to reach.
    A frozen application has no interpreter to begin a process with."""
    return "process" if platform == "linux" and not frozen else "thread"


def with_isolation(table: Mapping[str, Any], server: ServerOpts) -> dict[str, Any]:
    """The options of a model, with those of the server that it does not have itself. A spare is for a process alone."""
    options = dict(table)
    options.setdefault("isolation", server.isolation or default_isolation())
    if server.spare and options.get("isolation") == "process":
        options.setdefault("spare", True)
    return options


def check_spare(server: ServerOpts, models: Iterable[Mapping[str, Any]]) -> None:
    """Refuse a spare process for models none of which, by its options, runs in a process. Raises `InvalidOption`."""
    if server.spare and not any(options.get("isolation") == "process" for options in models):
        raise erllama.InvalidOption("server.spare", "a spare process is for models with isolation = 'process'")
