"""Whether engines can have processes of their own: tried with one, of which nothing is left."""

from __future__ import annotations

import gc
import sys

import pytest
from helpers.leftovers import belongings, wait_same_as

import erllama_py as erllama
from erllama_py import engine
from erllama_py.cpus import usable_cpus
from erllama_py.engine.children import spawn
from erllama_py.engine.process import trial


@pytest.mark.slow
def test_a_process_is_begun_and_what_can_bound_it_is_told() -> None:
    """In a moment; its descriptors and its group are gone afterwards, and no search for garbage is needed for that."""
    erllama.check_isolation()  # what all processes share is there from now on
    gc.collect()
    before = belongings()
    gc.disable()
    try:
        found = erllama.check_isolation()
        wait_same_as(before, collects=False)
    finally:
        gc.enable()
    assert (found.problem, found.nice, found.cpus) == (None, True, len(usable_cpus()))
    assert found.seconds > 0
    assert found.memory in ("cgroup", "private data")


def test_where_there_is_no_group_its_private_data_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """As for a model."""
    monkeypatch.setattr(trial, "make_group", lambda *_: None)
    assert erllama.check_isolation().memory == "private data"


def test_a_machine_without_an_interpreter_to_begin_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a frozen application is one."""

    def find_python() -> str:
        raise spawn.CannotSpawn("there is no interpreter")

    monkeypatch.setattr(spawn, "find_python", find_python)
    assert erllama.check_isolation() == erllama.IsolationInfo(problem="there is no interpreter")


def test_another_system_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing is tried there."""
    monkeypatch.setattr(sys, "platform", "darwin")
    assert engine.checked_isolation().problem == "it needs Linux, and this is darwin"
