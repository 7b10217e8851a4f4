"""`check_build`: what the installed llama.cpp is, and whether it decodes here; `check_isolation`: whether an engine can
have a process of its own. They block and keep nothing."""

from __future__ import annotations

import threading

import msgspec

from erllama_py.actors import Threads
from erllama_py.cpus import read_allowance
from erllama_py.engine import checked_build, checked_isolation
from erllama_py.results import BuildInfo, IsolationInfo


def check_build() -> BuildInfo:
    """Try the installed build of llama.cpp in a process of its own, and tell what it is and which devices it finds.

    A build that traps on this CPU ends that process and not this one, which does not open the library. It takes a
    second, with some GPU drivers several, a minute at most, and blocks for that time: from a coroutine call it in a
    worker thread.
    """
    # Signals are for the main thread: Ctrl-C ends the children, too.
    threads, unwanted = Threads("check build", 1), threading.Event()
    try:
        build = threads.call(checked_build, lambda: not unwanted.is_set(), leave=unwanted.set)
    finally:
        threads.close()
    allowed = read_allowance()
    return msgspec.structs.replace(build, threads=allowed.threads, threads_reason=allowed.why)


def check_isolation() -> IsolationInfo:
    """Begin a process as one of a model with `isolation="process"`: whether that works here, and what can bound it.

    It takes a second, a minute at most, and blocks for that time: from a coroutine call it in a worker thread.
    """
    threads = Threads("check isolation", 1)  # it has an event loop of its own, wherever this is called
    try:
        return threads.call(checked_isolation)
    finally:
        threads.close()
