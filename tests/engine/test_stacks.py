"""Our threads have room for what they call, and the application's choice stays its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

from erllama_py.stacks import LEAST_BYTES, NoStack, call_on_stack

GUARD = 1 << 16  # bytes: the system keeps some of a stack

# How large the stack of a thread is that is begun while the application wants `chosen` bytes for its own.
PROGRAM = """
import ctypes, threading
from erllama_py.stacks import begin_thread

libc = ctypes.CDLL(None)

def size():
    attributes, found = ctypes.create_string_buffer(64), ctypes.c_size_t()
    libc.pthread_getattr_np(ctypes.c_ulong(threading.get_ident()), attributes)
    libc.pthread_attr_getstacksize(attributes, ctypes.byref(found))
    print(found.value)

threading.stack_size({chosen})
thread = threading.Thread(target=size)
begin_thread(thread)
thread.join()
print(threading.stack_size(0))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="it reads the stack by a function of glibc")
@pytest.mark.parametrize(("chosen", "least"), [(1 << 20, LEAST_BYTES), (16 << 20, 16 << 20), (0, 1 << 17)])
def test_a_thread_has_a_stack_of_some_size_at_least(chosen: int, least: int) -> None:
    """And the next thread of the application has what that has chosen."""
    program = PROGRAM.format(chosen=chosen)
    ran = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    size, after = map(int, ran.stdout.split())
    assert size >= least - GUARD
    assert after == chosen


# Runs a program in a process whose limit for a stack is so many bytes from its start on.
LIMITED = """
import os, resource, sys
hard = resource.getrlimit(resource.RLIMIT_STACK)[1]
resource.setrlimit(resource.RLIMIT_STACK, ({limit}, hard))
os.execv(sys.executable, [sys.executable, "-c", {program!r}])
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="it reads the stack by a function of glibc")
@pytest.mark.parametrize("limit", ["1 << 20", "resource.RLIM_INFINITY"])
def test_what_the_system_gives_threads_may_be_too_little(limit: str) -> None:
    """By a limit, or without one: then it is 2 MiB."""
    program = LIMITED.format(limit=limit, program=PROGRAM.format(chosen=0))
    ran = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert int(ran.stdout.split()[0]) >= LEAST_BYTES - GUARD


def test_a_call_on_a_stack_of_its_own_gives_what_it_gives() -> None:
    """Its result, or what it raises; a stack that the system has not is an error of its own."""
    assert call_on_stack(1 << 20, lambda: 3) == 3
    with pytest.raises(ZeroDivisionError):
        call_on_stack(1 << 20, lambda: 1 // 0)
    with pytest.raises(NoStack, match="no stack of"):
        call_on_stack(1 << 60, lambda: 3)


# Begins a thread where there are so many bytes of private data beside its stack.
BOUNDED = """
import resource, threading
from erllama_py.own_data import own_bytes, stack_bytes
from erllama_py.stacks import begin_thread

most = own_bytes() + stack_bytes() + {beside}
resource.setrlimit(resource.RLIMIT_DATA, (most, resource.RLIM_INFINITY))
ran = threading.Event()
try:
    begin_thread(threading.Thread(target=ran.set))
except RuntimeError as error:
    print(error)
else:
    ran.wait()
    print("it ran")
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not bound private data so")
@pytest.mark.parametrize(("beside", "says"), [(0, "can't start new thread"), (1 << 19, "can't"), (1 << 26, "it ran")])
def test_a_thread_that_could_not_say_that_it_runs_is_not_begun(beside: int, says: str) -> None:
    """With no memory for its first steps it ends, and who has begun it would wait for ever."""
    command = [sys.executable, "-c", BOUNDED.format(beside=beside)]
    ran = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    assert ran.stdout.startswith(says)
