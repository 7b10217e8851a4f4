"""A model whose engine has a process of its own does what any model does, and its crash costs nobody else anything."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from helpers.anywhere import is_alive
from helpers.runtime import drain, engine_threads, until
from helpers.tiny_gguf import tiny_gguf

import erllama_py as erllama

pytestmark = [pytest.mark.anyio, pytest.mark.either_loop]

GREEDY: erllama.RequestOptionsDict = {"temperature": 0.0, "response_tokens": 12}
TEXT = "It was the best of times, it was the worst of times, it was the age of wisdom. " * 4
SIZES: erllama.ContextOptsDict = {"n_ctx": 1024, "n_batch": 128, "n_ubatch": 32, "n_threads": 1}


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("isolation")


def config(backend: str, isolation: str, models: Path) -> erllama.ModelConfigDict:
    given: dict[str, object] = {
        "backend": backend, "isolation": isolation, "context_opts": SIZES,
        "policy": {"min_tokens": 16, "boundary_align_tokens": 32, "boundary_trim_tokens": 0},
    }  # fmt: skip
    if backend == "llama":
        given |= {"model_path": tiny_gguf("dense", models), "probe": False}
    return given  # type: ignore[return-value]  # made of parts


@asynccontextmanager
async def loaded(backend: str, isolation: str, models: Path) -> AsyncIterator[tuple[erllama.Runtime, erllama.Model]]:
    async with erllama.Runtime() as runtime:
        yield runtime, await runtime.load_model("m", config(backend, isolation, models))


async def told(backend: str, isolation: str, models: Path) -> list[object]:
    """What a model answers to all sorts of calls."""
    answers: list[object] = []
    async with loaded(backend, isolation, models) as (runtime, model):
        first = await model.complete(TEXT, **GREEDY)
        answers += [first.reply, first.generated, first.prompt_tokens, first.cache_hit_kind]
        events = await drain(model.stream(TEXT, **GREEDY))
        answers += [[event.text for event in events if isinstance(event, erllama.TextDelta)]]
        other = await model.complete("Something else altogether, and long enough to be saved. " * 2, **GREEDY)
        answers += [other.reply]
        session = model.session()
        for text in ("One turn. ", "Another turn. "):
            answers.append((await session.complete(text, temperature=0.0, response_tokens=12)).reply)
        await session.end()
        same: erllama.RequestOptionsDict = {**GREEDY, "reproducible": True}
        answers.append((await model.complete(TEXT, **same)).reply)
        shaped = await model.complete("x", json_schema={"enum": ["yes", "no"]}, temperature=0.0)
        answers.append(shaped.parsed)
        vectors = (await model.embed(["hello world", "good bye"])).vectors
        answers.append([[round(float(number), 6) for number in vector] for vector in vectors])
        answers += [sorted(model.counters.hits.items()), model.counters.decodes > 0, model.info.description]
        await model.unload()
        again = await runtime.load_model("m", config(backend, isolation, models))
        back = await again.complete(TEXT, **GREEDY)
        answers += [back.reply, back.cache_hit_kind, back.stats.restored_bytes > 0]
    return answers


@pytest.mark.parametrize("backend", ["stub", "llama"])
async def test_it_answers_as_on_a_thread(backend: str, models: Path) -> None:
    """Replies, streams, sessions, structures, reproducible requests, embeddings, and rows that outlive a load."""
    there, here = [await told(backend, isolation, models) for isolation in ("process", "thread")]
    assert there == here


@pytest.mark.parametrize("backend", ["stub", "llama"])
async def test_a_killed_process_costs_its_model_alone(backend: str, models: Path) -> None:
    """The model is restarted; another, on whatever it runs, does not notice."""
    async with loaded(backend, "process", models) as (runtime, model):
        other = await runtime.load_model("other", config(backend, "process", models))
        expected = (await model.complete(TEXT, **GREEDY)).reply
        before, pid = other.info.pid, model.info.pid
        assert pid is not None
        assert pid not in (before, os.getpid())
        os.kill(pid, signal.SIGSEGV)
        await until(lambda: model.info.restarts == 1)
        assert (await model.complete(TEXT, **GREEDY)).reply == expected
        report = model.info.last_crash
        assert report is not None
        assert (report.reason, report.signal, report.pid) == ("signal", "SIGSEGV", pid)
        assert model.info.pid not in (pid, before)
        assert not is_alive(pid)
        assert (await other.complete(TEXT, **GREEDY)).reply == expected
        assert (other.info.pid, other.info.restarts) == (before, 0)
        pids = [model.info.pid or 0, before or 0]
    assert [is_alive(one) for one in pids] == [False, False]
    await until(lambda: engine_threads() == [])  # the one that tells of the end of a process ends right after that


async def test_the_report_of_a_kill_has_nothing_of_the_load(models: Path) -> None:
    """Which llama.cpp has told in hundreds of lines, and which went well."""
    async with loaded("llama", "process", models) as (_, model):
        assert (await model.complete(TEXT, **GREEDY)).generated
        os.kill(model.info.pid or 0, signal.SIGKILL)
        await until(lambda: model.info.restarts == 1)
        report = model.info.last_crash
        assert report is not None
        assert (report.signal, report.log_lines) == ("SIGKILL", ())


async def test_a_backend_of_an_application_stays_on_a_thread() -> None:
    """It cannot be sent to another process: the load says so."""
    from erllama_py.testing import make_backend

    async with erllama.Runtime(backend_factory=lambda model_id, config: make_backend(model_id, config)) as runtime:
        with pytest.raises(erllama.InvalidOption, match="thread"):
            await runtime.load_model("m", {"backend": "stub", "isolation": "process"})


async def test_replies_of_a_configuration_are_given_there_too() -> None:
    """They are data, and go with it."""
    async with erllama.Runtime() as runtime:
        stub: erllama.StubOptsDict = {"replies": ("First.", "Second.")}
        model = await runtime.load_model("m", {"backend": "stub", "isolation": "process", "stub": stub})
        assert [(await model.complete("x")).reply for _ in range(3)] == ["First.", "Second.", "Second."]


async def test_the_name_of_a_file_need_not_be_text(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is bytes for the system: it goes into a process as what it is, and into that of a spare."""
    monkeypatch.setattr("erllama_py.engine.process.spare.FILL_SECONDS", 0.0)
    path = os.path.join(tmp_path, os.fsdecode(b"tiny-\xff.gguf"))
    shutil.copy(tiny_gguf("dense", models), path)
    async with erllama.Runtime() as runtime:
        given = {**config("llama", "process", models), "model_path": path, "spare": True, "probe": True}
        model = await runtime.load_model("m", given)  # type: ignore[arg-type]  # made of parts
        await until(lambda: model.info.spare_pid is not None)
        before, spare = (await model.complete(TEXT, **GREEDY)).reply, model.info.spare_pid
        os.kill(model.info.pid or 0, signal.SIGKILL)
        await until(lambda: model.info.pid == spare)
        assert (await model.complete(TEXT, **GREEDY)).reply == before
