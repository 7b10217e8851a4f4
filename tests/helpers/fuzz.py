"""Every public call, at random, cancelled anywhere, while models and the cache crash and ids are loaded again.

A `Fuzz` is one runtime's life: callers who make calls of `CALLS` one after the other, each struck by a cancellation
after some turns of the loop or not at all. What comes out of a call must be an `ErllamaError`, and a cancellation only
where one was asked for. A life ends in one of three `ENDS`; whatever it is, nothing may be left: see `left_behind`. All
choices come from a seed. What threads do meanwhile does not, so a seed leads to the same calls, mostly to the same end.
"""

from __future__ import annotations

import asyncio
import gc
import inspect
import random
import signal
from collections import Counter, deque
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, get_args

import erllama_py as erllama
from erllama_py.actors import MailboxClosed
from erllama_py.engine.backend import BackendFailure
from erllama_py.engine.process.child import Child
from helpers.checkpoints import turns
from helpers.crashes import PARTS, Bomb
from helpers.fake_cache import temp_files
from helpers.fuzz_calls import CALLS, TIERS, WEIGHTS, Call
from helpers.leftovers import children
from helpers.names import wait_registered
from helpers.runtime import assert_idle, engine_threads, until
from helpers.soak import CONTEXT, POLICY
from helpers.tiny_gguf import tiny_gguf
from helpers.watched import Watch

End = Literal["quiet", "abrupt", "cancelled"]
ENDS: tuple[End, ...] = get_args(End)

GUARD_SECONDS = 20  # for a call that never ends
CALLERS = 6
CRASHES = 2  # of parts of the cache in one life: its restart budget is not what is looked at
SIGNALS = (signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT)
TURNS = (0, 1, 2, 3, 5, 8, 20, 60, 200)  # of the loop, before a cancellation
SCHEDULER = {"max_pending": 4, "session_idle_ms": 20, "turn_ms": 5, "reproducible_idle_ms": 30, "embed_idle_ms": 30}


class Fuzz:
    """See the module. `done` counts what came of the calls; `said` are the last of them, for the reader of a
    failure."""

    def __init__(
        self, root: Path, watch: Watch, made: Mapping[str, list[Child]], seed: int, steps: int, end: End
    ) -> None:
        self.done: Counter[str] = Counter()
        self.said: deque[str] = deque(maxlen=40)
        self.runtime = erllama.Runtime(
            tiers={"d": erllama.DiskTier(str(root / "d"))}, pressure={"source": "system", "interval_ms": 100}
        )
        self.handles: dict[str, erllama.Model] = {}
        self.loops: list[erllama.Supervised] = []
        self._made = made
        self._root, self._watch, self._seed, self._left, self._end = root, watch, seed, steps, end
        self._crashes = CRASHES
        self._half, self._half_left = asyncio.Event(), steps // 2
        base: dict[str, Any] = {"context_opts": CONTEXT, "policy": POLICY, "scheduler": SCHEDULER}
        stub = {**base, "backend": "stub", "tier": "disk", "tier_srv": "d"}
        self.configs: dict[str, Any] = {
            "m": stub,
            "n": {**stub, "stub": {"memory": "recurrent"}, "cache_salt": "its cells are not those of m"},
            "o": {**base, "model_path": tiny_gguf("dense", root)},
            "p": {**stub, "isolation": "process", "cache_salt": "another process"},
            "q": {**base, "model_path": tiny_gguf("dense", root), "isolation": "process"},
        }

    async def live(self) -> None:
        """From the opening of the runtime to its end, and the look at what is left."""
        before = asyncio.all_tasks()
        async with asyncio.TaskGroup() as callers:
            life = callers.create_task(self._open(callers))
            if self._end == "cancelled":
                await self._half.wait()
                life.cancel()
        assert not life.cancelled() or self._end == "cancelled"
        await turns()
        assert (left := self.left_behind(before)) == [], left

    async def _open(self, group: asyncio.TaskGroup) -> None:
        async with self.runtime:
            for model_id in self.configs:
                self.handles[model_id] = await self.runtime.load_model(model_id, self.configs[model_id])
            callers = [group.create_task(self._call(number)) for number in range(CALLERS)]
            if self._end == "quiet":
                await asyncio.wait(callers)
                await self._at_rest()
            else:
                await self._half.wait()
        self._left = min(self._left, CALLERS)  # a few calls of what is closed say enough

    async def _call(self, number: int) -> None:
        pick = random.Random(f"{self._seed}/{number}")
        while self._left > 0:
            self._left -= 1
            if self._left <= self._half_left:
                self._half.set()
            await self._strike(pick.choices(list(CALLS), WEIGHTS)[0], pick)

    async def _strike(self, name: str, pick: random.Random) -> None:
        wait = pick.choice((None, None, *TURNS))
        call = random.Random(pick.random())
        self.said.append(f"{name}, " + ("to its end" if wait is None else f"cancelled after {wait} turns"))
        task = asyncio.create_task(self._answer(CALLS[name], call))
        if wait is not None:
            for _ in range(wait):
                if task.done():
                    break
                await asyncio.sleep(0)
            task.cancel()
        await asyncio.wait({task}, timeout=GUARD_SECONDS)
        if not task.done():
            raise AssertionError(f"{name} never ended: {task.get_stack()}")
        if task.cancelled():
            assert wait is not None, f"{name} was cancelled by nobody"
            self.done["cancelled"] += 1
        elif error := task.exception():
            if not isinstance(error, erllama.ErllamaError):
                raise AssertionError(f"{name} ended with {error!r}") from error
            self.done[type(error).__name__] += 1
            if isinstance(error, erllama.ModelNotLoaded):
                with suppress(erllama.ErllamaError):
                    await self.load(call)  # or soon nothing would be there to be asked
        else:
            self.done["answered"] += 1

    async def _answer(self, call: Call, pick: random.Random) -> None:
        answer = call(self, pick)
        if inspect.isawaitable(answer):
            await answer

    # --- what is left -----------------------------------------------------------------------------------------

    async def _at_rest(self) -> None:
        """Nothing is under way: the books of all models agree with their cells, and nothing is pinned or lent."""
        for loop in self.loops:
            await loop.stop()
        await self._whole_cache()
        for model_id, config in self.configs.items():
            model = await self._fresh(model_id, config)
            await self._watch.at_rest(model.id)
            await until(lambda: not self.runtime._companions)
            assert_idle(model)
        cache = self.runtime.cache
        await cache.flush()
        await cache.evict_bytes(1 << 40, ["disk", "ram"])
        assert [row.tier for row in await cache.rows()] == []
        gc.collect()
        await until(lambda: self.runtime._buffers.leased == 0)

    async def _whole_cache(self) -> None:
        """Wait until what has crashed is back, and start the tier that the models name if it was stopped."""
        for part in ("cache", "tier:ram"):
            await wait_registered(self.runtime._names, part)
        with suppress(erllama.TierTaken):
            await self.runtime.start_tier("d", erllama.DiskTier(str(self._root / "d")))
        await wait_registered(self.runtime._names, "tier:d")

    async def _fresh(self, model_id: str, config: Any) -> erllama.Model:
        """A model of this id that has answered since its last crash: loaded again if it is not there any more."""
        while True:
            try:
                model = self.runtime.model(model_id)
                await model.complete("hello", response_tokens=2)
                return model
            except erllama.ModelNotLoaded:
                with suppress(erllama.ModelNotLoaded):
                    await self.runtime.unload(model_id)  # waits for one that is under way
                await self.runtime.load_model(model_id, config)
            except erllama.ModelCrashed as crash:
                if crash.gave_up:
                    await self.runtime.unload(model_id)

    def left_behind(self, before: set[asyncio.Task[Any]]) -> list[str]:
        """Tasks, threads, processes, names, buffers and temp files that outlive the runtime."""
        gc.collect()
        return [
            *(f"task {task}" for task in asyncio.all_tasks() - before),
            *(f"thread {name}" for name in engine_threads()),
            *(f"process {pid}" for pid in children()),
            *(f"name {name}" for name in self.runtime._names),
            *(f"temp file {name}" for name in temp_files(self._root)),
            *([f"{self.runtime._buffers.leased} bytes of buffers"] if self.runtime._buffers.leased else []),
        ]

    # --- calls ------------------------------------------------------------------------------------------------

    def model(self, pick: random.Random) -> erllama.Model:
        """A handle, perhaps of a load that is over."""
        model_id = pick.choice(list(self.configs))
        return self.handles[model_id] if pick.random() < 0.3 else self.runtime.model(model_id)

    def crash_a_part(self, pick: random.Random) -> None:
        ref = self.runtime._names.whereis(pick.choice(PARTS))
        if ref is not None and ref.exit is None and self._crashes > 0:
            self._crashes -= 1
            with suppress(MailboxClosed):  # it ends already
                ref.cast(Bomb())

    def end_a_process(self, pick: random.Random) -> None:
        """That of a model which has its own."""
        made = self._made.get(pick.choice("pq"), ())
        if made and (process := made[-1].process._process) is not None:
            process.send_signal(pick.choice(SIGNALS))

    async def load(self, pick: random.Random) -> None:
        model_id = pick.choice(list(self.configs))
        self.handles[model_id] = await self.runtime.load_model(model_id, self.configs[model_id])

    async def reload(self, pick: random.Random) -> None:
        model_id = pick.choice(list(self.configs))
        await self.runtime.unload(model_id)
        self.handles[model_id] = await self.runtime.load_model(model_id, self.configs[model_id])

    async def supervise(self, pick: random.Random) -> None:
        model, how = self.model(pick), pick.choice(("returns", "raises", "stays", "asks"))

        async def loop() -> str:
            if how == "raises":
                raise BackendFailure("a loop's own error")
            if how == "stays":
                await asyncio.Event().wait()
            return (await model.complete("hello", response_tokens=3)).reply if how == "asks" else how

        limits: Any = {"intensity": 1, "backoff_first": 0.0, "backoff_max": 0.0}
        restart: Any = pick.choice(("permanent", "transient", "temporary"))
        self.loops.append(one := await self.runtime.supervise(pick.choice("xy"), loop, restart=restart, limits=limits))
        if how != "stays" and pick.random() < 0.5:
            await one.wait()
        await one.stop()

    async def start_tier(self, pick: random.Random) -> None:
        name = pick.choice(TIERS)
        await self.runtime.start_tier(name, erllama.DiskTier(str(self._root / name)))
