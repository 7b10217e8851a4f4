"""What runs over the weights of another engine, in its process: where it does not end, the process does."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
from helpers.anywhere import Anywhere, configuration, is_alive, nothing_left, running
from helpers.engine import ends, generate
from helpers.runtime import until

from erllama_py.engine.embedding import Embedder, EmbedderOpts, Part
from erllama_py.engine.evidence import EngineDied
from erllama_py.engine.pace import LEAST_SECONDS
from erllama_py.engine.process import child as children

pytestmark = pytest.mark.anyio


def is_stopped(pid: int) -> bool:
    """Whether none of its threads runs any more."""
    threads = Path(f"/proc/{pid}/task").iterdir()
    return all((one / "stat").read_text().rpartition(")")[2].split()[0] == "T" for one in threads)


async def was_ended(anywhere: Anywhere) -> bool:
    """Whether its process is killed because of what did not end in it."""
    with anyio.fail_after(20):
        await anywhere.engine.ended.wait()
    failure = anywhere.engine.failure
    assert isinstance(failure, EngineDied)
    return failure.report.reason == "killed" and "told to end in it" in failure.report.problem


async def test_an_engine_that_does_not_end_ends_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its decode hangs: nobody waits for it without a limit."""
    monkeypatch.setattr(children, "END_SECONDS", 0.05)
    with nothing_left():
        async with running(configuration("process")) as first:
            async with running(configuration("process", hang_decode_after=0), lender=first) as guest:
                engine: Any = guest.engine
                guest.engine.submit(generate(1, range(5)))
                await until(lambda: engine._recorder.doing().operation == "prefill")
            assert await was_ended(first)


async def test_an_embedder_that_does_not_end_ends_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here because the whole process was stopped, with nothing to do: the watchdog leaves that alone."""
    monkeypatch.setattr(children, "END_SECONDS", 0.05)
    with nothing_left():
        async with running(configuration("process")) as first:
            embedder = first.source.embedder(EmbedderOpts(ranks=False, threads=1))
            await anyio.to_thread.run_sync(embedder.load)
            os.kill(first.engine.pid or 0, signal.SIGSTOP)
            await until(lambda: is_stopped(first.engine.pid or 0))
            await anyio.to_thread.run_sync(embedder.close)
            assert await was_ended(first)


async def test_one_that_has_ended_in_time_leaves_the_process_alone() -> None:
    """When its time is over, the process goes on."""
    with nothing_left():
        async with running(configuration("process")) as first:
            child: Any = first.engine
            child = child._child
            async with running(configuration("process"), lender=first):
                pass
            embedder = first.source.embedder(EmbedderOpts(ranks=False, threads=1))
            await anyio.to_thread.run_sync(embedder.load)
            await anyio.to_thread.run_sync(embedder.close)
            for number in range(child.new_number()):
                if number not in child._recorders:
                    child._end_stuck(number)
            first.engine.submit(generate(1, range(5)))
            await first.until(ends(1))
            assert first.engine.failure is None
            assert is_alive(first.engine.pid or 0)


async def test_what_an_embedder_takes_is_learned_as_with_decodes() -> None:
    """One that hangs is asked as soon as an engine would be, however many tokens it has been given."""
    with nothing_left():
        async with running(configuration("process", hang_decode_after=3)) as first:
            engine: Any = first.engine
            embedder = first.source.embedder(EmbedderOpts(ranks=False, threads=1))
            await anyio.to_thread.run_sync(embedder.load)
            parts = [Part(0, 0, [1, 2, 3, 4] * 8, True)]
            for _ in range(3):
                assert await anyio.to_thread.run_sync(embedder.compute, parts) is not None
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(hangs, embedder, parts)
                await until(lambda: engine._child.progress().doing == "embed")
                assert engine._child.progress().patience == LEAST_SECONDS
                os.kill(first.engine.pid or 0, signal.SIGKILL)
            await anyio.to_thread.run_sync(embedder.close)


async def hangs(embedder: Embedder, parts: list[Part]) -> None:
    """Until its process is killed."""
    with pytest.raises(EngineDied):
        await anyio.to_thread.run_sync(embedder.compute, parts)
