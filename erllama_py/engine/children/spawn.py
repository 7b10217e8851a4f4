"""Beginning a child, watching it, and telling how it ended. Blocks: for a worker thread.

A child is a new interpreter, never a fork: nothing of this process goes into it but its environment and `sys.path`, no
descriptor and no lock, and the application's `__main__` is not run in it. It cannot outlive this process (see `entry`)
or its time.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from erllama_py.engine.children.ended import Ended, How, how_ended

_PACKAGE = Path(__file__).parents[2]
_LAST_BYTES = 16 << 10  # kept of what a child writes: its last words, and the lines before them
_READ_BYTES = 64 << 10
_LOOK_SECONDS = 0.05  # how soon a caller that wants it no more is heard
_KILL_SECONDS = 5.0  # for the kernel to end a killed child; one that waits for a disk that hangs stays behind

# ggml would start a debugger to show a trace, and initialise GPUs that are not needed.
_QUIET = {"GGML_NO_BACKTRACE": "1"}
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
    process = _begun(task, given, {**os.environ, **_QUIET, **({} if devices else _NO_DEVICES)})
    try:
        words, written, how = _listen(process, began + seconds, wanted)
    except BaseException:
        process.kill()
        raise
    finally:
        code = _end(process)
    seconds_taken = time.monotonic() - began
    said = words.decode(errors="replace").split("\n")[:-1]
    stages = tuple(word.removeprefix("stage ") for word in said if word.startswith("stage "))
    infos = [word.removeprefix("info ") for word in said if word.startswith("info ")]
    text = written.decode(errors="replace")
    if how is None:
        how, code = how_ended(code, said)
    return Ended(how, code, _signal_name(code), stages, text, seconds_taken, infos[-1] if infos else "")


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


def _begun(task: str, given: Any, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    entry = _PACKAGE / "engine" / "children" / "entry.py"
    if not entry.is_file():
        raise CannotSpawn(f"{entry} is no file, as where the package lies in an archive")
    told = json.dumps({"path": list(_paths()), "package": str(_PACKAGE), "task": given})
    # -I -S: no environment, no site-packages of its own; what is to be found is in `path`.
    command = [find_python(), "-I", "-S", str(entry), str(os.getpid()), task, told]
    try:
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env=environment,
            start_new_session=True,  # Ctrl-C in a terminal is for this process, which ends the child
        )  # fmt: skip
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        raise CannotSpawn(str(error)) from error


def _paths() -> Iterator[str]:
    """`sys.path`, for a process that may be in another directory; this one's may be gone."""
    for path in sys.path:
        with suppress(OSError):
            yield os.path.abspath(str(path))


def _listen(
    process: subprocess.Popen[bytes], deadline: float, wanted: Callable[[], bool]
) -> tuple[bytes, bytes, How | None]:
    """What a child says, and the end of what it writes, until it ends or is killed; and why it was."""
    assert process.stdout is not None
    assert process.stderr is not None
    words, written = bytearray(), bytearray()
    into = {process.stdout.fileno(): words, process.stderr.fileno(): written}
    poll = select.poll()
    for descriptor in into:
        poll.register(descriptor, select.POLLIN)
    while into:
        if not wanted() or time.monotonic() > deadline:
            process.kill()
            return bytes(words), bytes(written), "out of time" if wanted() else "unwanted"
        for descriptor, _ in poll.poll(_LOOK_SECONDS * 1000):
            data = os.read(descriptor, _READ_BYTES)
            if not data:
                poll.unregister(descriptor)
                del into[descriptor]
                continue
            into[descriptor] += data
            del into[descriptor][:-_LAST_BYTES]
    return bytes(words), bytes(written), None


def _end(process: subprocess.Popen[bytes]) -> int | None:
    """The return code; None where it does not end."""
    for pipe in (process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()
    for _ in range(2):
        with suppress(subprocess.TimeoutExpired):
            return process.wait(_KILL_SECONDS)
        process.kill()
    return None


def _signal_name(code: int | None) -> str | None:
    if code is None or code >= 0:
        return None
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
