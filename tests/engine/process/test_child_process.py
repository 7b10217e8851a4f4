"""A child of a model: begun, watched, told apart by how it ends; whatever becomes of it, nothing of it is left."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
from helpers.child_tasks import child_tasks
from helpers.leftovers import belongings, same_as
from helpers.runtime import until

from erllama_py.engine.children.spawn import CannotSpawn
from erllama_py.engine.process.life import child_process, limits
from erllama_py.engine.process.life.child_process import ChildProcess, Progress
from erllama_py.engine.process.life.death import Death
from erllama_py.errors import InvalidOption
from erllama_py.options.process import ProcessOpts

pytestmark = [pytest.mark.anyio, pytest.mark.either_loop]

GUARD_SECONDS = 60.0
WAITS = "import signal; signal.pause()"
ASSERTION = "/build/ggml/src/ggml.c:123: GGML_ASSERT(a == b) failed"


@pytest.fixture(autouse=True, scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A task that does what it is told."""
    with child_tasks(tmp_path_factory.mktemp("package")):
        yield


@pytest.fixture(autouse=True)
async def nothing_left() -> AsyncIterator[None]:
    """Neither a process, nor a descriptor, nor a thread."""
    before = belongings()
    yield
    await same_as(before)


def child(code: str, **more: Any) -> ChildProcess:
    return ChildProcess("does", {"code": code}, model_id="m", **more)


async def over(one: ChildProcess) -> Death:
    """What has ended it, once its thread has ended too."""
    with anyio.fail_after(GUARD_SECONDS):
        await one.ended.wait()
        await until(lambda: not one._thread.is_alive())
    assert one.death is not None
    return one.death


ENDS = {
    "by a fault": ("import os; os.kill(os.getpid(), 11)", "signal", "SIGSEGV", "SIGSEGV"),
    "by an assertion": (
        f"import os, sys; sys.stderr.write({ASSERTION!r} + '\\n'); os.abort()",
        "signal",
        "SIGABRT",
        "SIGABRT: ggml.c:123: GGML_ASSERT(a == b) failed",
    ),
    "by itself": ("import os; os._exit(7)", "exit code", None, "exit code 7"),
    "in Python": ("raise ValueError('no')", "exit code", None, "exit code 1"),
    "without memory in Python": ("raise MemoryError", "out of memory", None, "out of memory, of the machine"),
    "in order": ("code = 0", None, None, "it ended in order"),
    "without its parent": ("code = 12", "lost parent", None, "its parent was gone"),
}


@pytest.mark.parametrize("how", ENDS)
async def test_what_ended_a_child_is_told_apart(how: str) -> None:
    """By its status, and by what it wrote last."""
    code, reason, name, problem = ENDS[how]
    one = child(code)
    pid = await one.start()
    death = await over(one)
    assert (death.reason, death.signal, death.pid) == (reason, name, pid)
    assert death.problem.startswith(problem)


async def test_a_child_that_takes_more_than_its_limit_is_out_of_memory() -> None:
    """By a group of processes or by its data, as the system allows."""
    one = child("kept = []\nwhile True: kept.append(bytearray(8 << 20))", opts=ProcessOpts(memory_bytes=128 << 20))
    await one.start()
    death = await over(one)
    assert (death.reason, death.problem.partition(" (")[0]) == ("out of memory", "out of memory, of its limit")


UNCAUGHT = """
import threading
from erllama_py.engine.children.uncaught import end_uncaught
end_uncaught()
def fails(error):
    raise error
"""
IN_A_THREAD = UNCAUGHT + "threading.Thread(target=fails, args=({},)).start()\nthreading.Event().wait()"
IN_A_FINALIZER = (
    UNCAUGHT
    + """
import weakref
class One: pass
one = One()
weakref.finalize(one, fails, {})
del one
import os; os._exit(7)
"""
)


@pytest.mark.parametrize(
    ("code", "reason", "problem"),
    [
        (IN_A_THREAD.format("ValueError('no')"), "exit code", "exit code 1"),
        (IN_A_THREAD.format("MemoryError()"), "out of memory", "out of memory, of the machine (exit code 13)"),
        (IN_A_FINALIZER.format("MemoryError()"), "out of memory", "out of memory, of the machine (exit code 13)"),
        (IN_A_FINALIZER.format("ValueError('no')"), "exit code", "exit code 7"),
    ],
)
async def test_an_error_that_nobody_catches_ends_a_child(code: str, reason: str, problem: str) -> None:
    """In any thread of it, for without that one it would be of no use; and where memory is short, wherever it is."""
    one = child(code)
    await one.start()
    death = await over(one)
    assert (death.reason, death.problem.partition(":")[0]) == (reason, problem)
    assert "Traceback (most recent call last):" in death.texts


async def test_a_thread_that_the_limit_leaves_no_stack_for_is_out_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it bounds private data, of which a stack is."""
    monkeypatch.setattr(limits, "make_group", lambda *_: None)
    code = (
        UNCAUGHT
        + """
from erllama_py.engine.children.uncaught import end_with
try:
    while True: threading.Thread(target=threading.Event().wait).start()
except RuntimeError as error: end_with(error)
"""
    )
    one = child(code, opts=ProcessOpts(memory_bytes=128 << 20))
    await one.start()
    death = await over(one)
    problem = "out of memory, of its limit (exit code 13): RuntimeError: can't start new thread"
    assert (death.reason, death.problem) == ("out of memory", problem)


async def test_an_error_of_a_library_is_known_whatever_comes_after_it() -> None:
    """It is told before the log has it, and before what the library writes at the end."""
    code = (
        "from erllama_py.engine.process.inside import child_log\n"
        "child_log.note_error('CUDA error: out of memory')\n"
        f"import os, sys; sys.stderr.write({ASSERTION!r} + '\\n'); os.abort()"
    )
    one = child(code)
    await one.start()
    death = await over(one)
    assert death.texts[:2] == ("CUDA error: out of memory", ASSERTION)
    assert death.reason == "out of memory"


async def test_numpy_begins_no_threads_in_a_child() -> None:
    """Their buffers would count in its limit, for each CPU of the machine."""
    one = child("import numpy, os; code = len(os.listdir('/proc/self/task'))")
    await one.start()
    assert (await over(one)).exit_code == 1


async def test_a_child_has_the_cpus_and_the_niceness_that_were_given(tmp_path: Path) -> None:
    """Before it has a second thread."""
    cpu = max(os.sched_getaffinity(0))
    one = child(WAITS, opts=ProcessOpts(cpus=(cpu,), nice=3))
    pid = await one.start()
    assert os.sched_getaffinity(pid) == {cpu}
    assert os.getpriority(os.PRIO_PROCESS, pid) == min(19, os.getpriority(os.PRIO_PROCESS, 0) + 3)
    assert await one.end(0.0)
    assert (await over(one)).reason == "killed"
    refused = child(WAITS, opts=ProcessOpts(cpus=(cpu, 4000)))
    with pytest.raises(InvalidOption, match="may not use CPU 4000"):
        await refused.start()
    await refused.ended.wait()  # nobody waits for a process that was not begun


async def test_the_first_reason_to_kill_a_child_counts() -> None:
    """And what it was told to do in order is no crash."""
    one = child(WAITS)
    await one.start()
    one.kill("killed", "its model is unloaded")
    one.kill("watchdog", "it hangs")
    death = await over(one)
    assert (death.reason, death.problem, death.signal) == ("killed", "its model is unloaded", "SIGKILL")


async def test_a_child_ends_with_the_loop_of_its_model() -> None:
    """Also one that nobody has told to end: an application may have left its runtime as it was."""

    async def begun() -> ChildProcess:
        one = child(WAITS)
        await one.start()
        return one

    one = await anyio.to_thread.run_sync(asyncio.run, begun())
    await until(lambda: not one._thread.is_alive())


async def test_a_start_that_is_cancelled_leaves_nothing() -> None:
    """What was begun meanwhile is killed."""
    one = child(WAITS)
    with anyio.CancelScope() as scope:
        scope.cancel()
        await one.start()
    death = await over(one)
    assert (death.reason, death.problem) == ("killed", "its start was cancelled")


async def test_a_child_that_cannot_be_begun_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no interpreter, or no room for a process."""
    monkeypatch.setattr(sys, "executable", "")
    monkeypatch.setattr(sys, "exec_prefix", "/nowhere")
    monkeypatch.setattr(sys, "base_exec_prefix", "/nowhere")
    one = child(WAITS)
    with pytest.raises(CannotSpawn, match="no Python interpreter"):
        await one.start()
    assert (await over(one)).pid is None


class Standing:
    """A child's engine that has work and does not get on with it."""

    def __init__(self, patience: float) -> None:
        self.patience, self.has_work, self.asked = patience, False, anyio.Event()
        self.looks = 0

    def __call__(self) -> Progress:
        self.looks += 1
        return Progress(beats=1, has_work=self.has_work, patience=self.patience, doing="decode")


async def test_a_child_that_is_stopped_while_it_has_work_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    """One without work is left alone until it gets some."""
    monkeypatch.setattr(child_process, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(child_process, "_IDLE_SECONDS", 0.05)
    standing = Standing(patience=1000.0)
    one = child(WAITS, progress=standing)
    os.kill(await one.start(), signal.SIGSTOP)
    await until(lambda: standing.looks > 5)
    assert one.death is None
    standing.has_work = True
    death = await over(one)
    assert death.reason == "watchdog"
    assert death.problem.startswith("it was stopped for 2")


async def test_a_child_that_hangs_is_asked_and_killed_with_its_traces(monkeypatch: pytest.MonkeyPatch) -> None:
    """What its threads did is among its last lines."""
    monkeypatch.setattr(child_process, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr("erllama_py.engine.process.life.watchdog.ANSWER_SECONDS", 0.5)
    standing = Standing(patience=0.5)
    hangs = "from erllama_py.engine.children.traces import show_traces\nshow_traces()\nimport sys\n"
    hangs += "print('up', file=sys.stderr, flush=True)\nimport time\ntime.sleep(1000)"
    one = child(hangs, progress=standing, ask=lambda: standing.asked.set())
    await one.start()
    await until(lambda: ("up", False) in one.lines.last())
    standing.has_work = True
    death = await over(one)
    assert death.reason == "watchdog"
    assert standing.asked.is_set()
    assert any("does.py" in line or "Current thread" in line for line in death.texts)


async def test_a_child_has_no_signal_blocked() -> None:
    """Whatever the thread has blocked that begins it: the watchdog asks by one."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1, signal.SIGTERM})
    try:
        one = child("import signal, sys\nprint(signal.pthread_sigmask(signal.SIG_BLOCK, ()), file=sys.stderr)")
        await one.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    assert (await over(one)).texts == ("set()",)


async def test_long_and_broken_output_is_taken_line_by_line() -> None:
    """Without an end, without UTF-8, in megabytes; the last of it is kept."""
    writes = "import sys\nout = sys.stderr.buffer\nout.write(b'x' * 3000000)\nout.write(b'\\n\\xff\\n\\n')\n"
    writes += "out.write(b'line\\n' * 20000)\nout.write(b'end')\nout.flush()\nimport os\nos.close(1)\nos.close(2)\n"
    one = child(writes)
    await one.start()
    death = await over(one)
    assert death.texts[-2:] == ("line", "end")


async def test_a_child_is_not_given_what_it_has_another_of() -> None:
    """Its standard input is its own: where this process has closed that, something else has its number here."""
    one = child(WAITS, pass_fds=(0,))
    with pytest.raises(CannotSpawn, match="descriptor 0, 1 or 2 of this process is closed"):
        await one.start()
    await over(one)
