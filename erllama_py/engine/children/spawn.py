"""Beginning a child, watching it, and telling how it ended. Blocks: for a worker thread.

A child is a new interpreter, never a fork: nothing of this process goes into it but its environment and `sys.path`, no
lock, no descriptor but those that it is given, and the application's `__main__` is not run in it. It cannot outlive
this process, nor the thread that began it (see `entry`). `run_child` gives it a task and a time; what lives longer is
begun with `begin` by who watches it: see `engine.process.life.child_process`.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from erllama_py.engine.children.ended import Ended, How, ended_of

_PACKAGE = Path(__file__).parents[2]
_LAST_BYTES = 16 << 10  # kept of what a child writes: its last words, and the lines before them
_READ_BYTES = 64 << 10
_LOOK_SECONDS = 0.05  # how soon a caller that wants it no more is heard
_KILL_SECONDS = 5.0  # for the kernel to end a killed child; one that waits for a disk that hangs stays behind

_STANDARD = range(3)  # input, output, error

# ggml would start a debugger to show a trace, and initialise GPUs that are not needed. numpy's OpenBLAS would begin a
# thread for each CPU, with 40 MB of private data each, and multiply no matrix.
_LITTLE = {"GGML_NO_BACKTRACE": "1", "OPENBLAS_NUM_THREADS": "1"}
_NO_DEVICES = {
    "CUDA_VISIBLE_DEVICES": "-1",
    "HIP_VISIBLE_DEVICES": "-1",
    "GGML_VK_VISIBLE_DEVICES": "",
}


class CannotSpawn(Exception):
    """No child could be begun; the text says why."""


def run_child(
    task: str, given: Any, *, seconds: float, wanted: Callable[[], bool] = lambda: True, devices: bool = False
) -> Ended:
    """Run a task of this folder in a process of its own, for at most `seconds`, as long as it is `wanted`.

    `given` goes to it as JSON. GPUs are hidden from it unless it is to see `devices`. Raises `CannotSpawn`.
    """
    began = time.monotonic()
    process = begin(task, given, devices=devices)
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        words, written, how = listen(process.stdout.fileno(), process.stderr.fileno(), began + seconds, wanted)
        if how is not None:
            process.kill()
    except BaseException:
        process.kill()
        raise
    finally:
        code = reap(process)
    return ended_of(how, code, words, written, time.monotonic() - began, signal_name(code))


def find_python() -> str:
    """An interpreter of this version, with the paths of this one. Raises `CannotSpawn`."""
    if os.name != "posix":
        raise CannotSpawn(f"processes are not begun on {os.name!r} here")
    for path in _interpreters(sys.executable or "", bool(getattr(sys, "frozen", False))):
        if os.access(path, os.X_OK) and os.path.isfile(path):
            return path
    raise CannotSpawn(f"there is no Python interpreter to run it with: sys.executable is {sys.executable!r}")


def _interpreters(executable: str, frozen: bool) -> Iterator[str]:
    """Where one may be. `sys.executable` may be an application that has Python in it: run, it would start again."""
    names = (f"python{sys.version_info[0]}.{sys.version_info[1]}", "python3", "python")
    if not frozen and os.path.basename(executable).lower().startswith(("python", "pypy")):
        yield executable
    if not frozen:
        for prefix in dict.fromkeys((sys.exec_prefix, sys.base_exec_prefix)):
            yield os.path.join(prefix, "bin", names[0])


def begin(task: str, given: Any, *, devices: bool = False, pass_fds: Sequence[int] = ()) -> subprocess.Popen[bytes]:
    """Begin a child, which ends with the thread that does this. Its words come through `stdout`, and what libraries
    write through `stderr`; it has the descriptors `pass_fds`, by the same numbers. Raises `CannotSpawn`."""
    entry = _PACKAGE / "engine" / "children" / "entry.py"
    if not entry.is_file():
        raise CannotSpawn(f"{entry} is no file, as where the package lies in an archive")
    if any(fd in _STANDARD for fd in pass_fds):  # a child has its own by these numbers
        raise CannotSpawn("descriptor 0, 1 or 2 of this process is closed: it has to be open, as to /dev/null")
    told = json.dumps({"path": list(_paths()), "package": str(_PACKAGE), "task": given})
    # -I -S: no environment, no site-packages of its own; what is to be found is in `path`.
    command = [find_python(), "-I", "-S", str(entry), str(os.getpid()), task, told]
    try:
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env={**os.environ, **_LITTLE, **({} if devices else _NO_DEVICES)}, pass_fds=pass_fds,
            start_new_session=True,  # Ctrl-C in a terminal is for this process, which ends the child
        )  # fmt: skip
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        raise CannotSpawn(str(error)) from error


def _paths() -> Iterator[str]:
    """`sys.path`, for a process that may be in another directory; this one's may be gone."""
    for path in sys.path:
        with suppress(OSError):
            yield os.path.abspath(str(path))


def listen(words: int, written: int, deadline: float, wanted: Callable[[], bool]) -> tuple[bytes, bytes, How | None]:
    """What a child says and what libraries write in it, the ends of both, until both pipes have ended; or else why it
    is to be killed now."""
    into = {words: bytearray(), written: bytearray()}
    told = (into[words], into[written])
    poll = select.poll()
    for descriptor in into:
        poll.register(descriptor, select.POLLIN)
    while into:
        if not wanted() or time.monotonic() > deadline:
            return bytes(told[0]), bytes(told[1]), "out of time" if wanted() else "unwanted"
        for descriptor, _ in poll.poll(_LOOK_SECONDS * 1000):
            data = os.read(descriptor, _READ_BYTES)
            if not data:
                poll.unregister(descriptor)
                del into[descriptor]
                continue
            into[descriptor] += data
            del into[descriptor][:-_LAST_BYTES]
    return bytes(told[0]), bytes(told[1]), None


def reap(process: subprocess.Popen[bytes]) -> int | None:
    """The return code of a child that has ended, or is killed now; None where it does not end."""
    for pipe in (process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()
    for _ in range(2):
        with suppress(subprocess.TimeoutExpired):
            return process.wait(_KILL_SECONDS)
        process.kill()
    return None


def signal_name(code: int | None) -> str | None:
    """The signal that a return code stands for, by name; None where it stands for none."""
    if code is None or code >= 0:
        return None
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
