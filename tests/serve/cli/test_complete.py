"""`erllama complete`: the reply as it comes, or as JSON when it is whole."""

from __future__ import annotations

import io
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pytest
from helpers.terminal import COMMAND, environment
from helpers.tiny_gguf import tiny_gguf

from erllama_py.serve.cli import main
from erllama_py.serve.models import fetch


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_gguf("dense", tmp_path_factory.mktemp("models")))


def asked(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    """What `--json` printed."""
    assert main(["complete", *arguments, "--json", "--seed", "1", "--threads", "1"]) == 0
    return msgspec.json.decode(capsys.readouterr().out)


@pytest.mark.slow
def test_the_reply_is_all_that_is_printed(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The same as in JSON, since the seed is."""
    told = asked(capsys, model, "Once upon", "--tokens", "8")
    assert told["completion_tokens"] == 8
    assert told["finish_reason"] == "length"
    assert main(["complete", model, "Once upon", "--tokens", "8", "--seed", "1", "--threads", "1"]) == 0
    printed, complaints = capsys.readouterr()
    assert printed == told["reply"] + "\n"
    assert complaints == ""


@pytest.mark.parametrize("dash", [[], ["-"]])
def test_the_prompt_comes_through_a_pipe(
    model: str, dash: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where it is not given, or as a dash."""
    monkeypatch.setattr("sys.stdin", io.StringIO("Once upon"))
    assert asked(capsys, model, *dash, "--tokens", "2")["prompt_tokens"] == 9


@pytest.mark.slow
def test_a_message_goes_through_the_chat_template(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    """So its prompt is longer."""
    plain = asked(capsys, model, "hello", "--tokens", "1")
    assert asked(capsys, model, "hello", "--chat", "--tokens", "1")["prompt_tokens"] > plain["prompt_tokens"]


@pytest.mark.slow
def test_a_directory_keeps_what_was_computed(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The next run reads it from there."""
    line = (model, "x" * 600, "--tokens", "1", "--cache", str(tmp_path / "kv"))
    assert asked(capsys, *line)["cached_tokens"] == 0
    assert asked(capsys, *line)["cached_tokens"] >= 512


class Keyboard(io.StringIO):
    """A terminal that nobody types on."""

    def isatty(self) -> bool:
        return True


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stdin", "arguments", "code", "said"),
    [
        (Keyboard(), [], 2, "there is no prompt"),
        (io.TextIOWrapper(io.BytesIO(b"a\xff"), "utf-8"), ["-"], 2, "is no text"),
        (io.StringIO(""), ["-"], 2, "the standard input is empty"),
        (io.StringIO("x" * 5000), ["-", "--context", "64"], 1, "the context holds 64"),
        (io.StringIO("x"), ["--temperature", "-1"], 2, "--temperature"),
        (io.StringIO("x"), ["--tokens", "0"], 2, "--tokens"),
    ],
    ids=["nothing", "no text", "empty", "too long", "temperature", "tokens"],
)
def test_what_cannot_be_completed_is_one_line(
    stdin: Any, arguments: list[str], code: int, said: str, model: str, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """With its exit code."""
    monkeypatch.setattr("sys.stdin", stdin)
    assert main(["complete", model, *arguments]) == code
    printed, complaints = capsys.readouterr()
    assert said in complaints
    assert complaints.count("\n") == 1
    assert printed == ""


@pytest.mark.slow
def test_a_reader_that_goes_ends_it(model: str) -> None:
    """As `head` does; without a traceback."""
    reader, writer = os.pipe()
    os.close(reader)
    line = [*COMMAND, "complete", model, "Once", "--tokens", "5", "--threads", "1"]
    child = subprocess.run(line, stdout=writer, stderr=subprocess.PIPE, env=environment(), timeout=60)
    os.close(writer)
    assert (child.returncode, child.stderr) == (141, b"")


@pytest.mark.slow
@pytest.mark.real_model
def test_ctrl_c_ends_it_with_what_it_has() -> None:
    """With 130 and no traceback. The reply takes seconds: that of a tiny model is over before a busy machine looks."""
    counts = [*COMMAND, "complete", "smollm2", "1, 2, 3, 4,", "--temperature", "0", "--threads", "1"]
    child = subprocess.Popen(counts, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment())
    assert child.stdout is not None
    assert child.stdout.read(1)
    child.send_signal(signal.SIGINT)
    _, complaints = child.communicate(timeout=60)
    assert (child.returncode, complaints) == (130, b"")


@pytest.mark.slow
@pytest.mark.real_model
def test_a_real_model_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    """By its name, which is fetched where it is not there."""
    assert fetch("smollm2").exists()
    told = asked(capsys, "smollm2", "The capital of France is", "--tokens", "8", "--temperature", "0")
    assert "Paris" in told["reply"]
