"""Companions: begun once, shared by all that hold them, given back after a while, ended before their model's engine."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import anyio
import msgspec
import pytest
from helpers.clock import ManualClock
from helpers.gated import gated
from helpers.runtime import STUB, stub_runtime, until

import erllama_py as erllama
from erllama_py import runtime as runtime_module
from erllama_py.cpus import ThreadChoice
from erllama_py.engine.backend import ModelFacts
from erllama_py.engine.stub import StubBackend
from erllama_py.errors import InsufficientMemory, ModelNotLoaded, TokenizerOnly
from erllama_py.handle import caller
from erllama_py.model import loading
from erllama_py.model.companion import GRID, companion_config, companion_threads, grid_of
from erllama_py.model.request import make_request
from erllama_py.options.model import ModelConfig, parse_model_config

pytestmark = pytest.mark.anyio

IDLE_SECONDS = 300.0
SAME: dict[str, Any] = {"reproducible": True, "response_tokens": 4}


def children(runtime: erllama.Runtime) -> list[str]:
    """What the branch of the models holds."""
    (branch,) = [node for node in runtime.tree().children if node.name == "models"]
    return [child.name for child in branch.children]


@asynccontextmanager
async def timed(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[erllama.Runtime, erllama.Model, ManualClock]]:
    """A stub whose companion is given back by a clock that stands still."""
    clock = ManualClock()
    monkeypatch.setattr(runtime_module, "MonotonicClock", lambda: clock)
    async with stub_runtime() as (runtime, model):
        yield runtime, model, clock


async def test_it_is_begun_by_the_first_request_and_given_back_when_none_has_come_for_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The time runs from the end of the last request; the next request begins another."""
    async with timed(monkeypatch) as (runtime, model, clock):
        await model.complete("plain", response_tokens=4)
        assert (children(runtime), model.info.reproducible_bytes) == (["model:m"], 0)
        for _ in range(2):
            first = await model.complete("hello", **SAME)
            assert children(runtime) == ["model:m", "reproducible:m"]
            assert model.info.reproducible_bytes > 0
            await clock.sleeping(IDLE_SECONDS)
            clock.advance(IDLE_SECONDS - 1)
            assert (await model.complete("hello", **SAME)).generated == first.generated
            await clock.sleeping(IDLE_SECONDS)
            clock.advance(IDLE_SECONDS - 1)
            assert children(runtime) == ["model:m", "reproducible:m"]
            clock.advance(1)
            await until(lambda: children(runtime) == ["model:m"])
            assert model.info.reproducible_bytes == 0


async def test_requests_that_come_together_share_one() -> None:
    """While it begins, too; they are served one at a time."""
    async with gated() as (runtime, model, gate):
        async with anyio.create_task_group() as tasks:
            for number in range(5):
                tasks.start_soon(partial(model.complete, f"prompt {number}", **SAME))
            await until(lambda: model.queue_depth == 5)
            assert children(runtime) == ["model:m", "reproducible:m"]
            assert (model.phase, model.pending_len, len(gate.backends)) == ("prefilling", 4, 2)
            gate.gate.set()
        assert model.queue_depth == 0


async def test_a_cancel_and_a_deadline_reach_it() -> None:
    """As they reach the model's own requests."""
    async with gated() as (_, model, gate):
        async with model.stream("hello", **SAME) as events:
            await until(lambda: model.queue_depth == 1)
            events.cancel()
            done = [event async for event in events][-1]
            assert isinstance(done, erllama.Done)
            assert done.completion.finish_reason == "cancelled"
        assert (await model.complete("hello", **SAME, deadline=0.001)).finish_reason == "deadline"
        gate.gate.set()


async def test_it_ends_with_its_model_and_its_callers_learn_why() -> None:
    """An unload ends it first. What waits gets what the model's own callers get."""
    async with gated() as (runtime, model, _):
        async with anyio.create_task_group() as tasks:

            async def ask() -> None:
                with pytest.raises(ModelNotLoaded):
                    await model.complete("hello", **SAME)

            for _ in range(3):
                tasks.start_soon(ask)
            await until(lambda: model.queue_depth == 3)
            await model.unload()
        assert children(runtime) == []
        with pytest.raises(ModelNotLoaded):
            await model.complete("hello", **SAME)


@pytest.mark.parametrize("on_crash", ["continue", "fail"])
async def test_a_crash_of_the_model_while_a_request_is_made_is_no_crash_of_that_request(
    monkeypatch: pytest.MonkeyPatch, on_crash: Any
) -> None:
    """The prompt is long, so a worker thread hashes it. The model comes back, and answers."""
    hashing, crashed = threading.Event(), threading.Event()

    def held(*args: Any, **given: Any) -> Any:
        hashing.set()
        assert crashed.wait(20)
        return make_request(*args, **given)

    async with stub_runtime() as (_, model):
        monkeypatch.setattr(caller, "INLINE_LENGTH", 0)
        monkeypatch.setattr(caller, "make_request", held)
        async with anyio.create_task_group() as tasks:

            async def ask() -> None:
                assert (await model.complete("hello", on_crash=on_crash, **SAME)).generated

            tasks.start_soon(ask)
            await until(hashing.is_set)
            model.inject_fault("actor")
            await until(lambda: model.info.restarts == 1 and model.phase == "idle")
            crashed.set()
        assert (await model.complete("hello", **SAME)).generated


@pytest.mark.parametrize("end", ["unload", "close"])
async def test_no_end_waits_until_it_has_loaded(end: str) -> None:
    """What loads has nothing to save, however long a save may take."""
    made: list[StubBackend] = []

    def make(model_id: str, config: ModelConfig) -> StubBackend:
        slow = msgspec.structs.replace(config.stub, load_seconds=1000.0 if made else 0.0)
        made.append(StubBackend(model_id, msgspec.structs.replace(config, stub=slow)))
        return made[-1]

    async with erllama.Runtime(backend_factory=make) as runtime:
        model = await runtime.load_model("m", {**STUB, "policy": {"evict_save_timeout_ms": 10**9}})
        async with anyio.create_task_group() as tasks:

            async def ask() -> None:
                with pytest.raises(ModelNotLoaded if end == "unload" else erllama.RuntimeClosed):
                    await model.complete("hello", **SAME)

            tasks.start_soon(ask)
            await until(lambda: len(made) == 2)
            with anyio.fail_after(20):
                await (model.unload() if end == "unload" else runtime.__aexit__(None, None, None))


async def test_the_end_of_a_runtime_ends_it() -> None:
    """Its idle time does not hold the runtime up."""
    async with stub_runtime() as (_, model):
        await model.complete("hello", **SAME)
    assert model.phase == "unloaded"


async def test_a_load_that_fails_is_told_to_its_request_and_the_model_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no memory for a second context; the next request tries again."""
    async with stub_runtime() as (runtime, model):
        with monkeypatch.context() as patch:
            patch.setattr(loading, "_resident_cells", lambda config, facts: 1 << 60)
            with pytest.raises(InsufficientMemory):
                await model.complete("hello", **SAME)
        assert (await model.complete("hello", response_tokens=4)).generated
        assert children(runtime) == ["model:m"]
        assert (await model.complete("hello", **SAME)).generated


@pytest.mark.slow
async def test_a_caller_that_leaves_while_it_loads_takes_nothing_down() -> None:
    """The others go on waiting, and get it."""
    async with erllama.Runtime() as runtime:
        model = await runtime.load_model("m", {**STUB, "stub": {"load_seconds": 0.05}})
        replies: list[erllama.Completion] = []
        async with anyio.create_task_group() as tasks:

            async def stay() -> None:
                replies.append(await model.complete("hello", **SAME))

            async def leave() -> None:
                with anyio.CancelScope() as scope:
                    scopes.append(scope)
                    await model.complete("hello", **SAME)

            scopes: list[anyio.CancelScope] = []
            tasks.start_soon(leave)
            tasks.start_soon(stay)
            await until(lambda: "reproducible:m" in children(runtime))
            scopes[0].cancel()
        assert len(replies) == 1


async def test_a_session_is_forgotten_there_too() -> None:
    """`end_session` and `evict` reach both contexts."""
    async with stub_runtime() as (_, model):
        prompt = "a long prompt that fills more than one slice of the grid, so that something of it is kept " * 2
        await model.complete(prompt, **SAME, session_id="s")
        again = await model.complete(prompt, **SAME, session_id="s")
        await model.end_session("s")
        after = await model.complete(prompt, **SAME, session_id="s")
        assert (again.cache_hit_kind, after.cache_hit_kind) == ("sticky", "live")
        await model.evict()
        assert (await model.complete(prompt, **SAME)).cache_hit_kind == "partial"


async def test_a_tokenizer_has_none() -> None:
    """There is nothing to compute with."""
    async with erllama.Runtime() as runtime:
        model = await runtime.load_model("m", {**STUB, "model_opts": {"vocab_only": True}})
        with pytest.raises(TokenizerOnly):
            await model.complete("hello", **SAME)


# --- what it is made of ----------------------------------------------------------------------------------------------


def facts(n_swa: int = 0) -> ModelFacts:
    config = parse_model_config({"backend": "stub", "stub": {"memory": "window", "n_swa": n_swa}} if n_swa else STUB)
    return StubBackend("m", config).load(lambda _: True)


@pytest.mark.parametrize(("n_swa", "grid"), [(0, GRID), (4096, GRID), (64, 64), (63, 32), (20, 16), (1, 1)])
def test_a_slice_is_no_longer_than_a_sliding_window(n_swa: int, grid: int) -> None:
    """A power of two, so that what is copied out in ranges of 512 ends on it."""
    assert grid_of(facts(n_swa)) == grid


@pytest.mark.parametrize(("given", "few", "many"), [
    ({}, 4, 4), ({"n_threads": 6}, 6, 6), ({"n_threads_batch": 3}, 4, 3),
    ({"n_threads": 2, "n_threads_batch": 5}, 2, 5),
])  # fmt: skip
def test_its_threads_are_those_given_or_half_of_what_there_is(given: dict[str, int], few: int, many: int) -> None:
    """And never adapted."""
    choice = companion_threads(made(given), ThreadChoice(few=8, many=8, cpus=8))
    assert (choice.few, choice.many, choice.is_fixed) == (few, many, True)
    assert companion_threads(made({}), ThreadChoice(few=1, many=1, cpus=1)).few == 1


def made(context: dict[str, Any], **policy: Any) -> ModelConfig:
    return parse_model_config({**STUB, "context_opts": context, "policy": policy})


@pytest.mark.parametrize(("align", "n_swa", "rows"), [(256, 0, 256), (100, 0, 64), (1, 0, 64), (256, 128, 128)])
def test_rows_end_on_the_grid_and_are_no_longer_than_a_window(align: int, n_swa: int, rows: int) -> None:
    """Whatever the model's own rows do."""
    made_of = companion_config(
        made({"n_batch": 512, "n_seq_max": 8}, boundary_align_tokens=align), facts(n_swa), GRID,
        ThreadChoice(few=1, many=1),
    )  # fmt: skip
    context = made_of.context_opts
    assert made_of.policy.boundary_align_tokens == rows
    assert (context.n_batch, context.n_ubatch, context.n_seq_max, context.swa_full) == (GRID, GRID, 1, True)
