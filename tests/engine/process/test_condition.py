"""What the kernel says of a process, as files in a folder and of real ones."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest
from helpers.kernel_files import kernel_files

from erllama_py.engine.process.life.condition import Conditions


def files(
    state: str = "S (sleeping)", tracer: int = 0, waited: int = 0, task: str = "S", ran: int = 5
) -> dict[str, str]:  # fmt: skip
    return {
        "proc/7/status": f"Name:\tx\nState:\t{state}\nTracerPid:\t{tracer}\nSigCgt:\t0000000000000200\n",
        "proc/7/task/7/schedstat": "5 0 1", "proc/7/task/7/stat": "7 (a) b) S 1",
        "proc/7/task/8/schedstat": f"{ran} {waited} 1", "proc/7/task/8/stat": f"8 (a) b) {task} 1",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("seen", "condition"),
    [
        (files(), "running"),
        (files("T (stopped)"), "stopped"),
        (files("t (tracing stop)", 99), "traced"),
        (files(tracer=99), "traced"),
        (files(waited=700_000_000), "held"),
        (files(waited=200_000_000), "running"),
        (files(task="D"), "held"),
        ({}, "running"),
    ],
)
def test_a_condition_is_read(seen: dict[str, str], condition: str, tmp_path: Path) -> None:
    """Of all of its threads, over the time since the last look."""
    one = Conditions(7, kernel_files(tmp_path, files()))
    assert one.since_last(10.0) == "running"
    for name in [] if seen else files():
        (tmp_path / name).unlink()
    kernel_files(tmp_path, seen)
    assert one.since_last(11.0) == condition
    assert one.catches(signal.SIGUSR1) is bool(seen)
    assert not one.catches(signal.SIGUSR2)


def test_a_wait_for_a_cpu_that_goes_on_is_one(tmp_path: Path) -> None:
    """The kernel counts it when it ends: until then the thread is ready to run, and does not."""
    one = Conditions(7, kernel_files(tmp_path, files(task="R")))
    assert one.since_last(10.0) == "running"
    assert (one.since_last(11.0), one.ran) == ("held", 0.0)
    kernel_files(tmp_path, files(task="R", ran=250_000_005))
    assert (one.since_last(12.0), one.ran) == ("held", 0.25)
    kernel_files(tmp_path, files(task="R", ran=850_000_005))
    assert one.since_last(13.0) == "running"
    kernel_files(tmp_path, files(task="S", ran=850_000_005))
    assert [one.since_last(14.0), one.since_last(15.0)] == ["running", "running"]


def test_one_that_ran_in_between_was_not_stopped(tmp_path: Path) -> None:
    """It is stopped again and again, and every look sees it so."""
    one = Conditions(7, kernel_files(tmp_path, files("T (stopped)", task="T")))
    assert one.since_last(10.0) == "stopped"
    kernel_files(tmp_path, files("T (stopped)", task="T", ran=6))
    assert [one.since_last(10.5), one.since_last(11.0)] == ["running", "stopped"]


def test_a_real_process_that_is_stopped_is_seen() -> None:
    """And one that is gone counts as running: it is waited for elsewhere."""
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as process:
        os.kill(process.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
        assert Conditions(process.pid).since_last(1.0) == "stopped"
        process.kill()
    assert Conditions(process.pid).since_last(1.0) == "running"
