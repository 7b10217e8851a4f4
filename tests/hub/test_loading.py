"""Loads of models of the hub: pulled first, off the event loop, and ended with whoever waits."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
from pathlib import Path

import pytest
from helpers.hub import FakeHub
from helpers.tiny_gguf import split_gguf, tiny_gguf
from huggingface_hub import constants

import erllama_py as erllama
from erllama_py.engine.stub import StubBackend

pytestmark = pytest.mark.anyio

NAME = "hf:maker/tiny:F32"


def stub_runtime() -> erllama.Runtime:
    """A runtime whose models look at no file."""
    return erllama.Runtime(backend_factory=StubBackend)


@pytest.fixture
def tiny(hub: FakeHub, tmp_path: Path) -> FakeHub:
    """A hub with a model that llama.cpp loads."""
    hub.add("maker/tiny", {"tiny-F32.gguf": tiny_gguf("dense", tmp_path).read_bytes()})
    return hub


async def held(hub: FakeHub) -> None:
    """Until the hub has sent the first bytes of a file, and keeps the others back."""
    await asyncio.get_running_loop().run_in_executor(None, hub.held.wait)


@pytest.mark.slow
async def test_a_model_is_downloaded_and_loaded_by_its_name(tiny: FakeHub) -> None:
    """Its progress is that of the download first; the next load asks nobody."""
    steps: list[erllama.LoadProgress] = []
    async with erllama.Runtime() as runtime:
        model = await runtime.load_model(NAME, context_opts={"n_ctx": 256}, on_progress=steps.append)
        done = await model.complete("hello", response_tokens=3, ignore_eos=True)
        assert len(done.generated) == 3
        assert Path(model.info.config.model_path or "").name == "tiny-F32.gguf"
        stages = [step.stage for step in steps]
        assert (stages[0], stages[-1]) == ("download", "weights")
        assert stages == sorted(stages, key=["download", "hash", "weights"].index)
        asked = len(tiny.asked)
        await runtime.load_model("again", {"model_path": "hf:maker/tiny", "context_opts": {"n_ctx": 256}})
        assert len(tiny.asked) == asked


@pytest.mark.slow
async def test_a_model_in_several_files_is_loaded_whole(hub: FakeHub, tmp_path: Path) -> None:
    """llama.cpp finds the parts side by side, as links to the bytes."""
    hub.add("maker/split", {path.name: path.read_bytes() for path in split_gguf("dense", tmp_path)})
    async with erllama.Runtime() as runtime:
        model = await runtime.load_model("hf:maker/split", context_opts={"n_ctx": 256})
        assert (await model.complete("hello", response_tokens=1, ignore_eos=True)).generated


async def test_the_log_says_what_is_downloaded(tiny: FakeHub, caplog: pytest.LogCaptureFixture) -> None:
    """And nothing where it is there."""
    caplog.set_level(logging.INFO, "erllama_py")
    async with stub_runtime() as runtime:
        await runtime.load_model(NAME)
        said = [record.getMessage() for record in caplog.records if "pull" in record.getMessage()]
        assert len(said) == 2
        assert "pulling a file of the hub" in said[0]
        assert f"reference='{NAME}'" in said[0]
        assert "file='tiny-F32.gguf'" in said[0]
        caplog.clear()
        await runtime.load_model("again", NAME)
        assert [record for record in caplog.records if "pull" in record.getMessage()] == []


async def test_a_load_that_is_cancelled_ends_its_download(tiny: FakeHub) -> None:
    """Its id is free at once, and what came is there for the next."""
    tiny.held_after = 4096
    async with stub_runtime() as runtime:
        load = asyncio.ensure_future(runtime.load_model("m", NAME))
        await held(tiny)
        with pytest.raises(erllama.AlreadyLoaded):
            await runtime.load_model("m", NAME)
        load.cancel()
        with pytest.raises(asyncio.CancelledError):
            await load
        assert runtime.list_models() == []
        tiny.held_after = None
        tiny.go_on.set()
        assert (await runtime.load_model("m", NAME)).id == "m"
        assert len(tiny.requests("cdn")) == 2


async def test_an_id_that_is_taken_is_refused_before_anything_is_asked(tiny: FakeHub) -> None:
    """A download of gigabytes for nothing."""
    async with stub_runtime() as runtime:
        await runtime.load_model("m", {"backend": "stub"})
        with pytest.raises(erllama.AlreadyLoaded):
            await runtime.load_model("m", NAME)
        assert tiny.asked == []


async def test_loads_without_an_id_share_a_download(tiny: FakeHub) -> None:
    """Each gets an id of its own."""
    async with stub_runtime() as runtime:
        models = await asyncio.gather(*(runtime.load_model(NAME) for _ in range(3)))
        assert len({model.id for model in models}) == 3
        assert len(tiny.requests("cdn")) == 1


async def test_a_runtime_that_ends_wakes_those_that_wait_for_a_download(tiny: FakeHub) -> None:
    """They do not wait for the hub."""
    tiny.held_after = 4096
    async with stub_runtime() as runtime:
        load = asyncio.ensure_future(runtime.load_model("m", NAME))
        await held(tiny)
    with pytest.raises(erllama.RuntimeClosed):
        await load


async def test_an_error_of_the_hub_is_that_of_the_load(tiny: FakeHub) -> None:
    """It is a `ModelLoadError` with the reference as its path; nothing is left behind."""
    async with stub_runtime() as runtime:
        with pytest.raises(erllama.NotOnHub) as missing:
            await runtime.load_model("m", "hf:maker/tiny:Q2_K")
        assert isinstance(missing.value, erllama.ModelLoadError)
        assert missing.value.available == (NAME,)
        assert (await runtime.load_model("m", NAME)).id == "m"


async def test_a_model_that_crashes_comes_back_without_the_hub(tiny: FakeHub) -> None:
    """What runs is the file."""
    async with stub_runtime() as runtime:
        model = await runtime.load_model("m", NAME)
        tiny.asked.clear()
        model.inject_fault("actor")
        await model.complete("hello", response_tokens=1, ignore_eos=True)
        assert model.info.restarts == 1
        assert tiny.asked == []


@pytest.mark.slow
def test_a_file_of_the_hub_is_inspected(tiny: FakeHub) -> None:
    """It is downloaded first."""
    assert erllama.inspect_model(NAME).architecture == "llama"
    with pytest.raises(erllama.NotOnHub):
        erllama.inspect_model("hf:maker/tiny:Q2_K")


@pytest.mark.slow
def test_an_inspection_that_is_interrupted_ends_its_download(tiny: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits no longer than for an answer of the hub, and asks no more."""
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 1.0)
    tiny.held_after = 4096

    def interrupt() -> None:
        tiny.held.wait()
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        erllama.inspect_model(NAME)
    assert len(tiny.requests("cdn")) == 1
