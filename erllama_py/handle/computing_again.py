"""A call for embeddings over all crashes of what computes it: as a whole once more, when another is there."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from erllama_py.actors import ActorEnded
from erllama_py.handle.caller import Caller
from erllama_py.model.blame import blamed, crash_of, guilty_of, is_last, report_of
from erllama_py.model.embedders import Place
from erllama_py.model.suspects import Place as HowFar
from erllama_py.model.trials import Trials

T = TypeVar("T")
NOWHERE = HowFar(0, 0)  # nothing is kept of what was computed before


class Whole:
    """A call that is computed again as a whole: see `Tried`. It is on trial until it is over."""

    place = NOWHERE

    def withdraw(self) -> None:
        """Never asked for: it comes no further than it is."""


async def computed_again(
    caller: Caller, call_id: int, ranks: bool, compute: Callable[[Place], Awaitable[T]], *, goes_on: bool
) -> T:
    """What an embedder computes, or the next one if that crashes. Raises `ActorEnded` where it is not to go on, and
    `ModelCrashed` for a call that crashes it again and again."""
    trials = caller.board.trials("ranker" if ranks else "embedder")
    trials.enter(call_id, Whole())
    try:
        while True:
            place, let_go = await _turn(caller, trials, call_id, ranks)
            before = caller.board.last_crash
            try:
                return await compute(place)
            except ActorEnded as ended:
                crash = crash_of(ended, caller.board, before)
                if not _goes_on(caller, trials, call_id, place, ended, crash) or not goes_on:
                    if goes_on:
                        caller.board.check()  # that it is gone for good says more
                    raise
            finally:
                let_go()
            caller.board.tally.continued += 1
    finally:
        trials.leave(call_id)


async def _turn(caller: Caller, trials: Trials, call_id: int, ranks: bool) -> tuple[Place, Callable[[], None]]:
    """Hold the embedder when the call may run."""
    while True:
        await trials.turn(call_id)
        place, let_go = await caller.embedder(caller.board, ranks)
        if trials.may_run(call_id):
            return place, let_go
        let_go()


def _goes_on(
    caller: Caller, trials: Trials, call_id: int, place: Place, ended: ActorEnded, crash: BaseException | None
) -> bool:
    """Whether there will be another embedder for it. Raises where it has crashed this one alone."""
    if crash is not None:
        trials.crashed(report_of(crash) or crash, blamed(crash, place.at_work))
        if trials.is_guilty(call_id):
            raise guilty_of(caller.model_id, crash) from crash
    return not is_last(caller.board, ended)
