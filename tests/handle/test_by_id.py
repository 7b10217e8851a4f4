"""`runtime.X(model_or_id, …)` is `model.X(…)`: every public method is there twice, alike."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

import erllama_py as erllama
from erllama_py import Model, Runtime
from erllama_py.handle.by_id import ModelCalls
from erllama_py.handle.probes import Probes

# A property of a handle, and the method of the runtime that answers for it. The id is what one asks with.
PROBES = {
    "info": "model_info", "counters": "model_counters", "sequences": "model_sequences", "phase": "phase",
    "pending_len": "pending_len", "last_cache_hit": "last_cache_hit",
}  # fmt: skip
OTHERWISE = {
    "id": "the argument itself",
    "queue_depth": "the runtime's own, which adds up all models where none is named",
}


def public(kind: type) -> set[str]:
    """The names that a class shows; those of its base classes count for `Model`, whose probes are one."""
    kinds = (kind, Probes) if kind is Model else (kind,)
    return {name for one in kinds for name in vars(one) if not name.startswith("_")}


def test_a_runtime_has_every_public_method_of_a_model() -> None:
    """Neither more nor less, so that a new method of `Model` cannot be forgotten."""
    assert {PROBES.get(name, name) for name in public(Model) - set(OTHERWISE)} == public(ModelCalls)
    assert set(OTHERWISE) <= public(Model)
    assert "queue_depth" in public(Runtime)
    assert public(ModelCalls) & public(Runtime) == set(), "none of them is written twice"


@pytest.mark.parametrize("name", sorted(public(Model) - set(OTHERWISE)))
def test_it_is_the_same_method_with_a_model_put_first(name: str) -> None:
    """Signature and docstring are those of the handle, so that editors and the reference show them."""
    by_handle, by_id = getattr(Model, name), getattr(Runtime, PROBES.get(name, name))
    assert inspect.getdoc(by_id) == inspect.getdoc(by_handle)
    taken: Any = by_handle.fget if isinstance(by_handle, property) else by_handle
    first, model, *rest = inspect.signature(by_id).parameters.values()
    assert (first.kind, model.kind, model.name) == (first.POSITIONAL_ONLY, first.POSITIONAL_ONLY, "model")
    assert rest == list(inspect.signature(taken).parameters.values())[1:]
    assert inspect.signature(by_id).return_annotation == inspect.signature(taken).return_annotation


@pytest.mark.anyio
async def test_calls_by_id_and_by_handle_reach_the_model() -> None:
    """A coroutine, a stream, a session and a probe; an id that is not loaded is refused by all of them."""
    async with erllama.Runtime() as runtime:
        model = await runtime.load_model("m", {"backend": "stub"})
        for given in ("m", model):
            assert (await runtime.complete(given, "hello", response_tokens=3, seed=1)).prompt_tokens > 0
            async with runtime.stream(given, "hello", response_tokens=3) as events:
                assert isinstance([event async for event in events][-1], erllama.Done)
            async with runtime.session(given) as session:
                await session.complete("hello", response_tokens=1)
            await runtime.end_session(given, "s")
            await runtime.evict(given)
            assert (runtime.phase(given), runtime.model_info(given).id) == ("idle", "m")
        with pytest.raises(erllama.ModelNotLoaded):
            await runtime.complete("n", "hello")
        with pytest.raises(erllama.ModelNotLoaded):
            runtime.phase("n")


@pytest.mark.anyio
@pytest.mark.parametrize("by", ["handle", "runtime"])
async def test_a_model_can_be_unloaded_by_its_own_handle(by: str) -> None:
    """`model.unload()` is `runtime.unload(model)`: the id is free afterwards."""
    async with erllama.Runtime() as runtime:
        model = await runtime.load_model("m", {"backend": "stub"})
        await (model.unload() if by == "handle" else runtime.unload(model))
        assert runtime.list_models() == []
        with pytest.raises(erllama.ModelNotLoaded):
            await model.complete("hello")
        await runtime.load_model("m", {"backend": "stub"})


@pytest.mark.anyio
async def test_a_handle_of_an_earlier_load_never_acts_on_the_next_one() -> None:
    """A handle is one load's, however it is used."""
    async with erllama.Runtime() as runtime:
        old = await runtime.load_model("m", {"backend": "stub"})
        await old.unload()
        await runtime.load_model("m", {"backend": "stub"})
        for use in (lambda: runtime.unload(old), old.unload, lambda: runtime.complete(old, "hello"), old.evict):
            with pytest.raises(erllama.ModelNotLoaded):
                await use()
        assert runtime.phase("m") == "idle"
