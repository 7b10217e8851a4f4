"""Loading, unloading and closing, with the stub backend: nothing leaks, whatever goes wrong."""

from __future__ import annotations

import gc
import sys
import weakref
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from helpers.runtime import STUB, engine_threads, slow_stub, stub_runtime, until

import erllama_py as erllama

pytestmark = pytest.mark.anyio
SLOW: erllama.ModelConfigDict = {"backend": "stub", "stub": {"load_seconds": 3600.0}}


async def test_an_id_is_made_when_none_is_given() -> None:
    """`load_model(config)` makes ids that are free."""
    async with erllama.Runtime() as runtime:
        await runtime.load_model("model_2", STUB)
        ids = [(await runtime.load_model(STUB)).id for _ in range(2)]
        assert ids == ["model_1", "model_3"]


async def test_a_second_load_of_an_id_is_refused_also_while_it_loads() -> None:
    """The first one is not disturbed."""
    async with erllama.Runtime() as runtime, anyio.create_task_group() as group:
        group.start_soon(runtime.load_model, "m", SLOW)
        await until(lambda: bool(engine_threads()))
        with pytest.raises(erllama.AlreadyLoaded):
            await runtime.load_model("m", STUB)
        group.cancel_scope.cancel()
    async with stub_runtime() as (runtime, model):
        with pytest.raises(erllama.AlreadyLoaded):
            await runtime.load_model("m", STUB)
        assert (await model.complete("hello", response_tokens=1, temperature=0.0)).generated


async def test_a_load_that_takes_long_delays_no_other_model() -> None:
    """While one model loads, another answers, a third is loaded and answers too, and the probes show which one
    loads."""
    async with stub_runtime() as (runtime, model), anyio.create_task_group() as group:
        group.start_soon(runtime.load_model, "slow", SLOW)
        await until(lambda: len(engine_threads()) == 2)
        assert (await model.complete("hello", response_tokens=1, temperature=0.0)).generated
        third = await runtime.load_model("third", STUB)
        assert (await third.complete("hello", response_tokens=1, temperature=0.0)).generated
        assert runtime.phase("slow") == "loading"
        assert [info.id for info in runtime.list_models()] == ["m", "third"]
        group.cancel_scope.cancel()


async def test_a_cancelled_load_leaves_nothing() -> None:
    """No thread, no child, and the id is free."""
    async with erllama.Runtime() as runtime:
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as group:
                group.start_soon(runtime.load_model, "m", SLOW)
                await until(lambda: bool(engine_threads()))
                scope.cancel()
        assert engine_threads() == []
        assert runtime.list_models() == []
        assert (await runtime.load_model("m", STUB)).phase == "idle"


async def test_a_failed_load_raises_its_own_error_and_leaves_nothing() -> None:
    """It is not restarted; the caller has the error and the id is free."""
    async with erllama.Runtime() as runtime:
        with pytest.raises(erllama.ModelLoadError, match="told to fail"):
            await runtime.load_model("m", {**STUB, "stub": {"fail_load": True}})
        assert engine_threads() == []
        assert (await runtime.load_model("m", STUB)).phase == "idle"


async def test_unload_ends_open_calls_and_frees_the_thread() -> None:
    """Open calls get `ModelNotLoaded`, later ones too, and the id can be loaded again."""
    async with slow_stub() as (runtime, model, gate):
        errors: list[Exception] = []

        async def ask() -> None:
            try:
                await model.complete("hello")
            except erllama.ErllamaError as error:
                errors.append(error)

        async with anyio.create_task_group() as group:
            group.start_soon(ask)
            group.start_soon(ask)
            await until(lambda: model.queue_depth == 2)
            await runtime.unload(model)
        assert [type(error) for error in errors] == [erllama.ModelNotLoaded] * 2
        assert engine_threads() == []
        with pytest.raises(erllama.ModelNotLoaded):
            await model.complete("hello")
        with pytest.raises(erllama.ModelNotLoaded):
            await runtime.complete("slow", "hello")
        with pytest.raises(erllama.ModelNotLoaded):
            await runtime.unload(model)
        gate.set()
        again = await runtime.load_model("slow", STUB)
        assert (await again.complete("hello", response_tokens=1, temperature=0.0)).generated


async def test_unloading_twice_at_once_is_one_unload() -> None:
    """Both return when it is gone."""
    async with stub_runtime() as (runtime, model):
        async with anyio.create_task_group() as group:
            group.start_soon(runtime.unload, model)
            group.start_soon(runtime.unload, model)
        assert runtime.list_models() == []


async def test_after_the_runtime_closed_everything_says_so() -> None:
    """Handles, ids and the tree: `RuntimeClosed`."""
    async with stub_runtime() as (runtime, model):
        pass
    for call in (
        lambda: model.complete("hello"),
        lambda: runtime.complete("m", "hi"),
        lambda: runtime.load_model("n", STUB),
        lambda: runtime.unload(model),
        lambda: runtime.supervise("loop", anyio.sleep_forever),
    ):
        with pytest.raises(erllama.RuntimeClosed):
            await call()
    with pytest.raises(erllama.RuntimeClosed):
        runtime.list_models()
    assert engine_threads() == []


async def test_a_runtime_that_closes_while_a_model_loads_aborts_the_load() -> None:
    """The loading caller gets `RuntimeClosed`; no thread is left."""
    errors: list[Exception] = []

    async def load(runtime: erllama.Runtime) -> None:
        try:
            await runtime.load_model("m", SLOW)
        except erllama.ErllamaError as error:
            errors.append(error)

    async with anyio.create_task_group() as group, erllama.Runtime() as runtime:
        group.start_soon(load, runtime)
        await until(lambda: bool(engine_threads()))
    assert [type(error) for error in errors] == [erllama.RuntimeClosed]
    assert engine_threads() == []


async def test_a_body_that_raises_is_seen_as_it_is() -> None:
    """The same exception object, no group around it, and everything is closed."""
    mine = ValueError("mine")
    with pytest.raises(ValueError, match="mine") as caught:
        async with stub_runtime():
            raise mine
    assert caught.value is mine
    assert engine_threads() == []


async def test_loads_report_progress() -> None:
    """Weights go from their beginning to their end."""
    seen: list[erllama.LoadProgress] = []
    async with erllama.Runtime() as runtime:
        await runtime.load_model("m", STUB, on_progress=seen.append)
    assert {step.stage for step in seen} == {"weights"}


async def test_a_progress_callback_that_raises_does_not_end_the_load() -> None:
    """The caller's mistake is logged; the model is there."""

    def broken(_: erllama.LoadProgress) -> None:
        raise RuntimeError("mine")

    async with erllama.Runtime() as runtime:
        assert (await runtime.load_model("m", STUB, on_progress=broken)).phase == "idle"


async def test_a_tokenizer_only_model_tokenizes_and_refuses_to_generate() -> None:
    """`vocab_only` gives a clear error, not a crash and not a call that waits for ever, wherever weights are needed."""
    async with erllama.Runtime() as runtime:
        model = await runtime.load_model("m", {**STUB, "model_opts": {"vocab_only": True}})
        assert await model.detokenize(await model.tokenize("hello")) == "hello"
        messages = [{"role": "user", "content": "hello"}]
        assert await model.apply_chat_template(messages)
        refused: list[Callable[[], Awaitable[object]]] = [
            lambda: model.complete("hello"),
            lambda: model.chat(messages),
            lambda: model.prefill_only([1]),
            lambda: model.stream("hello").__aenter__(),
            lambda: model.stream_chat(messages).__aenter__(),
            lambda: model.session().chat("hello"),
            lambda: model.session().complete("hello"),
            lambda: model.explain("hello"),
            lambda: model.list_cached_prefixes([1]),
        ]
        for call in refused:
            with anyio.fail_after(20), pytest.raises(erllama.TokenizerOnly):
                await call()


BAD_LOADS: list[tuple[str, Any, type[erllama.ErllamaError]]] = [
    ("no mapping", 7, erllama.InvalidOption),
    ("unknown option", {**STUB, "n_ctxx": 1}, erllama.InvalidOption),
    ("unknown nested option", {**STUB, "context_opts": {"n_cxt": 1}}, erllama.InvalidOption),
    ("mistyped option", {**STUB, "context_opts": {"n_ctx": "2048"}}, erllama.InvalidOption),
    ("n_ctx -1", {**STUB, "context_opts": {"n_ctx": -1}}, erllama.InvalidOption),
    ("n_batch 0", {**STUB, "context_opts": {"n_batch": 0}}, erllama.InvalidOption),
    ("no such backend", {"backend": "none"}, erllama.InvalidOption),
    ("no path", {}, erllama.InvalidOption),
    ("tier that does not run", {**STUB, "tier_srv": "my_disk", "tier": "disk"}, erllama.TierNotFound),
    ("tier of another kind", {**STUB, "tier_srv": "ram", "tier": "disk"}, erllama.TierMismatch),
    ("quant that the file has not", {**STUB, "quant_type": "q4_k_m"}, erllama.QuantMismatch),
    ("trust without a fingerprint", {**STUB, "fingerprint_mode": "fast_unsafe"}, erllama.InvalidOption),
    ("missing file", {"model_path": "/nowhere/a.gguf"}, erllama.ModelFileNotFound),
]


@pytest.mark.parametrize(("config", "error"), [pytest.param(*row[1:], id=row[0]) for row in BAD_LOADS])
async def test_a_bad_configuration_is_refused_and_affects_no_model(config: Any, error: type[Exception]) -> None:
    """Its own error class, before anything is loaded; the other model goes on and the id is free."""
    async with stub_runtime() as (runtime, model):
        with pytest.raises(error):
            await runtime.load_model("other", config)
        assert (await model.complete("hello", response_tokens=1, temperature=0.0)).generated
        assert (await runtime.load_model("other", STUB)).phase == "idle"
        assert len(engine_threads()) == 2


async def test_a_closed_runtime_is_garbage() -> None:
    """No task, thread or registry keeps a closed runtime and its models alive."""
    async with stub_runtime() as (runtime, model):
        await model.complete("hello", response_tokens=2, temperature=0.0)
        gone = weakref.ref(runtime._names)
    del runtime, model
    await anyio.lowlevel.checkpoint()
    gc.collect()
    assert gone() is None


async def test_the_home_folder_holds_the_remembered_fingerprints(tmp_path: Path) -> None:
    """`Runtime(home=…)` decides where; a stub has no file and leaves nothing there."""
    home = tmp_path / "home"
    async with erllama.Runtime(home=home) as runtime:
        await runtime.load_model("m", STUB)
    assert not home.exists()


async def test_a_runtime_is_entered_once() -> None:
    """A second time is a clear error, while it is open and after."""
    async with erllama.Runtime() as runtime:
        with pytest.raises(erllama.RuntimeReused):
            await runtime.__aenter__()
    with pytest.raises(erllama.RuntimeReused):
        await runtime.__aenter__()


async def test_the_switch_interval_comes_back_with_the_last_runtime() -> None:
    """The shortest wish counts, in whatever order runtimes close."""
    before = sys.getswitchinterval()
    first, second = erllama.Runtime(switch_seconds=0.002), erllama.Runtime(switch_seconds=0.001)
    await first.__aenter__()
    await second.__aenter__()
    assert sys.getswitchinterval() == pytest.approx(0.001)
    await first.__aexit__(None, None, None)
    assert sys.getswitchinterval() == pytest.approx(0.001)
    await second.__aexit__(None, None, None)
    assert sys.getswitchinterval() == pytest.approx(before)
    async with erllama.Runtime(switch_seconds=None):
        assert sys.getswitchinterval() == pytest.approx(before)
