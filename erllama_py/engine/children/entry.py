"""What runs first in a child: it is tied to its parent, and made the first to go; then the task that was asked for.

`python -I -S entry.py PARENT TASK GIVEN`: the parent's process id, a module of this folder, and JSON with `path` (the
parent's `sys.path`), `package` (the folder of `erllama_py`) and `task`, which the task's `run` gets. `run` returns what
the child ends with: `spawn` has the numbers. Standard library only.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import resource
import signal
import sys
import threading
import types
from contextlib import suppress

_SET_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG, of linux/prctl.h
_ASKS_TO_END = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
_LOOK_SECONDS = 0.5


def main() -> None:
    """Run the task, and end without tidying up: a library that is in a bad state would spoil the outcome."""
    parent, task, given = int(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
    obey_only(parent)
    be_first_to_go()
    sys.path[:] = given["path"]
    package = given["package"]
    bare_package("erllama_py", package)
    bare_package("erllama_py.engine", os.path.join(package, "engine"))
    code = int(importlib.import_module(f"erllama_py.engine.children.{task}").run(given["task"]))
    say(f"done {code}")
    sys.stderr.flush()
    os._exit(code)


def say(word: str) -> None:
    """A line to the parent. It goes another way than what libraries write."""
    os.write(1, word.encode() + b"\n")


def bare_package(name: str, folder: str) -> None:
    """Make a package whose modules can be imported, and whose own `__init__` does not run."""
    module = types.ModuleType(name)
    module.__path__ = [folder]
    sys.modules[name] = module


def obey_only(parent: int) -> None:
    """End with the parent, and by no signal that asks a process to end. Who stops a service sends that to all of its
    processes at once, and the parent needs this one until it has ended its own work in order."""
    for number in _ASKS_TO_END:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # whatever the thread has blocked that began it
    die_with(parent)


def die_with(parent: int) -> None:
    """End this process when its parent ends. The kernel does it where it can: on Linux, when the thread ends that began
    this process, and that waits for it."""
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_SET_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
    else:
        threading.Thread(target=_watch, args=(parent,), daemon=True).start()
    if os.getppid() != parent:  # it ended before that
        os._exit(0)


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        threading.Event().wait(_LOOK_SECONDS)
    os._exit(0)


def be_first_to_go() -> None:
    """Leave no core file, and where memory runs out, let the kernel end this process and not the parent."""
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")


if __name__ == "__main__":
    main()
