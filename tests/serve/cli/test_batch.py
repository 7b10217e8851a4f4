"""`erllama batch`: a file answered in this process or by a server, interrupted and taken up again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from helpers.batches import jsonl, line, times
from helpers.terminal import environment, on_terminal
from helpers.tiny_gguf import tiny_gguf

from erllama_py.serve.batches.disk import lock
from erllama_py.serve.cli import main

ASKED = [line(number, model="gpt-4o", ignore_eos=True) for number in range(12)]
IDS = {one["custom_id"]: 1 for one in ASKED}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_gguf("dense", tmp_path_factory.mktemp("models")))


@pytest.fixture
def asked(tmp_path: Path) -> Path:
    """The file of requests."""
    path = tmp_path / "asked.jsonl"
    path.write_bytes(jsonl(ASKED))
    return path


def answers(path: Path) -> list[Any]:
    """The lines of a file, each of them whole."""
    data = path.read_bytes()
    assert data.endswith(b"\n")
    return [msgspec.json.decode(one) for one in data.splitlines()]


def here(asked: Path, model: str, *more: str) -> int:
    """The exit code of a batch that this process answers."""
    return main(["batch", str(asked), "--model", model, "--threads", "1", *more])


@pytest.mark.slow
def test_a_file_is_answered_here(asked: Path, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    """By the one model, whatever the lines name; nothing but the answers is left."""
    assert here(asked, model, "--json") == 0
    told = msgspec.json.decode(capsys.readouterr().out)
    out = asked.with_name("asked.out.jsonl")
    assert told == {
        "status": "completed", "total": 12, "completed": 12, "failed": 0, "output": str(out), "errors": None,
        "problems": [],
    }  # fmt: skip
    assert times(answers(out)) == IDS
    assert {one["response"]["body"]["model"] for one in answers(out)} == {"dense"}
    assert sorted(os.listdir(asked.parent)) == ["asked.jsonl", "asked.out.jsonl"]
    assert here(asked, model) == 2
    assert "is there already" in capsys.readouterr().err


@pytest.mark.slow
def test_lines_that_fail_are_said(asked: Path, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    """How many, and where; 1 is the exit code."""
    asked.write_bytes(jsonl([*ASKED, line(12, temperature=-1), line(13, stream=True)]))
    out = asked.with_name("o.jsonl")
    assert here(asked, model, "--out", str(out)) == 1
    errors = asked.with_name("o.errors.jsonl")
    assert capsys.readouterr().err.splitlines()[-1] == f"erllama: 2 of 14 lines failed: {errors} says why"
    assert times(answers(out)) == IDS
    assert sorted(times(answers(errors))) == ["line-12", "line-13"]


@pytest.mark.slow
def test_a_file_that_is_no_batch_is_told_by_line(asked: Path, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each problem, and nothing is left but the file: once it is right, the same command answers it."""
    asked.write_bytes(jsonl(ASKED) + b"{\n" + jsonl([ASKED[0]]))
    assert here(asked, model) == 1
    assert capsys.readouterr().err.splitlines() == [
        f"erllama: {asked}, line 13: the line is no JSON",
        f"erllama: {asked}, line 14: another line has this custom_id",
    ]
    assert os.listdir(asked.parent) == ["asked.jsonl"]
    asked.write_bytes(b"")
    assert here(asked, model) == 1
    assert capsys.readouterr().err == f"erllama: {asked}: the file has no line\n"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--model", "m.gguf", "--server", "http://127.0.0.1:1"], "give one of them"),
        (["--threads", "2"], "--threads is for a --model"),
        (["--model", "m.gguf", "--cancel"], "--cancel is for a batch at a server"),
        (["--out", "asked.jsonl", "--model", "m.gguf"], "would be written over"),
        (["--model", "no-such-model"], "there is no file"),
    ],
)
def test_a_command_line_that_makes_no_sense(
    asked: Path, more: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """2, with what to write."""
    monkeypatch.chdir(asked.parent)
    assert main(["batch", "asked.jsonl", *more]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("name", ["out.jsonl.journal", "out.jsonl.index", "out.errors.jsonl"])
def test_what_is_made_of_an_output_is_not_made_of_the_input(
    asked: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file of requests that is called as what would lie beside the output stays whole."""
    path = asked.rename(asked.with_name(name))
    assert main(["batch", str(path), "--model", "m.gguf", "--out", str(path.with_name("out.jsonl"))]) == 2
    assert "would be written over" in capsys.readouterr().err
    assert path.read_bytes() == jsonl(ASKED)


def test_a_pipe_is_not_waited_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The requests are read more than once, which a pipe does not allow: nothing is read of it, and nothing is left."""
    os.mkfifo(tmp_path / "asked.jsonl")
    assert main(["batch", str(tmp_path / "asked.jsonl"), "--model", "m.gguf"]) == 2
    assert "write the requests to one first" in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["asked.jsonl"]


def test_a_file_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line, before anything is loaded or asked."""
    assert main(["batch", str(tmp_path / "nothing.jsonl")]) == 1
    assert "No such file" in capsys.readouterr().err


def test_a_folder_that_is_not_there(asked: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is named, not a file that nobody has asked for."""
    assert main(["batch", str(asked), "--model", "m.gguf", "--out", str(tmp_path / "none" / "out.jsonl")]) == 1
    assert capsys.readouterr().err == f"erllama: {tmp_path / 'none'}: No such file or directory\n"


@pytest.mark.slow
def test_two_processes_do_not_write_one_output(asked: Path, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The second is told so; the work of the first is left alone."""
    held = lock(asked.with_name("asked.out.jsonl.journal"))
    try:
        assert here(asked, model) == 2
    finally:
        os.close(held)
    assert "another process works on" in capsys.readouterr().err


@pytest.mark.slow
def test_a_batch_of_another_file_is_not_gone_on_with(
    asked: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its answers would be mixed with these."""
    journal = asked.with_name("asked.out.jsonl.journal")
    with Stopped(asked, model):
        pass
    whole = journal.read_bytes()
    asked.write_bytes(jsonl(ASKED[1:]))
    assert here(asked, model) == 2
    assert "is another file than" in capsys.readouterr().err
    assert journal.read_bytes() == whole


WAITS = """
import sys
from erllama_py.serve.batches.outputs import Outputs
from erllama_py.serve.cli import main

add = Outputs.add

async def waits(outputs, *answer, **how):
    if outputs.completed:
        await outputs._stopping.wait()
    await add(outputs, *answer, **how)

Outputs.add = waits
sys.exit(main(["batch", *sys.argv[1:]]))
"""


class Stopped:
    """A batch in a child that was killed when it had an answer; until then it has no second one."""

    def __init__(self, asked: Path, model: str, *, number: signal.Signals = signal.SIGKILL) -> None:
        command = [sys.executable, "-c", WAITS, str(asked), "--model", model, "--threads", "1"]
        self._asked, self._number = asked, number
        self._process = subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.code, self.said = 0, b""

    def __enter__(self) -> Stopped:
        output = self._asked.with_name("asked.out.jsonl")
        while self._process.poll() is None and not (output.exists() and output.stat().st_size):
            os.sched_yield()
        self._process.send_signal(self._number)
        _, self.said = self._process.communicate()
        self.code = self._process.returncode
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_the_same_command_goes_on(
    asked: Path, model: str, number: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    """After a kill and after Ctrl-C, which says so: what was answered is not asked again."""
    asked.write_bytes(jsonl(line(count, max_tokens=60, ignore_eos=True) for count in range(60)))
    out = asked.with_name("asked.out.jsonl")
    with Stopped(asked, model, number=number) as stopped:
        before = out.read_bytes()
        assert before.count(b"\n") < 60
        if number == signal.SIGINT:
            assert stopped.code == 130
            assert b"the same command goes on" in stopped.said
            assert before.endswith(b"\n")
    assert here(asked, model) == 0
    after = out.read_bytes()
    assert after.startswith(before[: before.rfind(b"\n") + 1])
    assert times(answers(out)) == {f"line-{count}": 1 for count in range(60)}


@pytest.mark.slow
def test_a_terminal_has_a_bar(asked: Path, model: str) -> None:
    """It is gone at the end, and what it came to is there."""
    with on_terminal("batch", str(asked), "--model", model, "--threads", "1") as screen:
        screen.wait_for("12 of 12 lines answered")


def test_a_progress_is_told_in_lines(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """In a pipe: now and then, and at once where something holds the batch up."""
    from erllama_py.serve.cli import batch

    now = [100.0]
    monkeypatch.setattr(batch, "monotonic", lambda: now[0])
    show = batch._Lines()
    for seconds, held_up in ((1, ""), (10, ""), (1, "the disk is full"), (1, "the disk is full"), (9, "")):
        now[0] += seconds
        show(1000, 2, 5000, held_up)
    assert capsys.readouterr().err.splitlines() == [
        "1,002 of 5,000 lines, 2 of them failed", "the disk is full", "1,002 of 5,000 lines, 2 of them failed",
    ]  # fmt: skip
