"""What a model is doing, and what its callers get, by what its actors, its supervisor and its owner have said."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from helpers.requests import IDLE

import erllama_py as erllama
from erllama_py.actors import ActorRef, Raised, RestartLimitReached, Stopped
from erllama_py.actors.mailbox import Mailbox
from erllama_py.model.board import ModelBoard
from erllama_py.options.model import ModelConfig

pytestmark = pytest.mark.anyio


class Life:
    """A board, and what is written on it."""

    def __init__(self) -> None:
        self.board = ModelBoard("m", ModelConfig(backend="stub"), None)

    def begins(self) -> ActorRef[Any]:
        task = asyncio.current_task()
        assert task is not None
        ref: ActorRef[Any] = ActorRef(Mailbox("model:m"), lambda: None, task)
        self.board.begins(ref)
        return ref

    async def up(self) -> ActorRef[Any]:
        """An actor that has loaded a model: what the runtime's own board was given is given to this one."""
        ref = self.begins()
        async with erllama.Runtime() as runtime:
            other = (await runtime.load_model("m", {"backend": "stub"}))._caller.board
            assert other.info is not None
            assert other.facts is not None
            assert other.vocabulary is not None
            self.board.ready(other.info, other.facts, other.vocabulary, IDLE)
        return ref

    def crash(self, ref: ActorRef[Any]) -> None:
        self.board.ends()
        ref._close(Raised(OSError("gone")))


SPENT = RestartLimitReached("model:m", 5, 60.0)
SPENT.__cause__ = OSError("once more")
REFUSED = erllama.InsufficientMemory("m.gguf", "too large", 2, 1)

# What happens to the board, the phase that it then shows, and the error that callers get.
ENDS: dict[str, tuple[Callable[[ModelBoard], object], str, erllama.ErllamaError]] = {
    "given up": (lambda board: board.ended(Raised(SPENT)), "failed", erllama.ModelCrashed("m", "once more", True)),
    "abandoned": (
        lambda board: board.ended(Raised(OSError("hung"))), "failed", erllama.ModelCrashed("m", "hung", True)
    ),
    "stopped": (lambda board: board.ended(Stopped()), "unloaded", erllama.ModelNotLoaded("m")),
    "unloaded": (
        lambda board: board.close(partial(erllama.ModelNotLoaded, "m")), "unloaded", erllama.ModelNotLoaded("m")
    ),
    "closed": (lambda board: board.close(erllama.RuntimeClosed), "unloaded", erllama.RuntimeClosed()),
}  # fmt: skip


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("when", ["loading", "up", "restarting"])
async def test_every_end_wakes_waiting_callers_with_its_error(end: str, when: str) -> None:
    """Whenever it comes; from then on all callers get the same."""
    life = Life()
    if when == "loading":
        life.begins()
    else:
        life.crash(await life.up())
    waiting = asyncio.create_task(life.board.actor())
    await asyncio.sleep(0)
    if when == "up":
        ref = await life.up()
        assert await waiting is ref
        life.crash(ref)
        waiting = asyncio.create_task(life.board.actor())
        await asyncio.sleep(0)
    assert life.board.phase == ("loading" if when == "loading" else "restarting")
    act, phase, error = ENDS[end]
    act(life.board)
    assert life.board.phase == phase
    if when == "loading" and isinstance(error, erllama.ModelCrashed):
        error = erllama.ModelLoadError("a model", error.problem)
    for asked in (waiting, life.board.actor()):
        with pytest.raises(type(error)) as caught:
            await asked
        assert caught.value.args == error.args
    assert not life.board.is_up
    assert (life.board.pending, life.board.active, life.board.vocabulary) == (0, 0, None)


async def test_a_first_load_that_is_refused_gives_each_caller_a_new_error() -> None:
    """With an error of its own, so that none gets another's traceback; the load's comes from its loader."""
    life = Life()
    life.begins()
    life.board.ended(Raised(REFUSED))
    seen = []
    for _ in range(2):
        with pytest.raises(erllama.InsufficientMemory) as caught:
            life.board.check()
        seen.append(caught.value)
    assert seen[0].args == seen[1].args == REFUSED.args
    assert len({id(error) for error in (*seen, REFUSED)}) == 3


async def test_phases_follow_from_which_actor_is_there() -> None:
    """No phase is written: an actor that ends is gone at once, and one that comes back is there."""
    life = Life()
    first = await life.up()
    assert (life.board.phase, life.board.can_save) == ("idle", True)
    life.board.watch(12.0)
    assert (life.board.phase, life.board.can_save) == ("hanging", False)
    assert "hangs for 12 s" in str(life.board.describe())
    life.crash(first)
    assert (life.board.phase, life.board.ref, life.board.restarts) == ("restarting", None, 0)
    second = await life.up()
    assert (life.board.phase, life.board.ref, life.board.restarts) == ("idle", second, 1)
    life.board.close(erllama.RuntimeClosed)
    assert life.board.phase == "unloaded"
