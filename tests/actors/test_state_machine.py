"""State machines: a pure transition, effects in order, and events out of effects before the mailbox."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from helpers.checkpoints import quiet_loop

from erllama_py.actors import ActorRun, Names, Raised, Reply, Returned, StateMachine, Stop, Stopped
from erllama_py.actors.running import Run

pytestmark = pytest.mark.anyio

State = tuple[str, ...]


class Echo(StateMachine[State, str, str]):
    """Its state is what it has seen. `a>b,c` performs the effects b and c, an effect `+d` feeds in the event d."""

    def __init__(self) -> None:
        self.state = ()
        self.replies: list[Reply[Any] | None] = []

    def event_of(self, message: str, reply: Reply[Any] | None) -> str:
        self.replies.append(reply)
        return message

    def transition(self, state: State, event: str) -> tuple[State, Sequence[str]]:
        effects = event.partition(">")[2]
        return (*state, event.partition(">")[0]), effects.split(",") if effects else ()

    async def perform(self, effect: str) -> str | Stop | None:
        await asyncio.sleep(0)
        match effect:
            case "answer":
                reply = self.replies[-1]
                assert reply is not None
                reply.send(self.state)
            case "stop":
                return Stop(Returned("done"))
            case "crash":
                raise ValueError("in an effect")
        return effect[1:].replace("/", ">").replace(";", ",") if effect.startswith("+") else None


async def start(machine: Echo, names: Names) -> Run:
    run = Run("m", lambda: ActorRun("m", lambda: machine, names))
    await run.ready
    return run


async def test_events_out_of_effects_come_before_the_mailbox_and_before_older_events() -> None:
    """As deep as they go: what follows from the first effect is done before what follows from the second."""
    async with quiet_loop():
        machine, names = Echo(), Names()
        run = await start(machine, names)
        names.cast("m", "one>+two/+three;+four,+five")
        names.cast("m", "six")
        assert await names.call("m", "ask>answer") == ("one", "two", "three", "four", "five", "six", "ask")
        assert repr(machine) == "<Echo 'm' ('one', 'two', 'three', 'four', 'five', 'six', 'ask')>"
        run.request_stop()
        assert await run.task == Stopped()


async def test_an_effect_can_end_the_actor() -> None:
    """What was still to do is left out."""
    async with quiet_loop():
        machine, names = Echo(), Names()
        run = await start(machine, names)
        names.cast("m", "one>stop,+two")
        assert await run.task == Returned("done")
        assert machine.state == ("one",)


async def test_an_effect_that_fails_crashes_the_actor() -> None:
    """Like a handler that fails."""
    async with quiet_loop():
        names = Names()
        run = await start(Echo(), names)
        names.cast("m", "one>crash")
        exit = await run.task
        assert isinstance(exit, Raised)
        assert str(exit.error) == "in an effect"


async def test_a_machine_without_a_state_can_be_printed() -> None:
    """`repr` is for debugging, also of what is not set up yet."""

    class Bare(StateMachine[int, int, int]):
        pass

    assert repr(Bare()) == "<Bare 'unnamed' 'no state yet'>"
