"""`erllama demo`: it tells its whole story, and what goes wrong is one line."""

from __future__ import annotations

import re

import pytest
from helpers.runtime import engine_threads

import erllama_py as erllama
from erllama_py.serve import demo
from erllama_py.serve.cli import main
from erllama_py.serve.demo import bar
from erllama_py.serve.models import fetch


@pytest.mark.slow
@pytest.mark.real_model
@pytest.mark.parametrize("isolation", ["process", "thread"])
def test_the_demo_answers_crashes_goes_on_and_is_warm_after_a_restart(
    isolation: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cold, warm with the first answer reused, a crash in an answer that goes on, the tree; then rows from the disk."""
    monkeypatch.setattr(demo, "ISOLATION", isolation)
    assert main(["demo", "--model", str(fetch("smollm2"))]) == 0
    printed, complaints = capsys.readouterr()
    for part in ("[cold: ", "0 of 222 prompt", "[warm: ", "Body(name=", "distance(body='", " km away.",
                 " [crash] ", "[it went on after ", "[with a crash in its middle: ",
                 "Unloaded; the memory is free.\n", "[restored from the disk: "):  # fmt: skip
        assert part in printed
    # What is said depends on last bits, which change with the number of threads: the first question has 222 tokens.
    warm = re.search(r"\[warm: .*; (\d+) of (\d+) prompt", printed)
    assert warm is not None
    assert 222 < int(warm[1]) < int(warm[2])
    assert "210 of 223" in printed or "211 of 223" in printed  # the last is read if that is quicker than computing it
    assert ("gets SIGSEGV" in printed, "ended it: SIGSEGV" in printed) == (isolation == "process",) * 2
    assert "1 restart" in printed[printed.index("runtime (supervisor)") :]
    assert complaints == ""
    assert engine_threads() == []


def test_an_error_is_one_line_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    """With the facts, and a status for the shell."""
    assert main(["demo", "--model", "/nowhere/model.gguf"]) == 1
    complaints = capsys.readouterr().err
    assert complaints.startswith("erllama: cannot load /nowhere/model.gguf")
    assert complaints.count("\n") == 1


def test_the_bar_is_for_terminals_only(capsys: pytest.CaptureFixture[str]) -> None:
    """A log file gets no control characters."""
    bar(erllama.LoadProgress("hash", 1, 2))
    assert capsys.readouterr().out == ""
