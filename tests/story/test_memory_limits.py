"""A model whose process has a limit of memory, from far too little to plenty: what does not fit says so, wherever it is
met, and whatever it is that has asked for memory there; nobody else notices, and nothing is left."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from helpers.leftovers import belongings, same_as
from helpers.storm import GUARD_SECONDS, SCHEMA, TEXTS
from helpers.tiny_gguf import tiny_gguf

import erllama_py as erllama
from erllama_py.engine.no_memory import says_no_memory, says_no_thread
from erllama_py.engine.process.life import limits

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.either_loop]

CONTEXT: dict[str, Any] = {
    "n_ctx": 4096, "n_batch": 512, "n_ubatch": 512, "n_seq_max": 4, "n_threads": 2, "n_threads_batch": 2,
    "flash_attn": False, "type_k": "f32", "type_v": "f32",
}  # fmt: skip
# MiB. With 2 CPUs all that is asked for here takes 200: an interpreter 80, cells and computing the rest.
LIMITS = {"cgroup": (32, 38), "private data": (35, 56, 88, 98, 124, 146, 158, 168, 192)}
PROMPT = [*b"once upon a time, " * 30]
BRIEF: dict[str, Any] = {"response_tokens": 8, "temperature": 0.0}

CALLS: tuple[Callable[[erllama.Model], Awaitable[object]], ...] = (
    lambda model: model.complete(PROMPT, **BRIEF, ignore_eos=True),
    lambda model: model.complete([*PROMPT, 65], **BRIEF, reproducible=True),
    lambda model: model.complete("once", **BRIEF, json_schema=SCHEMA),
    lambda model: model.embed(TEXTS),
)


def config(model_path: str, **more: Any) -> Any:
    return {"model_path": model_path, "isolation": "process", "context_opts": CONTEXT, **more}


@pytest.mark.parametrize(("bound", "most"), [(bound, most) for bound in LIMITS for most in LIMITS[bound]])
async def test_what_does_not_fit_says_so(
    bound: str, most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A load is refused, a crash is told as what it was, and a model that cannot do what it is asked for is given up;
    none hangs."""
    if bound == "private data":
        monkeypatch.setattr(limits, "make_group", lambda *_: None)
    path = str(tiny_gguf("dense", tmp_path))
    async with erllama.Runtime() as runtime:  # so that nothing is made for the first time later
        first = await runtime.load_model("first", config(path))
        expected = (await first.complete(PROMPT, **BRIEF)).generated
    before, restarts = belongings(), {"intensity": 4, "backoff_max": 0.01}
    async with erllama.Runtime() as runtime:
        other = await runtime.load_model("other", config(path))
        with anyio.fail_after(GUARD_SECONDS):
            limited = config(path, process_opts={"memory_bytes": most << 20}, restarts=restarts)
            found = await _outcome(runtime.load_model("m", limited))
            if isinstance(found, erllama.Model):
                await _use(found)
                await runtime.unload(found)
            else:
                assert isinstance(found, erllama.ModelLoadError), found
                assert not isinstance(found, erllama.UnsupportedModel), found
                assert _is_of_memory(found), found
            assert (await other.complete(PROMPT, **BRIEF)).generated == expected
        assert other.info.restarts == 0
    await same_as(before)


async def _use(model: erllama.Model) -> None:
    """Each call is answered, or told why not; and a model that has come back is sound."""
    for call in CALLS:
        found = await _outcome(call(model))
        assert not isinstance(found, erllama.ErllamaError) or _is_of_memory(found), found
        if (report := model.info.last_crash) is not None:
            assert report.reason == "out of memory", report


async def _outcome(work: Awaitable[object]) -> object:
    """What it comes to: an answer, or an error of ours."""
    try:
        return await work
    except erllama.ErllamaError as error:
        return error


def _is_of_memory(error: erllama.ErllamaError) -> bool:
    return says_no_memory(str(error)) or says_no_thread(str(error))
