"""One crash of a model's process after the other, each in an operation of its engine that was chosen.

`Strikes` counts what was hit, and holds each crash against what the library reports of it.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, NamedTuple

import erllama_py as erllama
from erllama_py.engine.process.child import Child
from erllama_py.engine.recorder import Operation
from helpers.blows import SIGNALS, Blow, doing, stand_in, strike
from helpers.storm import TEXTS, Storm, wait

How = Blow | str
"""A blow from outside, or `"assertion"`: the drill of that name."""
_AFTER_A_CRASH: tuple[Operation, ...] = ("load", "restore")  # in a process that takes up what was open


class Plan(NamedTuple):
    """What is to be hit, and how; wherever it is, without an operation."""

    operation: Operation | None
    how: How


OPERATIONS: tuple[Operation | None, ...] = (
    "decode", "load", "prefill", "restore", None, "capture", "draw", "embed", "sampler",
)  # fmt: skip
HOWS: tuple[How, ...] = ("SIGSEGV", "SIGKILL", "SIGABRT", "memory", "assertion", "SIGSEGV", "stop", "SIGKILL", "SIGBUS")


def plans(count: int) -> Iterator[Plan]:
    """Every operation in turn, and every way in turn, shifted against each other from round to round."""
    for number in range(count):
        turn = number // len(OPERATIONS)
        yield Plan(OPERATIONS[number % len(OPERATIONS)], HOWS[(number + turn) % len(HOWS)])


def hits(planned: Sequence[Plan]) -> Counter[str]:
    """What is hit by these: the drill chooses its operation itself."""
    return Counter(plan.operation or "anything" for plan in planned if plan.how != "assertion")


class Strikes:
    """See the module. `made` are the children by model, the newest last."""

    def __init__(
        self, models: Mapping[str, erllama.Model], storm: Storm, made: Mapping[str, list[Child]],
        pool: ThreadPoolExecutor,
    ) -> None:  # fmt: skip
        self.hit: Counter[str] = Counter()
        self.by: Counter[str] = Counter()
        self.crashes: Counter[str] = Counter()  # of each model
        self.said: deque[str] = deque(maxlen=12)  # the last ones, for the reader of a failure
        self._models, self._storm, self._made, self._pool = models, storm, made, pool

    async def strike(self, victim: str, plan: Plan) -> None:
        """Crash a model as planned; returns when that was noticed."""
        child = self._made[victim][-1]
        if plan.how == "assertion":
            await self._fail_assertion(victim, child)
            return
        with self._storm.asking_for(victim, plan.operation):
            if plan.operation in _AFTER_A_CRASH:
                child = await self._another(victim, child)
            while not await self._stands(victim, child, plan.operation):
                await self._storm.moved(victim)  # or its callers would be suspected
                child = await self._another(victim, child)
            await self._end(victim, child, plan.how)
        self.hit.update([plan.operation or "anything"])
        self.by[plan.how] += 1

    async def _another(self, victim: str, child: Child) -> Child:
        """The process that comes after this one, which is killed."""
        await self._blocking(stand_in, child, None)
        await self._end(victim, child, "SIGKILL")
        await wait(lambda: self._made[victim][-1] is not child, f"another process of {victim}")
        return self._made[victim][-1]

    async def _stands(self, victim: str, child: Child, operation: Operation | None) -> bool:
        """Have a process stand still in an operation; false where it has loaded faster than it was looked at. All
        others come again."""
        told = self._storm.told_of(victim)
        over = (lambda: self._storm.told_of(victim) > told) if operation == "load" else (lambda: False)
        return bool(await self._blocking(stand_in, child, operation, over))

    async def _fail_assertion(self, victim: str, child: Child) -> None:
        self._models[victim].inject_fault("assertion")
        await self._noticed(victim, child, "SIGABRT", None)
        report = self._models[victim].info.last_crash
        assert report is not None
        assert "GGML_ASSERT" in report.problem, report
        self.by["assertion"] += 1

    async def _end(self, victim: str, child: Child, how: How) -> None:
        """Crash one that stands still."""
        seen = doing(child)
        await self._blocking(strike, child, how)
        await self._noticed(victim, child, how, seen)

    async def _noticed(self, victim: str, child: Child, how: How, seen: set[Operation] | None) -> None:
        """Wait until its end is known, and look at what is said of it. Texts are tokenized meanwhile."""
        assert await self._models[victim].tokenize(TEXTS[0]) == [*TEXTS[0].encode()]
        await wait(lambda: child.death is not None, f"the end of {child} by {how}")
        self.crashes[victim] += 1
        model = self._models[victim]
        await wait(lambda: _pid(model.info.last_crash) == child.process.pid, f"{model.info.last_crash}")
        report = model.info.last_crash
        assert report is not None
        suspects = model._caller.board.trials("own")
        self.said.append(
            f"{victim}, {how} in {seen}: {report}, {report.requests}; then {suspects} {suspects._suspects}"
        )
        expected = {"stop": "watchdog", "memory": "out of memory"}.get(how, "signal")
        assert report.reason == expected, f"{how}: {report}"
        if how in SIGNALS:
            assert report.signal == how, f"{how}: {report}\n" + "\n".join(report.log_lines)
        if how == "SIGKILL":  # of other signals it learns when it goes on
            assert report.doing in {*(seen or ()), None}, f"{seen}: {report}"

    async def _blocking(self, function: Callable[..., Any], *args: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._pool, function, *args)


def _pid(report: erllama.CrashReport | None) -> int | None:
    return None if report is None else report.pid


@contextmanager
def one_thread() -> Iterator[ThreadPoolExecutor]:
    """For what blocks; it is gone at the end."""
    with ThreadPoolExecutor(1, "strikes") as pool:
        yield pool
