"""What is left when a part gives up: models without a cache, and a runtime that says that it has failed."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
from helpers.checkpoints import quiet_loop, turns
from helpers.crashes import Bomb
from helpers.runtime import STUB, engine_threads, stub_runtime, until

import erllama_py as erllama
from erllama_py import tree
from erllama_py.actors import RestartLimits
from erllama_py.tiers.messages import CACHE, tier_actor_name

pytestmark = pytest.mark.anyio

NEVER = RestartLimits(intensity=0)
TWICE = RestartLimits(intensity=2, backoff_first=0.0, backoff_max=0.0)
GUARD_SECONDS = 20


async def crash_until_it_is_given_up(runtime: erllama.Runtime, name: str) -> None:
    """As often as it comes back."""
    names = runtime._names
    with anyio.fail_after(GUARD_SECONDS):
        while "cache (supervisor) failed" not in str(runtime.tree()):
            if (ref := names.whereis(name)) is not None and ref.exit is None:
                ref.cast(Bomb())
            await turns(1)


@pytest.mark.parametrize("name", [CACHE, tier_actor_name("ram")])
async def test_a_cache_that_keeps_crashing_degrades_to_none_and_models_go_on(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Said in the log and in the tree; its handle answers with a clear error; loads, tiers and the end go on."""
    monkeypatch.setattr(tree, "TREE", tuple(place_with_limits(place) for place in tree.TREE))
    monkeypatch.setattr(tree, "ROOT_LIMITS", NEVER)
    async with stub_runtime(seconds_per_token=0.001) as (runtime, model):
        async with model.stream("hello", response_tokens=200, temperature=0.0) as events:
            await anext(events)
            await crash_until_it_is_given_up(runtime, name)
            assert isinstance([event async for event in events][-1], erllama.Done)
        assert (await model.complete("hello again", response_tokens=2, temperature=0.0)).cache_hit_kind != "exact"
        other = await runtime.load_model("n", STUB)
        for call in (runtime.cache.rows, runtime.cache.counters, runtime.cache.flush, runtime.cache.gc):
            with pytest.raises(erllama.CacheUnavailable):
                await call()
        await runtime.start_tier("d", erllama.DiskTier(str(tmp_path / "d")))
        await runtime.stop_tier("d")
        async with other.session() as session:
            for _ in range(2):
                assert (await session.chat("hello", response_tokens=2, temperature=0.0)).generated
        assert (await other.explain("hello")).miss_reason == "the cache is not running"
        await other.evict()
        await other.unload()
        assert "cache (supervisor) failed" in str(runtime.tree())
    assert [record for record in caplog.records if "gave up" in record.message and "'cache'" in record.message]


def place_with_limits(place: tree.Group | tree.Branch) -> tree.Group | tree.Branch:
    """The cache, with a budget that is spent soon."""
    return tree.Group(place.name, place.strategy, place.holds, TWICE) if isinstance(place, tree.Group) else place


def task_of(name: str) -> asyncio.Task[object]:
    """The task of a branch of the tree."""
    [task] = [task for task in asyncio.all_tasks() if task.get_name() == name]
    return task


async def failed(call: Callable[[], Awaitable[object]]) -> Exception:
    """What a call raises that must raise."""
    with anyio.fail_after(GUARD_SECONDS):
        try:
            answer = await call()
        except Exception as error:
            return error
    raise AssertionError(f"it answered: {answer}")


@pytest.mark.slow
@pytest.mark.parametrize("branch", ["tiers", "watch", "models", "user"])
async def test_a_root_that_gives_up_wakes_all_whichever_task_opened_the_runtime(
    branch: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The task that opened it is long over: all calls, open and new ones, end with an error of ours."""
    monkeypatch.setattr(tree, "ROOT_LIMITS", NEVER)
    async with AsyncExitStack() as opened:

        async def open_runtime() -> erllama.Runtime:
            return await opened.enter_async_context(erllama.Runtime())

        runtime = await asyncio.create_task(open_runtime())
        model = await runtime.load_model("m", {**STUB, "stub": {"seconds_per_token": 0.01}})
        loop = await runtime.supervise("loop", anyio.sleep_forever)
        session = model.session()
        waiting = [
            asyncio.ensure_future(failed(call))
            for call in (
                lambda: model.complete("hello", response_tokens=10_000, seed=212),  # 599 tokens
                lambda: runtime.load_model("n", {**STUB, "stub": {"load_seconds": 100.0}}),
                lambda: session.chat("hello", response_tokens=10_000),
            )
        ]
        ended = asyncio.ensure_future(loop.wait())
        await until(lambda: model.phase == "generating" and "model:n" in str(runtime.tree()))
        task_of(branch).cancel()
        assert all(isinstance(error, erllama.ErllamaError) for error in await asyncio.gather(*waiting))
        assert await ended == erllama.Stopped()
        for call in (
            lambda: runtime.load_model("o", STUB),
            lambda: runtime.supervise("other", anyio.sleep_forever),
            lambda: runtime.stop_tier("d"),
            lambda: runtime.pressure(),
        ):
            assert isinstance(await failed(call), erllama.RuntimeFailed)
        gone = await failed(lambda: model.complete("hello"))
        assert isinstance(gone, erllama.ModelNotLoaded if branch == "models" else erllama.RuntimeFailed)
        assert isinstance(await failed(opened.aclose), erllama.RuntimeFailed)
        assert isinstance(await failed(runtime.cache.rows), erllama.CacheUnavailable)


@pytest.mark.slow
async def test_a_branch_that_was_cancelled_from_outside_comes_back_and_its_ids_are_free(tmp_path: Path) -> None:
    """What it had is gone with it, and whoever asks hears that; everything can be started again."""
    async with stub_runtime() as (runtime, model):
        loop = await runtime.supervise("loop", anyio.sleep_forever)
        calls: dict[str, Callable[[], Awaitable[object]]] = {
            "models": lambda: runtime.load_model("n", STUB),
            "tiers": lambda: runtime.start_tier("d", erllama.DiskTier(tmp_path)),
        }
        for name in ("models", "user", "tiers"):
            before = task_of(name)
            before.cancel()
            await asyncio.wait((before,))
            if name in calls:  # it is not back yet
                assert isinstance(await failed(calls[name]), erllama.ModelNotLoaded | erllama.TierFailed)
        await until(lambda: str(runtime.tree()).count("(dynamic supervisor) running") == 4)
        assert await loop.wait() == erllama.Stopped()
        with pytest.raises(erllama.ModelNotLoaded):
            await model.complete("hello")
        again = await runtime.load_model("m", STUB)
        assert (await again.complete("hello", response_tokens=2, temperature=0.0)).generated
        await (await runtime.supervise("loop", anyio.sleep_forever)).stop()


STAGES = ("opened", "loaded", "supervised", "asked", "crashed", "chatted")


async def story(at: dict[str, asyncio.Event], runtime: erllama.Runtime) -> None:
    """A little of everything, with a mark at each stage."""
    async with runtime:
        at["opened"].set()
        model = await runtime.load_model("m", {**STUB, "stub": {"seconds_per_token": 0.001}})
        at["loaded"].set()
        loop = await runtime.supervise("loop", anyio.sleep_forever)
        at["supervised"].set()
        async with model.stream("hello", response_tokens=100) as events:
            at["asked"].set()
            await anext(events)
            model.inject_fault()
            at["crashed"].set()
            with suppress(erllama.ModelCrashed):  # or the reply has ended before
                async for _ in events:
                    pass
        async with model.session() as session:
            await session.chat("hello", response_tokens=2)
        at["chatted"].set()
        await model.unload()
        await loop.stop()


@pytest.mark.either_loop
@pytest.mark.slow
@pytest.mark.parametrize("sweeps", [1, 2, 20])
@pytest.mark.parametrize("whole", [True, False], ids=["all", "all-but-the-body"])
@pytest.mark.parametrize("stage", STAGES)
async def test_a_sweep_that_cancels_all_tasks_ends_the_runtime(stage: str, whole: bool, sweeps: int) -> None:
    """At any stage, some turns later too: it ends, nothing is left, and only errors of ours come out."""
    before = asyncio.all_tasks()  # the test's own, and its runner's
    for later in range(0, 12, 3):
        async with quiet_loop():
            at = {name: asyncio.Event() for name in STAGES}
            runtime = erllama.Runtime()
            body = asyncio.ensure_future(story(at, runtime))
            await asyncio.wait((asyncio.ensure_future(at[stage].wait()), body), return_when=asyncio.FIRST_COMPLETED)
            await turns(later)
            for _ in range(sweeps):
                for task in asyncio.all_tasks() - before - (set() if whole else {body}):
                    task.cancel()
                await turns(1)
            with anyio.fail_after(GUARD_SECONDS):
                await asyncio.wait((body,))
            if not body.cancelled():
                error = body.exception()
                assert error is None or isinstance(error, erllama.ErllamaError), repr(error)
            del body
            # Swept twice, nothing is waited for any more; it ends all the same.
            await until(lambda: asyncio.all_tasks() == before and engine_threads() == [])
        gc.collect(0)


SAVES: erllama.ModelConfigDict = {"backend": "stub", "policy": {"min_tokens": 1, "evict_save_timeout_ms": 0}}


class Hang:
    """A block in which no row gets its name on the disk; `begun` says that one tries."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun, self._go_on = threading.Event(), threading.Event()
        self._link, self._monkeypatch = os.link, monkeypatch

    def __enter__(self) -> None:
        self._monkeypatch.setattr(os, "link", self._hang)

    def __exit__(self, *_: object) -> None:
        self._go_on.set()

    def _hang(self, *args: Any, **options: Any) -> None:
        self.begun.set()
        self._go_on.wait()
        self._link(*args, **options)


async def test_a_disk_that_hangs_keeps_no_event_loop_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The runtime ends without its tier, and what is left of that ends when the loop's end cancels it."""
    hang = Hang(monkeypatch)
    monkeypatch.setattr("erllama_py.tree.TIER_STOP_SECONDS", 0.001)
    before = asyncio.all_tasks()
    with hang:
        async with erllama.Runtime(tiers={"d": erllama.DiskTier(tmp_path)}) as runtime:
            model = await runtime.load_model("m", {**SAVES, "tier": "disk", "tier_srv": "d"})
            await model.complete("hello", response_tokens=2, temperature=0.0)
            await until(hang.begun.is_set)
        left = asyncio.all_tasks() - before
        assert "tier:d" in {task.get_name() for task in left}
        for task in left:
            task.cancel()
        await until(lambda: all(task.done() for task in left))


async def test_a_tier_that_hangs_keeps_its_name_though_its_supervisor_is_another_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The supervisor of the tiers was cancelled from outside, and came back without a child of that name."""
    hang = Hang(monkeypatch)
    monkeypatch.setattr("erllama_py.tree.TIER_STOP_SECONDS", 0.01)
    async with erllama.Runtime(tiers={"d": erllama.DiskTier(tmp_path / "d")}) as runtime:
        model = await runtime.load_model("m", {**SAVES, "tier": "disk", "tier_srv": "d"})
        with hang:
            await model.complete("hello", response_tokens=2, temperature=0.0)
            await until(hang.begun.is_set)
            before = task_of("tiers")
            before.cancel()
            await asyncio.wait((before,))
            await until(lambda: "tiers (dynamic supervisor) running" in str(runtime.tree()))
            for folder in ("d", "e"):
                with pytest.raises(erllama.TierTaken):
                    await runtime.start_tier("d", erllama.DiskTier(tmp_path / folder))
            with pytest.raises(erllama.TierStuck):
                await runtime.stop_tier("d")
        await until(lambda: "tier:d" not in {task.get_name() for task in asyncio.all_tasks()})
        monkeypatch.setattr("erllama_py.tree.TIER_STOP_SECONDS", 30.0)
        await runtime.start_tier("d", erllama.DiskTier(tmp_path / "d"))
        await runtime.stop_tier("d")
        with pytest.raises(erllama.TierNotFound):
            await runtime.stop_tier("d")


async def test_a_tier_whose_directory_hangs_while_it_is_opened_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its name stays taken until that has ended; then it can be started."""
    begun, go_on, listdir = threading.Event(), threading.Event(), os.listdir

    def hang(path: Any) -> list[str]:
        if isinstance(path, int):  # as a tier looks at its own
            begun.set()
            go_on.wait()
        return listdir(path)

    monkeypatch.setattr("erllama_py.tree.TIER_STOP_SECONDS", 0.01)
    monkeypatch.setattr("erllama_py.tiers.registry.STUCK_SECONDS", 0.01)
    async with erllama.Runtime() as runtime:
        with monkeypatch.context() as disk:
            disk.setattr(os, "listdir", hang)
            try:
                with anyio.fail_after(GUARD_SECONDS), pytest.raises(erllama.TierStuck) as stuck:
                    await runtime.start_tier("d", erllama.DiskTier(tmp_path))
                assert (begun.is_set(), stuck.value.tier, stuck.value.seconds) == (True, "d", 0.01)
                with pytest.raises(erllama.TierTaken):
                    await runtime.start_tier("d", erllama.DiskTier(tmp_path))
            finally:
                go_on.set()
        await until(lambda: "tier:d" not in {task.get_name() for task in asyncio.all_tasks()})
        monkeypatch.setattr("erllama_py.tiers.registry.STUCK_SECONDS", 60.0)
        await runtime.start_tier("d", erllama.DiskTier(tmp_path))


@pytest.mark.slow
async def test_no_call_waits_for_ever_for_a_disk_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each says which tier it is; other tiers are served, requests go on, and where it answers again all is done."""
    hang = Hang(monkeypatch)
    monkeypatch.setattr("erllama_py.tree.TIER_STOP_SECONDS", 0.01)
    async with erllama.Runtime(tiers={"d": erllama.DiskTier(tmp_path)}) as runtime:
        inner = await runtime.load_model("n", SAVES)
        model = await runtime.load_model("m", {**SAVES, "tier": "disk", "tier_srv": "d"})
        for one in (inner, model):
            await one.complete("hello", response_tokens=2, temperature=0.0, cache_salt=one.id)
        await runtime.cache.flush()
        assert {row.tier for row in await runtime.cache.rows()} == {"ram", "d"}
        monkeypatch.setattr("erllama_py.tiers.base.STUCK_SECONDS", 0.01)
        with hang:
            await model.complete("another", response_tokens=2, temperature=0.0)
            await until(hang.begun.is_set)
            cache = runtime.cache
            evict = partial(cache.evict_bytes, 1 << 30, ("ram", "d"))
            calls: list[Callable[[], Awaitable[object]]] = [cache.flush, cache.gc, evict, cache.flush]
            calls.append(partial(runtime.stop_tier, "d"))
            for call in calls:
                with anyio.fail_after(GUARD_SECONDS), pytest.raises(erllama.TierStuck) as stuck:
                    await call()
                assert stuck.value.tier == "d"
                assert stuck.value.seconds > 0
            assert (await model.complete("a third", response_tokens=2, temperature=0.0)).generated
            assert await runtime.cache.rows() == []
