"""Checks of structures that take long: few of them at a time, and whatever has no structure never waits for them."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import anyio
import pytest
from helpers.runtime import stub_runtime, until
from helpers.tiny_vocabulary import tiny_vocabulary

import erllama_py as erllama
from erllama_py.chat.structure import structure_text
from erllama_py.engine.structure import Matcher
from erllama_py.handle import caller, reading
from erllama_py.handle.structured import check, structured

pytestmark = pytest.mark.anyio


async def test_slow_checks_take_few_threads_and_hold_up_no_other_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five at once: `CHECKS` of them run, the others wait for those; a call whose deadline passes meanwhile ends."""
    go, running, most = threading.Event(), 0, 0

    def slow(*given: Any) -> Any:
        nonlocal running, most
        running += 1
        most = max(most, running)
        go.wait()
        running -= 1
        return structured(*given)

    monkeypatch.setattr(reading, "structured", slow)
    replies: list[str] = []
    async with stub_runtime() as (_, model), anyio.create_task_group() as group:

        async def ask() -> None:
            replies.append((await model.complete("x", choice=["yes"])).reply)

        for _ in range(5):
            group.start_soon(ask)
        try:
            await until(lambda: running == caller.CHECKS)
            assert (await model.complete("x", response_tokens=2, ignore_eos=True)).finish_reason == "length"
            late = await model.complete("x", choice=["no"], deadline=0.001)
            assert late.finish_reason == "deadline"
            assert replies == []
        finally:
            go.set()  # a thread that waits for ever would keep the runtime from closing
    assert (replies, most) == (["yes"] * 5, caller.CHECKS)


async def test_a_check_that_fails_leaves_its_place_to_the_next() -> None:
    """More bad ones than places, then a good one."""
    async with stub_runtime() as (_, model):
        for _ in range(caller.CHECKS + 1):
            with pytest.raises(erllama.InvalidGrammar):
                await model.complete("x", regex="(")
        assert (await model.complete("x", regex="a")).reply == "a"


def test_a_vocabulary_that_is_closed_meanwhile_is_not_the_structures_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that crashes or is unloaded closes it: texts are not cut into tokens any more, and what is forced is not
    found. The caller waits for the next one, or hears that there is none."""
    with tiny_vocabulary("bpe", tmp_path) as vocabulary:
        tokenizer, mask = vocabulary.structure_tokenizer(), Matcher.mask

        def closed(matcher: Matcher) -> Any:
            vocabulary.close()
            return mask(matcher)

        monkeypatch.setattr(Matcher, "mask", closed)
        with pytest.raises(erllama.ModelNotLoaded):
            check(structure_text(json_schema={"type": "object"}) or "", tokenizer)
