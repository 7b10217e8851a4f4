"""Actors, functions and specs that the tests of the actor kit play with.

Owns nothing global: each test has a `Stage`, which records what happens in order and holds the names.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from erllama_py.actors import (
    Actor,
    ActorRun,
    Answer,
    ChildSpec,
    DynamicSupervisor,
    Exit,
    FunctionRun,
    Names,
    Reply,
    RestartLimits,
    Stop,
    Supervisor,
)
from erllama_py.actors.running import Run
from helpers.checkpoints import turns

# No jitter and round delays: restarts fall due after 1, 2, 4 … seconds.
ROUND = RestartLimits(intensity=3, period=60.0, backoff_first=1.0, backoff_max=100.0, jitter=0.0)


class Crash(Exception):
    """What players raise on purpose."""


class Stage:
    """What happens in one test: a log, the names, and gates at which players wait until they are let go on."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.names = Names()
        self.made: Counter[str] = Counter()
        self.fail_init: set[str] = set()
        self.fail_terminate: set[str] = set()
        self._gates: dict[str, asyncio.Event] = {}

    def close(self, gate: str) -> None:
        """Let players wait at `gate`: `"init a"`, `"handle a"` or `"terminate a"`."""
        self._gates[gate] = asyncio.Event()

    def open(self, gate: str) -> None:
        """Let them go on."""
        self._gates.pop(gate).set()

    async def pass_gate(self, gate: str) -> None:
        """Wait if the gate is closed; give way to the loop in any case, so that every stage has a checkpoint."""
        self.log.append(gate)
        await asyncio.sleep(0)
        if gate in self._gates:
            await self._gates[gate].wait()

    def player(self, name: str) -> Player:
        """A new actor."""
        self.made[name] += 1
        return Player(self)

    def spec(self, name: str, **options: Any) -> ChildSpec:
        """A child that runs a `Player` under its name."""
        return ChildSpec(name, lambda: ActorRun(name, lambda: self.player(name), self.names), **options)

    def crash(self, name: str) -> None:
        """Let a player crash in its handler."""
        self.names.cast(name, "crash")


class Player(Actor[str]):
    """Answers, keeps, crashes and stops as asked; counts what it has handled."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.handled = 0
        self.kept: list[Reply[Any]] = []

    async def init(self) -> None:
        await self.stage.pass_gate(f"init {self.name}")
        if self.name in self.stage.fail_init:
            raise Crash(f"init of {self.name}")

    async def handle(self, message: str, reply: Reply[Any] | None) -> Answer | Stop | None:
        self.handled += 1
        await self.stage.pass_gate(f"handle {self.name}")
        match message:
            case "crash":
                raise Crash(f"handle of {self.name}")
            case "keep":
                assert reply is not None
                self.kept.append(reply)
                return None
            case "release":
                for kept in self.kept:
                    kept.send("released")
                return None
            case "stop":
                return Stop(answer=Answer("last words"))
            case "call yourself":
                return Answer(await self.ref.call("handled"))
            case "handled":
                return Answer(self.handled)
            case "await a cancelled future":
                cancelled = asyncio.get_running_loop().create_future()
                cancelled.cancel()
                await cancelled
        return Answer(message.upper())

    async def terminate(self, exit: Exit) -> None:
        await self.stage.pass_gate(f"terminate {self.name}")
        self.stage.log.append(f"gone {self.name}: {exit}")
        if self.name in self.stage.fail_terminate:
            raise Crash(f"terminate of {self.name}")


def launch(supervisor: Supervisor | DynamicSupervisor) -> Run:
    """The supervisor in a task of its own, only just begun."""
    return Run(supervisor.name, lambda: supervisor)


@asynccontextmanager
async def running(supervisor: Supervisor | DynamicSupervisor) -> AsyncIterator[Run]:
    """The supervisor in a task of its own: started on entry, stopped at the end."""
    run = launch(supervisor)
    await asyncio.wait((run.ready, run.task), return_when=asyncio.FIRST_COMPLETED)
    try:
        yield run
    except BaseException:
        # For a test gone wrong: it shall fail rather than wait for deadlines of a clock that stands still.
        while not run.task.done():
            run.task.cancel()
            await turns()
        raise
    run.request_stop()
    await asyncio.wait((run.task,))


def function_spec(name: str, function: Callable[[], Any], **options: Any) -> ChildSpec:
    """A child that runs a coroutine function."""
    return ChildSpec(name, lambda: FunctionRun(function), **options)


async def until(holds: Callable[[], bool]) -> None:
    """Let the loop turn until something holds that needs no clock and no other task than those that can go on."""
    for _ in range(200):
        if holds():
            return
        await turns(1)
    raise AssertionError("it does not come to that")
