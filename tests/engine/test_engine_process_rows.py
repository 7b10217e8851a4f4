"""Rows of an engine in a process of its own: they cross without a copy, outlive the process, and keep to one budget."""

from __future__ import annotations

import os
import resource
import signal
from pathlib import Path

import anyio.lowlevel
import pytest
from helpers.anywhere import Anywhere, configuration, nothing_left, running
from helpers.engine import ends, generate
from helpers.runtime import until

from erllama_py.buffers import BufferPool
from erllama_py.engine.jobs import Cancel, Capture, Captured, Failed, Finished, Restore, Restored
from erllama_py.engine.process.engine import EngineProcess
from erllama_py.engine.process.wire.payloads import IN_FRAME_BYTES

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.either_loop]

PROMPT = list(range(3, 203))


async def captured(anywhere: Anywhere, request_id: int) -> Captured:
    """All positions of the prompt, copied out of sequence 0."""
    anywhere.engine.submit(Capture(request_id=request_id, seq_id=0, start=0, end=len(PROMPT), reason="evict"))
    found = await anywhere.until(lambda one: isinstance(one, Captured) and one.request_id == request_id)
    assert isinstance(found, Captured)
    anywhere.outcomes.remove(found)
    return found


async def restored(anywhere: Anywhere, request_id: int, payload: memoryview) -> Restored:
    """A row put into sequence 1."""
    job = Restore(request_id=request_id, seq_id=1, start=0, end=len(PROMPT), payload=payload)
    anywhere.engine.submit(job)
    found = await anywhere.until(lambda one: isinstance(one, Restored) and one.request_id == request_id)
    assert isinstance(found, Restored)
    return found


def leased_there(anywhere: Anywhere) -> int:
    """Bytes that the engine's process has lent, as the ledger has it."""
    assert isinstance(anywhere.engine, EngineProcess)
    return anywhere.engine._buffers.share().own.others()[0]


async def test_a_row_is_seen_where_it_lies_and_given_back(models: Path) -> None:
    """It can only be read; the process lends its buffer again once nobody looks."""
    with nothing_left():
        async with running(configuration("process", models)) as anywhere:
            anywhere.engine.submit(generate(1, PROMPT))
            await anywhere.until(ends(1))
            row = await captured(anywhere, 2)
            assert row.payload is not None
            assert row.payload.readonly
            assert len(row.payload) > IN_FRAME_BYTES
            assert leased_there(anywhere) > 0
            before = bytes(row.payload)
            assert (await restored(anywhere, 3, row.payload)).ok
            assert bytes(row.payload) == before
            again = await captured(anywhere, 4)
            assert again.payload == row.payload
            del row, again
            await until(lambda: leased_there(anywhere) == 0)


async def test_a_row_in_private_memory_is_restored_too(models: Path) -> None:
    """It is copied on the way."""
    async with running(configuration("process", models)) as anywhere:
        anywhere.engine.submit(generate(1, PROMPT))
        await anywhere.until(ends(1))
        row = await captured(anywhere, 2)
        assert row.payload is not None
        assert (await restored(anywhere, 3, memoryview(bytes(row.payload)))).ok
        bad = await restored(anywhere, 4, memoryview(bytes(len(row.payload))))
        assert (bad.ok, bad.bad) == (False, True)


async def test_a_row_outlives_the_process_it_came_from(models: Path) -> None:
    """Another takes it; until it is let go of it counts as this process's own."""
    with nothing_left():
        async with running(configuration("process", models)) as anywhere:
            anywhere.engine.submit(generate(1, PROMPT))
            await anywhere.until(ends(1))
            row = await captured(anywhere, 2)
            assert row.payload is not None
            whole = bytes(row.payload)
            os.kill(anywhere.engine.pid or 0, signal.SIGSEGV)
            await anywhere.engine.ended.wait()
            assert leased_there(anywhere) > 0
            async with running(configuration("process", models)) as other:
                assert (await restored(other, 3, row.payload)).ok
            assert bytes(row.payload) == whole
            del row
            assert leased_there(anywhere) == 0


async def test_processes_share_a_budget(models: Path) -> None:
    """What one has lent the other has not; a row that found no buffer says so."""
    buffers = BufferPool(1 << 20)
    one, other = (
        Anywhere(configuration("process", models), buffers=buffers),
        Anywhere(configuration("process", models), buffers=buffers),
    )
    for anywhere in (one, other):
        await anywhere.load()
        anywhere.engine.submit(generate(1, PROMPT))
        await anywhere.until(ends(1))
    row = await captured(one, 2)
    assert row.payload is not None
    missed = await captured(other, 2)
    assert (missed.payload, missed.skipped) == (None, "no_buffer")
    os.kill(one.engine.pid or 0, signal.SIGKILL)
    await one.engine.ended.wait()
    assert (await captured(other, 3)).skipped == "no_buffer"
    del row
    assert (await captured(other, 4)).payload is not None
    for anywhere in (one, other):
        anywhere.engine.submit(Cancel(1))
        assert await anywhere.engine.stop(60)


async def test_buffers_are_warmed_where_they_are_used(models: Path) -> None:
    """In the engine's process, and not in this one."""
    async with running(configuration("process", models)) as anywhere:
        await anywhere.engine.warm(2, 1 << 20, never)
        assert isinstance(anywhere.engine, EngineProcess)
        buffers = anywhere.engine._buffers
        await until(lambda: buffers.share().own.others() == (0, 2 << 20))


async def test_a_process_without_descriptors_goes_on(models: Path) -> None:
    """What it copies out is copied once more on the way, and what it cannot map is computed again; later it can."""
    async with running(configuration("process", models)) as anywhere:
        anywhere.engine.submit(generate(1, PROMPT))
        await anywhere.until(ends(1))
        pid = anywhere.engine.pid or 0
        limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (0, limits[1]))
        row = await captured(anywhere, 2)
        assert row.payload is not None
        refused = await restored(anywhere, 3, row.payload)
        assert (refused.ok, refused.bad) == (False, False)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
        assert (await restored(anywhere, 4, row.payload)).ok
        again = await captured(anywhere, 5)
        assert again.payload == row.payload


async def test_a_process_that_stands_still_holds_up_nobody(models: Path) -> None:
    """Megabytes of jobs wait for it, in their order, and the loop goes on."""
    async with running(configuration("process", models)) as anywhere:
        pid = anywhere.engine.pid or 0
        os.kill(pid, signal.SIGSTOP)
        for request_id in range(1, 21):
            anywhere.engine.submit(generate(request_id, PROMPT * 500, max_new_tokens=0))
            anywhere.engine.submit(Cancel(request_id))
        anywhere.engine.submit(generate(100, PROMPT))
        await anyio.lowlevel.checkpoint()
        os.kill(pid, signal.SIGCONT)
        assert isinstance(await anywhere.until(ends(100)), Finished)
        over = [one.request_id for one in anywhere.outcomes if isinstance(one, Finished | Failed)]
        assert sorted(over) == [*range(1, 21), 100]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGABRT])
async def test_a_death_amid_rows_leaves_nothing(models: Path, number: signal.Signals) -> None:
    """Those that came are whole; what was lent to either side is free again."""
    with nothing_left():
        async with running(configuration("process", models)) as anywhere:
            anywhere.engine.submit(generate(1, PROMPT))
            await anywhere.until(ends(1))
            whole = await captured(anywhere, 2)
            assert whole.payload is not None
            for request_id in range(3, 40):
                job = Capture(request_id=request_id, seq_id=0, start=0, end=len(PROMPT), reason="evict")
                anywhere.engine.submit(job)
                back = Restore(request_id=request_id, seq_id=1, start=0, end=len(PROMPT), payload=whole.payload)
                anywhere.engine.submit(back)
            await anywhere.until(lambda one: isinstance(one, Restored))
            os.kill(anywhere.engine.pid or 0, number)
            await anywhere.engine.ended.wait()
            rows = [one for one in anywhere.outcomes if isinstance(one, Captured)]
            assert all(one.payload == whole.payload for one in rows)
            del rows, whole, job, back
            anywhere.outcomes.clear()
            assert leased_there(anywhere) == 0


async def never(*_: object) -> None:
    """Nothing is to be called here."""
    raise AssertionError
