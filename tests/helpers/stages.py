"""Requests of a machine's state by their stage: what a test asks of them, whichever place the state keeps them in."""

from __future__ import annotations

from typing import TypeVar

from erllama_py.scheduler.stages import Open, Queued, queue_rank
from erllama_py.scheduler.state import State

T = TypeVar("T")


def requests(state: State) -> dict[int, Open]:
    """Those that are not over, in the order in which they were asked for."""
    every: dict[int, Open] = {**state.placed, **state.parked}
    every.update((waiting.core.request.id, waiting) for waiting in state.queue)
    return dict(sorted(every.items()))


def stage_of(one: Open | None) -> str:
    """The name of its stage, in small letters; empty when it is over."""
    return "" if one is None else type(one).__name__.lower()


def stage(state: State, request_id: int) -> str:
    """The stage of one of them."""
    return stage_of(state.find(request_id))


def stages(state: State) -> list[str]:
    """Of all of them, in the order in which they were asked for."""
    return [stage_of(one) for one in requests(state).values()]


def at(state: State, request_id: int, kind: type[T]) -> T:
    """A request that is at this stage."""
    one = state.find(request_id)
    assert isinstance(one, kind), one
    return one


def queued(state: State) -> list[Queued]:
    """Those that wait, in the order in which they are served."""
    waiting: list[Queued] = [*state.parked.values(), *state.queue]
    return sorted(waiting, key=queue_rank)


def queued_ids(state: State) -> list[int]:
    """The same, by their ids."""
    return [one.core.request.id for one in queued(state)]
