"""Embedders: begun once, shared by all that call, given back after a while, ended before their model's engine."""

from __future__ import annotations

import asyncio
import gc
import itertools
import math
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from helpers.clock import ManualClock
from helpers.runtime import STUB, until

import erllama_py as erllama
from erllama_py import runtime as runtime_module
from erllama_py.engine import pace
from erllama_py.engine.embedding import NoRoom, Part
from erllama_py.engine.stub import StubBackend
from erllama_py.engine.stub_embedder import StubEmbedder
from erllama_py.errors import InsufficientMemory
from erllama_py.model import loading
from erllama_py.options.model import ModelConfig

pytestmark = pytest.mark.anyio

IDLE_SECONDS = 300.0
LONG = 50  # tokens of an input that is longer than a decode


def children(runtime: erllama.Runtime) -> list[str]:
    """What the branch of the models holds."""
    (branch,) = [node for node in runtime.tree().children if node.name == "models"]
    return [child.name for child in branch.children]


class Gate:
    """Holds up the decodes of all embedders while it is shut, and notes what they were of."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open, self.begun = threading.Event(), threading.Event()
        self.parts: list[list[Part]] = []
        compute, gate = StubEmbedder.compute, self

        def held(self: StubEmbedder, parts: Any) -> Any:
            gate.begun.set()
            while not gate.open.wait(0.001) and not self._abort.is_set():
                pass
            gate.parts.append(list(parts))
            return compute(self, parts)

        monkeypatch.setattr(StubEmbedder, "compute", held)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    """It is shut."""
    return Gate(monkeypatch)


@asynccontextmanager
async def stub(**config: Any) -> AsyncIterator[tuple[erllama.Runtime, erllama.Model]]:
    """A model of that is asked for embeddings."""
    async with erllama.Runtime() as runtime:
        fields: Any = {**STUB, **config}
        yield runtime, await runtime.load_model("m", fields)


async def waiting(model: erllama.Model, count: int) -> None:
    """Wait until so many calls wait for the embedder, beside the one that its decode is for."""
    await until(lambda: model.queue_depth == count)
    await anyio.lowlevel.checkpoint()


async def test_it_is_begun_by_the_first_call_and_given_back_when_none_has_come_for_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The time runs from the end of the last call; the next call begins another."""
    clock = ManualClock()
    monkeypatch.setattr(runtime_module, "MonotonicClock", lambda: clock)
    async with stub() as (runtime, model):
        assert children(runtime) == ["model:m"]
        for _ in range(2):
            await model.embed("hello")
            assert children(runtime) == ["model:m", "embedder:m"]
            await clock.sleeping(IDLE_SECONDS)
            clock.advance(IDLE_SECONDS - 1)
            await model.embed("hello")
            await clock.sleeping(IDLE_SECONDS)
            clock.advance(IDLE_SECONDS - 1)
            assert children(runtime) == ["model:m", "embedder:m"]
            clock.advance(1)
            await until(lambda: children(runtime) == ["model:m"])


async def test_callers_that_wait_share_a_decode(gate: Gate) -> None:
    """What came while one was under way is in the next, all of it."""
    async with stub() as (_, model), asyncio.TaskGroup() as group:
        first = group.create_task(model.embed("first"))
        await until(gate.begun.is_set)
        others = [group.create_task(model.embed(["hello", f"number {i}"])) for i in range(10)]
        await waiting(model, 11)
        gate.open.set()
        await asyncio.gather(first, *others)
        assert [len(parts) for parts in gate.parts] == [1, 20]
        assert len({one.result().vectors.tobytes() for one in others}) == 10


async def test_a_cancelled_call_leaves_the_queue_and_stops_a_decode_that_is_its_alone(gate: Gate) -> None:
    """The others go on as if it had not been there."""
    async with stub() as (_, model):
        alone = asyncio.create_task(model.embed("alone"))
        await until(gate.begun.is_set)
        waits, stays = asyncio.create_task(model.embed("waits")), asyncio.create_task(model.embed("stays"))
        await waiting(model, 3)
        for task in (waits, alone):
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        await until(lambda: len(gate.parts) == 1)  # it was stopped, though the gate is shut
        gate.open.set()
        await stays
        assert [len(part.tokens) for parts in gate.parts for part in parts] == [len("alone"), len("stays")]
        assert model.queue_depth == 0


async def test_a_cancelled_call_does_not_stop_a_decode_that_is_others_too(gate: Gate) -> None:
    """They share it."""
    async with stub() as (_, model):
        first = asyncio.create_task(model.embed("first"))
        await until(gate.begun.is_set)
        one, other = asyncio.create_task(model.embed("one")), asyncio.create_task(model.embed("other"))
        await waiting(model, 3)
        gate.open.set()
        await first
        one.cancel()
        assert len((await other).vector)


async def test_a_cancelled_long_input_frees_its_sequence(gate: Gate) -> None:
    """It was computed in part; the next inputs are computed as ever."""
    gate.open.set()
    async with stub(context_opts={"n_ctx": 64, "n_batch": 8}) as (_, model):
        expected = await model.embed("hello")
        gate.open.clear()
        gate.begun.clear()
        long = asyncio.create_task(model.embed("a long text " * 5))
        await until(gate.begun.is_set)
        long.cancel()
        with pytest.raises(asyncio.CancelledError):
            await long
        gate.open.set()
        assert ((await model.embed("hello")).vector == expected.vector).all()
        assert len((await model.embed("a long text " * 5)).vector)


async def test_a_decode_that_fails_fails_its_calls_and_the_next_call_begins_another_embedder() -> None:
    """The model itself goes on; the error names the cause."""
    async with stub(stub={"fail_decode_after": 1}) as (runtime, model):
        await model.embed("works")
        with pytest.raises(erllama.ModelCrashed) as caught:
            await model.embed("fails", on_crash="fail")
        assert "told to fail" in str(caught.value)
        assert not caught.value.gave_up
        assert len((await model.embed("works")).vector)
        assert (model.phase, model.info.restarts) == ("idle", 0)
        assert children(runtime) == ["model:m", "embedder:m"]


@pytest.mark.parametrize("ends", ["crash", "unload", "close"])
async def test_calls_end_with_their_model(gate: Gate, ends: str) -> None:
    """At once, each with the error that says what became of it; the context is freed before the weights."""
    async with erllama.Runtime() as runtime:
        model = await runtime.load_model("m", STUB)
        calls = [asyncio.create_task(model.embed("hello", on_crash="fail")) for _ in range(3)]
        await until(gate.begun.is_set)
        match ends:
            case "crash":
                model.inject_fault()
            case "unload":
                await model.unload()
            case _:
                await runtime.__aexit__(None, None, None)
        results = await asyncio.gather(*calls, return_exceptions=True)
        expected = {"crash": erllama.ModelCrashed, "unload": erllama.ModelNotLoaded, "close": erllama.RuntimeClosed}
        assert [type(one) for one in results] == [expected[ends]] * 3
        gate.open.set()
        if ends == "crash":
            assert len((await model.embed("hello")).vector)
            assert model.info.restarts == 1
        else:
            with pytest.raises(expected[ends]):
                await model.embed("hello")


async def test_a_call_waits_for_a_model_that_loads_again(gate: Gate) -> None:
    """It crashed; the call is made before it is back."""
    gate.open.set()
    async with stub() as (_, model):
        model.inject_fault()
        await until(lambda: model.phase == "restarting")
        assert len((await model.embed("hello")).vector)


class Hanging:
    """Backends of a runtime, whose embedders hang until they are released."""

    def __init__(self) -> None:
        self.made: list[StubBackend] = []

    def make(self, model_id: str, config: ModelConfig) -> StubBackend:
        self.made.append(StubBackend(model_id, config))
        return self.made[-1]

    @property
    def hangs(self) -> bool:
        return any(one.hung.is_set() for one in self.made)

    def release(self) -> None:
        for one in self.made:
            one.release.set()


@pytest.fixture
def hanging(monkeypatch: pytest.MonkeyPatch) -> Hanging:
    """Threads are abandoned after a short deadline, and decodes take too long at once."""
    monkeypatch.setattr("erllama_py.tree.MODEL_STOP_SECONDS", 0.01)
    monkeypatch.setattr(pace, "FIRST_SECONDS", 0.0)
    monkeypatch.setattr(pace, "FIRST_SECONDS_PER_TOKEN", 0.0)
    return Hanging()


HANGS: Any = {**STUB, "stub": {"hang_decode_after": 0}, "policy": {"evict_save_timeout_ms": 0}}


async def test_a_decode_that_hangs_is_reported_and_a_deadline_ends_the_wait(hanging: Hanging) -> None:
    """The phase says so; the call has `DeadlinePassed`, and so has one that comes after it."""
    try:
        async with erllama.Runtime(backend_factory=hanging.make) as runtime:
            model = await runtime.load_model("m", HANGS)
            for deadline in (0.01 * 2**number for number in itertools.count()):
                with pytest.raises(erllama.DeadlinePassed) as caught:
                    await model.embed("hello", deadline=deadline)
                assert caught.value.seconds == deadline
                if hanging.hangs:  # else it passed before the call had come to its thread
                    break
            with pytest.raises(erllama.DeadlinePassed):
                await model.embed("hello", deadline=0.01)
            assert model.phase == "hanging"
            assert "hangs" in str(runtime.tree())
            hanging.release()
            await until(lambda: model.phase == "idle")
    finally:
        hanging.release()


async def test_a_model_whose_embedder_hangs_keeps_its_id_until_its_thread_has_ended(hanging: Hanging) -> None:
    """It has the weights; nothing loads them a second time."""
    try:
        async with erllama.Runtime(backend_factory=hanging.make) as runtime:
            model = await runtime.load_model("m", HANGS)
            call = asyncio.create_task(model.embed("hello"))
            await until(lambda: hanging.hangs)
            with pytest.raises(erllama.ModelStuck):
                await model.unload()
            with pytest.raises(erllama.ModelNotLoaded):
                await call
            with pytest.raises(erllama.ModelStuck):
                await runtime.load_model("m", STUB)
            hanging.release()
            with anyio.fail_after(20):
                while True:
                    try:
                        again = await runtime.load_model("m", STUB)
                        break
                    except erllama.ModelStuck:
                        await anyio.lowlevel.checkpoint()
            assert len((await again.embed("hello")).vector)
    finally:
        hanging.release()


async def test_where_there_is_no_memory_for_its_cells_the_call_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model goes on; once there is memory, so do embeddings. An encoder needs none."""
    async with stub() as (_, model):
        with monkeypatch.context() as patch:
            patch.setattr(loading, "_resident_cells", lambda config, facts: 1 << 60)
            with pytest.raises(InsufficientMemory):
                await model.embed("hello")
        assert (await model.complete("hello", response_tokens=2)).generated
        assert len((await model.embed("hello")).vector)


async def test_many_calls_at_once_make_one_embedder() -> None:
    """Those that come while it is made wait for it."""
    async with stub() as (runtime, model):
        found = await asyncio.gather(*(model.embed(f"text {i}") for i in range(200)))
        assert len({one.vector.tobytes() for one in found}) == 200
        assert children(runtime) == ["model:m", "embedder:m"]


async def test_a_model_without_weights_embeds_nothing() -> None:
    """It was loaded for its tokens."""
    async with stub(model_opts={"vocab_only": True}) as (_, model):
        with pytest.raises(erllama.TokenizerOnly):
            await model.embed("hello")
        with pytest.raises(erllama.TokenizerOnly):
            await model.rerank("hello", ["a"])


async def test_many_inputs_are_nothing_that_the_garbage_collector_looks_at(gate: Gate) -> None:
    """A hundred thousand lists would make it stop all threads for 50 ms at a time, the loop too."""
    gate.open.set()
    async with stub() as (_, model):
        inputs: list[Any] = ["a text", [5, 6, 7]]
        await model.embed(inputs)
        await model.rerank("query", ["a document"], method="embeddings")
        parts = [part for parts in gate.parts for part in parts]
        assert len(parts) == 4
        assert not any(gc.is_tracked(part.tokens) for part in parts)


@pytest.mark.parametrize("why", ["estimate", "allocation"])
async def test_an_input_that_there_is_no_memory_for_fails_its_call_alone(
    gate: Gate, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    """Those that share its decode are computed, and so are those after it; the embedder goes on."""

    def reserve(self: StubEmbedder, tokens: int) -> None:
        raise NoRoom("out of memory")

    check = loading.check_embedder_room

    def check_room(config: ModelConfig, facts: Any, tokens: int = 1) -> None:
        if tokens == LONG:
            raise InsufficientMemory("a path", "no room", 2, 1)
        check(config, facts, tokens)

    if why == "allocation":
        monkeypatch.setattr(StubEmbedder, "reserve", reserve)
    else:
        monkeypatch.setattr("erllama_py.model.embedder.check_embedder_room", check_room)
    async with stub(context_opts={"n_ctx": 64, "n_batch": 8}) as (runtime, model):
        first = asyncio.create_task(model.embed("a"))
        await until(gate.begun.is_set)
        long_text = "c" * LONG
        long = asyncio.create_task(model.embed(["b", long_text, "d"]))
        others = [asyncio.create_task(model.embed(text)) for text in ("b", "d")]
        await waiting(model, 4)
        gate.open.set()
        with pytest.raises(InsufficientMemory, match="no room" if why == "estimate" else "out of memory"):
            await long
        assert [len((await one).vector) for one in (first, *others)] == [model.info.n_embd] * 3
        assert len((await model.embed("again")).vector)
        assert children(runtime) == ["model:m", "embedder:m"]
        assert (model.queue_depth, model.info.restarts) == (0, 0)


async def test_output_that_is_no_number_ends_its_call_and_nothing_more_of_it_is_computed(
    gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names the first such input; calls that share its decode, and inputs that come later, have theirs."""
    compute = StubEmbedder.compute

    def broken(self: StubEmbedder, parts: Any) -> Any:
        rows, row = compute(self, parts), 0
        for part in parts:
            if part.tokens[0] == ord("!"):
                rows[row] = math.nan
            row += len(part.tokens)
        return rows

    monkeypatch.setattr(StubEmbedder, "compute", broken)
    async with stub(context_opts={"n_ctx": 64, "n_batch": 8}) as (_, model):
        first = asyncio.create_task(model.embed("a"))
        await until(gate.begun.is_set)
        bad = asyncio.create_task(model.embed(["ok", "!", "!!", "long" * 10, "never"]))
        other = asyncio.create_task(model.embed("b"))
        await waiting(model, 3)
        gate.open.set()
        with pytest.raises(erllama.NoEmbedding) as found:
            await bad
        assert found.value.index == 1
        for one in (await first, await other, await model.embed("again" * 5)):
            assert len(one.vector) == model.info.n_embd
        computed = [bytes(part.tokens) for parts in gate.parts for part in parts]
        assert b"never" not in computed
        assert model.queue_depth == 0
