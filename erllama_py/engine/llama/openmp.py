"""GNU OpenMP, which runs llama.cpp's threads on Linux: how long they spin, and how they are given back.

Its threads wait for each other by spinning. It spins for as long as a scheduler's slice where it may use all CPUs, and
hardly at all once a process has more of its threads than CPUs, the idle ones counted. Both are wrong here: a spinning
thread keeps the one it waits for from getting a CPU, and a model that is merely loaded makes others slow. Interfaces:
libgomp manual, GOMP_SPINCOUNT; OpenMP 5.0, `omp_pause_resource_all`. Measurements: docs/benchmarks.md.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SOFT = 1  # omp_pause_soft: what was set stays set

# Turns of a waiting thread, some 15 to 50 ns each, before it sleeps.
SPIN_COUNT = "2000"


@contextmanager
def short_spin() -> Iterator[None]:
    """Libraries that are loaded in this block spin for a short time, unless the user has chosen how they wait.

    libgomp reads its settings once, when it is loaded; one that another package has loaded before keeps its own. They
    are removed afterwards: child processes would inherit them.
    """
    if {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys():
        yield
        return
    os.environ["GOMP_SPINCOUNT"] = SPIN_COUNT
    try:
        yield
    finally:
        os.environ.pop("GOMP_SPINCOUNT", None)


def pause_function(library: ctypes.CDLL) -> Callable[[int], object] | None:
    """`omp_pause_resource_all` of the OpenMP that `library` is linked with; None where it has none, or an old one."""
    try:
        function = library.omp_pause_resource_all
    except AttributeError:
        return None
    function.argtypes, function.restype = [ctypes.c_int], ctypes.c_int
    return function
