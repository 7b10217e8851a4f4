"""Checks of structures that take long: few of them at a time, and whatever has no structure never waits for them."""

from __future__ import annotations

import threading
from typing import Any

import anyio
import pytest
from helpers.runtime import stub_runtime, until

import erllama_py as erllama
from erllama_py.handle import caller, reading
from erllama_py.handle.structured import structured

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
