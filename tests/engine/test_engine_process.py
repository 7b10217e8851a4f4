"""The life and death of an engine in a process of its own: what ends it is told, and nothing of it is left."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from typing import Any, cast

import anyio
import anyio.to_thread
import pytest
from helpers.anywhere import Anywhere, configuration, is_alive, nothing_left, running
from helpers.engine import ends, generate
from helpers.runtime import until

from erllama_py.engine.embedding import EmbedderOpts, Part
from erllama_py.engine.evidence import EngineDied
from erllama_py.engine.jobs import Died, Finished, Prefilled, Text
from erllama_py.errors import CrashReport

pytestmark = [pytest.mark.anyio, pytest.mark.either_loop]

SLOW = configuration("process", seconds_per_token=0.005)


def report_of(anywhere: Anywhere) -> CrashReport:
    assert isinstance(anywhere.engine.failure, EngineDied)
    return anywhere.engine.failure.report


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT])
async def test_a_signal_is_told_by_name_with_what_was_under_way(number: signal.Signals) -> None:
    """What had been sent is delivered, then `Died`; the report names the request."""
    with nothing_left():
        async with running(configuration("process", hang_decode_after=1)) as anywhere:
            pid, engine = anywhere.engine.pid, cast("Any", anywhere.engine)
            assert pid not in (None, os.getpid())
            anywhere.engine.submit(generate(7, range(5), max_new_tokens=1000, stream=True))
            await anywhere.until(lambda outcome: isinstance(outcome, Text))
            await until(lambda: engine._recorder.doing().operation == "decode")
            os.kill(pid or 0, number)
            await anywhere.engine.ended.wait()
            assert isinstance(anywhere.outcomes[-1], Died)
            report = report_of(anywhere)
            assert (report.reason, report.signal, report.pid) == ("signal", number.name, pid)
            assert report.requests == (7,)
            assert report.counters["decodes"] >= 1
            anywhere.engine.submit(generate(8, range(5)))  # nobody hears it
        assert not is_alive(pid or 0)


async def test_an_unload_leaves_nothing() -> None:
    """No process, no descriptor, no thread."""
    threads = set(threading.enumerate())
    with nothing_left():
        async with running(configuration("process")) as anywhere:
            pid = anywhere.engine.pid
            embedder = anywhere.source.embedder(EmbedderOpts(ranks=False, threads=1))
            embedder.load()
            anywhere.engine.submit(generate(1, range(5)))
            await anywhere.until(ends(1))
            embedder.close()
        assert anywhere.engine.failure is None
    assert not is_alive(pid or 0)
    await until(lambda: not set(threading.enumerate()) - threads)


async def test_a_load_that_is_given_up_leaves_nothing() -> None:
    """The process is killed, whatever it is in."""
    with nothing_left():
        anywhere = Anywhere(configuration("process", load_seconds=3600.0))
        async with anyio.create_task_group() as group:
            group.start_soon(anywhere.load)
            await until(lambda: anywhere.engine.pid is not None)
            pid = anywhere.engine.pid
            group.cancel_scope.cancel()
        assert await anywhere.engine.stop(60)
        assert not is_alive(pid or 0)


async def test_an_engine_that_does_not_end_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its decode hangs; its memory is given back all the same."""
    monkeypatch.setattr("erllama_py.engine.process.engine.END_SECONDS", 0.05)
    with nothing_left():
        async with running(configuration("process", hang_decode_after=0)) as anywhere:
            anywhere.engine.submit(generate(1, range(5)))
            await until(lambda: anywhere.engine.overdue() is not None or _doing(anywhere) == "prefill")
            pid = anywhere.engine.pid
        assert not is_alive(pid or 0)


@pytest.mark.parametrize("of_a_guest", [False, True])
async def test_an_engine_whose_socket_ends_is_of_no_use(of_a_guest: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its process is killed, although it lives and hears on its other sockets: requests would wait forever."""
    monkeypatch.setattr("erllama_py.engine.process.engine.END_SECONDS", 0.05)
    with nothing_left():
        async with running(SLOW) as first, running(SLOW, lender=first) as guest:
            one = guest if of_a_guest else first
            one.engine.submit(generate(7, range(5), max_new_tokens=1000, stream=True))
            await one.until(lambda outcome: isinstance(outcome, Text))
            engine: Any = one.engine
            engine._channel._socket.shutdown(socket.SHUT_RDWR)
            await first.engine.ended.wait()
            await guest.engine.ended.wait()
            assert report_of(one).reason == "killed"
            assert "closed the socket" in report_of(one).problem
            assert isinstance(one.outcomes[-1], Died)


def _doing(anywhere: Anywhere) -> str:
    engine: Any = anywhere.engine
    return str(engine._recorder.doing().operation)


async def test_guests_end_with_the_process_and_say_why() -> None:
    """A second engine, and an embedder in the middle of a call."""
    with nothing_left():
        async with running(SLOW) as first, running(SLOW, lender=first) as second:
            embedder = first.source.embedder(EmbedderOpts(ranks=False, threads=1))
            embedder.load()
            failures: list[Exception] = []

            def compute() -> None:
                try:
                    embedder.compute([Part(0, 0, [1] * 500, True)])
                except Exception as error:
                    failures.append(error)

            thread = threading.Thread(target=compute)
            thread.start()
            second.engine.submit(generate(3, range(5), max_new_tokens=1000))
            await second.until(lambda outcome: isinstance(outcome, Prefilled))
            os.kill(first.engine.pid or 0, signal.SIGKILL)
            await first.engine.ended.wait()
            await second.engine.ended.wait()
            await until(lambda: not thread.is_alive())
            assert [type(error) for error in failures] == [EngineDied]
            assert report_of(second).signal == report_of(first).signal == "SIGKILL"
            assert report_of(second).requests == (3,)
            embedder.close()


PARENT = """
import asyncio, sys
from erllama_py import Runtime

async def main():
    async with Runtime() as runtime:
        model = await runtime.load_model("m", {"backend": "stub", "isolation": "process"})
        print(model.info.pid, flush=True)
        await asyncio.sleep(3600)

asyncio.run(main())
"""


def begin_parent() -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True)


async def test_it_does_not_outlive_its_parent() -> None:
    """However that ended: here by SIGKILL, which nobody can handle."""
    with begin_parent() as parent:
        try:
            assert parent.stdout is not None
            pid = int(await anyio.to_thread.run_sync(parent.stdout.readline))
            assert is_alive(pid)
        finally:
            parent.kill()
    await until(lambda: not is_alive(pid))


async def test_one_that_says_nothing_sensible_is_ended() -> None:
    """What is no frame ends it: nothing that follows could be believed."""
    async with running(SLOW) as anywhere:
        engine: Any = anywhere.engine
        engine._channel._socket.send(b"\0nonsense")
        await anywhere.engine.ended.wait()
        assert report_of(anywhere).reason == "exit code"


async def test_requests_of_a_child_that_lives_are_not_touched_by_the_death_of_another() -> None:
    """Each model has its own."""
    async with running(SLOW) as one, running(SLOW) as other:
        for anywhere in (one, other):
            anywhere.engine.submit(generate(1, range(5), max_new_tokens=50))
        await one.until(lambda outcome: isinstance(outcome, Prefilled))
        os.kill(one.engine.pid or 0, signal.SIGKILL)
        await one.engine.ended.wait()
        assert isinstance(await other.until(ends(1)), Finished)
