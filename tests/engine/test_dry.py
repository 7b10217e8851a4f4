"""DRY samplers are made where they hold up no other request, and only where a copy takes little time."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from helpers.tiny_gguf import tiny_gguf

import erllama_py as erllama
from erllama_py.engine.llama.dry import MOST_PLACES, Dry, DrySamplers
from erllama_py.engine.llama.native import library


def dry(*breakers: bytes) -> Dry:
    """With these breakers."""
    return Dry(0.8, 1.75, 2, 64, breakers)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The thread of each sampler that llama.cpp makes."""
    c, threads = library().c, list[str]()
    make = c.llama_sampler_init_dry

    def noted(*given: Any) -> Any:
        threads.append(threading.current_thread().name)
        return make(*given)

    monkeypatch.setattr(c, "llama_sampler_init_dry", noted)
    return threads


@pytest.mark.parametrize(("word", "breaker"), [(b"xex", b"e"), (b"xe", b"en"), (b"een", b"eno")])
def test_breakers_that_most_tokens_have_a_part_of_are_refused(word: bytes, breaker: bytes, made: list[str]) -> None:
    """A copy of their sampler would take as long as their places are many; it is not even made."""
    samplers = DrySamplers(library(), None, lambda: [word] * (MOST_PLACES + 1))
    with pytest.raises(erllama.InvalidOption, match=f"{MOST_PLACES + 1} times, and at most {MOST_PLACES} are allowed"):
        samplers.prepare(dry(b":", breaker))
    assert made == []


@pytest.mark.slow
@pytest.mark.anyio
async def test_no_sampler_is_made_on_the_engine_thread(tmp_path: Path, made: list[str]) -> None:
    """Nor on the event loop, nor twice for the same options."""
    options: Any = {"dry_multiplier": 0.8, "response_tokens": 3, "seed": 1}
    async with erllama.Runtime() as runtime:
        model = await runtime.load_model("m", {"model_path": tiny_gguf("dense", tmp_path)})
        for more in ({}, {"n": 3}, {"reproducible": True}, {"temperature": 0.0}, {"penalty_last_n": 5}):
            await model.complete("hello", **options, **more)
        await model.complete("hello", dry_sequence_breakers=["e", "x:"], **options)
        with pytest.raises(erllama.InvalidOption):
            await model.complete("hello", dry_sequence_breakers=[""], **options)
    assert len(made) == 2
    assert {name.rpartition("_")[0] for name in made} == {"caller"}
