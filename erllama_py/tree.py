"""The supervision tree as data: who is in it, in what order, restarted how.

`TREE` is the whole of it. `build` makes supervisors of it, `describe` draws it (the page
`docs/internals/actors.md` shows that drawing, and a test compares them). Children start from top to bottom
and stop from bottom to top, so agent loops end before the models they use. This file sees every room and
decides nothing at run time.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from erllama_py.actors import (
    ChildFailure,
    ChildSpec,
    DynamicSupervisor,
    Names,
    Restart,
    RestartLimits,
    Supervisor,
    actor_child,
    function_child,
)
from erllama_py.engine.backends import BackendFactory
from erllama_py.model.actor import ModelActor
from erllama_py.model.board import ModelBoard
from erllama_py.model.client import actor_name


@dataclass(frozen=True)
class Branch:
    """A supervisor that holds children of one sort, added and removed while it runs."""

    name: str
    holds: str  # what its children are, for the drawing
    limits: RestartLimits  # of each child


# Five restarts in a minute: a model that crashes on one bad request comes back for the next ones, a model that
# crashes on every load gives up within half a minute, backoff included.
MODEL_LIMITS = RestartLimits(intensity=5, period=60.0)
# Agent loops fail for outside reasons (a service that is down) and cost nothing to restart.
USER_LIMITS = RestartLimits(intensity=10, period=60.0)

# A decode on the CPU is aborted within one of the model's layers; the rest is for a slow machine to free
# weights of tens of gigabytes. The supervisor gives the actor a little longer than the actor its thread.
ENGINE_STOP_SECONDS = 15.0
MODEL_STOP_SECONDS = 20.0
USER_STOP_SECONDS = 5.0

ROOT = "runtime"
ROOT_LIMITS = RestartLimits(intensity=3, period=60.0)
TREE = (
    Branch("models", "one model actor per loaded model, each with its engine thread", MODEL_LIMITS),
    Branch("user", "what runtime.supervise was given: agent loops", USER_LIMITS),
)


def describe() -> str:
    """The tree, drawn."""
    lines = [f"{ROOT} (one_for_one)"]
    for branch in TREE:
        last = branch is TREE[-1]
        lines.append(f"{'└' if last else '├'}── {branch.name} (dynamic, one_for_one)")
        lines.append(f"{' ' if last else '│'}   └── {branch.holds}")
    return "\n".join(lines)


def build(
    on_restart: Callable[[ChildFailure], None], on_failure: Callable[[ChildFailure], None]
) -> tuple[Supervisor, dict[str, DynamicSupervisor]]:
    """The root, and the branches that are up now, by name: a restarted branch takes its predecessor's place.

    `on_restart` hears of a child that failed and comes back, `on_failure` of one that does not.
    """
    running: dict[str, DynamicSupervisor] = {}

    def start(name: str) -> DynamicSupervisor:
        running[name] = DynamicSupervisor(name, on_restart=on_restart, on_failure=on_failure)
        return running[name]

    # A branch has no deadline of its own: each of its children has one.
    children = [ChildSpec(branch.name, partial(start, branch.name), stop_timeout=math.inf) for branch in TREE]
    return Supervisor(ROOT, children, limits=ROOT_LIMITS), running


def model_child(board: ModelBoard, names: Names, make_backend: BackendFactory, remember: Path) -> ChildSpec:
    """A model: restarted whenever it ends by itself, each time as a new actor on a new engine thread."""
    return ChildSpec(
        actor_name(board.model_id),
        lambda: actor_child(
            actor_name(board.model_id),
            lambda: ModelActor(board, make_backend, remember, ENGINE_STOP_SECONDS),
            names,
        ),
        restart="permanent",
        stop_timeout=MODEL_STOP_SECONDS,
        limits=MODEL_LIMITS,
    )


def user_child(
    name: str, function: Callable[[], Awaitable[object]], restart: Restart, limits: RestartLimits | None
) -> ChildSpec:
    """A coroutine function of the user's, with the same rights as a model."""
    return ChildSpec(
        name,
        lambda: function_child(function),
        restart=restart,
        stop_timeout=USER_STOP_SECONDS,
        limits=limits or USER_LIMITS,
    )
