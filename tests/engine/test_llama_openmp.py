"""How llama.cpp's threads wait, and how they are given back."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from helpers.backends import make_subject

from erllama_py.engine.backend import Slice
from erllama_py.engine.llama.native import library
from erllama_py.engine.llama.openmp import SPIN_COUNT, pause_function, short_spin

OWN = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")


@pytest.fixture(autouse=True)
def nothing_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in OWN:
        monkeypatch.delenv(name, raising=False)


def test_threads_spin_for_a_short_time_and_children_inherit_nothing() -> None:
    """The setting is there while libraries are loaded, and gone after, also after an error."""
    with short_spin():
        assert os.environ["GOMP_SPINCOUNT"] == SPIN_COUNT
    assert "GOMP_SPINCOUNT" not in os.environ
    with pytest.raises(ZeroDivisionError), short_spin():
        raise ZeroDivisionError
    assert "GOMP_SPINCOUNT" not in os.environ


@pytest.mark.parametrize("name", OWN)
def test_what_a_user_has_chosen_stays(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Either setting says how threads wait."""
    monkeypatch.setenv(name, "active")
    before = dict(os.environ)
    with short_spin():
        assert dict(os.environ) == before
    assert dict(os.environ) == before


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="GNU OpenMP")
def test_the_library_reads_it() -> None:
    """A process that loads llama.cpp as we do shows what it begins with."""
    code = "from erllama_py.engine.llama.native import library; library()"
    environment = {**os.environ, "OMP_DISPLAY_ENV": "VERBOSE"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert f"GOMP_SPINCOUNT = '{SPIN_COUNT}'" in done.stderr


def test_a_library_without_openmp_has_nothing_to_give_back() -> None:
    """On macOS llama.cpp has threads of its own."""
    assert pause_function(ctypes.CDLL(None)) is None or sys.platform == "linux"


@pytest.mark.skipif(sys.platform != "linux", reason="threads are counted in /proc")
def test_threads_are_gone_after_a_rest_and_come_back(tmp_path: Path) -> None:
    """Threads of the process: one more while two compute, none after, and the logits are those of two again."""
    told: list[int] = []
    logits: list[bytes] = []

    def threads() -> set[str]:
        return {path.name for path in Path("/proc/self/task").iterdir()}

    def work() -> None:
        backend = make_subject("llama", "dense", tmp_path, None)
        backend.load(lambda done: True)
        before = threads()  # some of another test may still be ending: those that come are counted
        for position in (0, 4):
            backend.set_threads(2, 2)
            backend.decode([Slice(0, position, [1, 2, 3, 4], True)])
            logits.append(backend.logits(0))
            told.append(len(threads() - before))
            backend.rest()
            told.append(len(threads() - before))
        backend.close()

    library()
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert told == [1, 0, 1, 0]
    assert len(logits) == 2
