"""`erllama serve` as a process: it says where it serves, answers there, and ends with 0 when it is told to."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from helpers.terminal import COMMAND, environment
from helpers.tiny_gguf import tiny_gguf

from erllama_py.serve.models import fetch
from erllama_py.serve.running.holding import Holder, read_note

pytestmark = pytest.mark.slow


@contextmanager
def serving(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], str, list[str]]]:
    """A server, its address, and the lines that it has written by then."""
    child = subprocess.Popen(
        [*COMMAND, "serve", *arguments, "--port", "0", "--log", "json", "--isolation", "thread"],
        stderr=subprocess.PIPE, text=True, env=environment(),
    )  # fmt: skip
    assert child.stderr is not None
    try:
        lines: list[str] = []
        for line in child.stderr:
            lines.append(line)
            if found := re.search(r"serving on (http://[\w.:]+)", line):
                yield child, found[1], lines
                return
        raise AssertionError("".join(lines))
    finally:
        child.kill()
        child.wait()
        child.stderr.close()


def test_no_more_than_a_file_is_needed(tmp_path: Path) -> None:
    """Models by name and alias, a reply, an exit with 0 after SIGTERM."""
    path = str(tiny_gguf("dense", tmp_path))
    with serving(path, "--alias", "gpt", "--cache", str(tmp_path / "kv")) as (child, address, lines):
        assert any("dense (gpt): llama 0M F32; 4,096 tokens for 8 sequences" in line for line in lines)
        assert any("cache: up to" in line for line in lines)
        models = httpx.get(f"{address}/v1/models").json()["data"]
        assert [one["id"] for one in models] == ["dense", "gpt"]
        asked = {"model": "gpt", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}
        usage = httpx.post(f"{address}/v1/chat/completions", json=asked).json()["usage"]
        assert usage["completion_tokens"] in range(1, 5)  # the model says what it likes
        note = read_note(tmp_path / "kv")  # by which `erllama cache` finds the server
        assert note == Holder(pid=child.pid, server=address, tier="cache")
        child.send_signal(signal.SIGTERM)
        assert child.wait(60) == 0
    assert read_note(tmp_path / "kv") is None
    assert (tmp_path / "kv").is_dir()


def test_a_tier_that_a_changed_file_adds_is_reached_through_the_server(tmp_path: Path) -> None:
    """Its note is written when the file is read again."""
    path, file = tiny_gguf("dense", tmp_path), tmp_path / "erllama.toml"
    text = f'[tiers.one]\nkind = "disk"\nroot = "one"\n[[models]]\npath = "{path.name}"\ntier_srv = "one"\n'
    file.write_text(text)
    with serving("--config", str(file)) as (child, address, _lines):
        file.write_text(f'[tiers.two]\nkind = "disk"\nroot = "two"\n{text}')
        httpx.post(f"{address}/erllama/reload", timeout=60).raise_for_status()
        assert read_note(tmp_path / "two") == Holder(pid=child.pid, server=address, tier="two")
        child.send_signal(signal.SIGTERM)
        assert child.wait(60) == 0
    assert read_note(tmp_path / "two") is None


INTERRUPTED = """
import os, sys
from erllama_py.serve.cli import main

class Told:
    def find_spec(self, name, *rest):
        if name == sys.argv[1]:
            os.kill(os.getpid(), int(sys.argv[2]))

sys.meta_path.insert(0, Told())
try:
    sys.exit(main(["serve", sys.argv[3], "--port", "0", "--cache", "none", "--isolation", "thread"]))
finally:
    if sys.argv[2] == "15":  # once more, while it ends
        os.kill(os.getpid(), 15)
"""


@pytest.mark.parametrize("module", ["cyclopts", "erllama_py.serve.cli.hosting"])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_it_ends_before_it_listens(tmp_path: Path, module: str, number: int, code: int) -> None:
    """While its own modules are imported, which takes a second: a container may be told to stop at any time."""
    asked = [module, str(int(number)), str(tiny_gguf("dense", tmp_path))]
    child = subprocess.run([sys.executable, "-c", INTERRUPTED, *asked], capture_output=True, env=environment())
    assert (child.returncode, child.stderr) == (code, b"")


def test_a_model_that_cannot_be_loaded_ends_it(tmp_path: Path) -> None:
    """With 1 and one line, though the port was taken."""
    path = tiny_gguf("dense", tmp_path)
    file = tmp_path / "erllama.toml"
    file.write_text(f'[[models]]\npath = "{path.name}"\nfingerprint = "{"0" * 64}"\n')
    line = [*COMMAND, "serve", "--config", str(file), "--port", "0", "--cache", "none", "--isolation", "thread"]
    ended = subprocess.run(line, stderr=subprocess.PIPE, text=True, env=environment(), timeout=60)
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1].startswith("erllama: ")
    assert "has the fingerprint" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.real_model
def test_a_real_model_is_served_warm_after_a_restart(tmp_path: Path) -> None:
    """The same prompt computes its last tokens only."""
    assert fetch("smollm2").exists()
    cached = []
    story = "The lighthouse stands on a hill above the harbour. " * 40
    asked = {"model": "m", "messages": [{"role": "user", "content": story}], "max_tokens": 8, "temperature": 0}
    for _ in range(2):
        with serving("smollm2", "--alias", "m", "--cache", str(tmp_path)) as (child, address, _lines):
            answer = httpx.post(f"{address}/v1/chat/completions", json=asked, timeout=60)
            assert answer.status_code == 200, answer.text
            cached.append(answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"])
            child.send_signal(signal.SIGTERM)
            assert child.wait(60) == 0
    assert cached[0] == 0
    assert cached[1] > 300
