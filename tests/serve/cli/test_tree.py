"""`erllama tree` and `erllama reload`: what a server says, for people and for programs."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from helpers.threaded_server import Canned, served_here, threaded

import erllama_py as erllama
from erllama_py.serve.cli import main
from erllama_py.serve.cli.reload import lines

NODE: dict[str, Any] = {
    "name": "run\x1b[2Jtime",
    "kind": "supervisor",
    "state": "running",
    "restarts": 0,
    "uptime": 1.0,
}


def test_the_tree_is_drawn_or_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As the library draws it."""
    with served_here(tmp_path) as url:
        assert main(["tree", "--server", url]) == 0
        drawn = capsys.readouterr().out
        assert drawn.startswith("runtime (supervisor) running")
        assert "── model:tiny (state machine) running" in drawn
        assert main(["tree", "--server", url, "--json"]) == 0
        told = msgspec.json.decode(capsys.readouterr().out, type=erllama.TreeNode)
        assert told.name == "runtime"


def test_on_a_terminal_a_tree_cannot_draw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a pipe it is as it came."""
    with served_here(tmp_path) as url:
        terminal = io.StringIO()
        monkeypatch.setattr(terminal, "isatty", lambda: True)
        monkeypatch.setattr(erllama.TreeNode, "__str__", lambda self: "a\x1b[2Jb\n└── c")
        monkeypatch.setattr(sys, "stdout", terminal)
        assert main(["tree", "--server", url]) == 0
        assert terminal.getvalue() == "a\ufffd[2Jb\n└── c\n"


@pytest.mark.parametrize(
    ("told", "shown"),
    [
        ({"added": [], "removed": []}, ["nothing changes"]),
        ({"added": ["a", "b"], "needs_restart": ["c"], "kept": []}, ["added: a, b", "needs restart: c"]),
        ({"added": [{"name": "a\x1b[2J", "why": "new"}]}, ["added: name=a\ufffd[2J why=new"]),
    ],
)
def test_what_a_reload_changes_is_a_line_for_each_kind(told: Any, shown: list[str]) -> None:
    """Of whatever the server tells."""
    assert lines(told) == shown


def test_a_reload_asks_the_server(capsys: pytest.CaptureFixture[str]) -> None:
    """And shows its answer, or why it refuses."""
    canned = Canned(body={"added": ["qwen"]})
    with threaded(canned, lifespan="off") as url:
        assert main(["reload", "--server", url]) == 0
        assert capsys.readouterr().out == "added: qwen\n"
        assert canned.seen[0][:2] == ("POST", "/erllama/reload")
        assert main(["reload", "--server", url, "--json"]) == 0
        assert msgspec.json.decode(capsys.readouterr().out) == {"added": ["qwen"]}
    refusal = Canned(400, {"error": {"message": "models[0].path: no such file", "code": "config_error"}})
    with threaded(refusal, lifespan="off") as url:
        assert main(["reload", "--server", url]) == 1
        assert capsys.readouterr().err == f"erllama: {url}: models[0].path: no such file\n"
