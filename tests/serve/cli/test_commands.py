"""Command lines: each command has its help with an example; what makes no sense is one line, with the exit code 2."""

from __future__ import annotations

import builtins
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.terminal import COMMAND, environment
from helpers.tiny_gguf import tiny_gguf

import erllama_py as erllama
from erllama_py.serve.cli import bare, commands, ending, main
from erllama_py.serve.cli.ending import complain, ended

BUFFERED = {"PYTHONUNBUFFERED": ""}  # output to a file is written when the process ends


ALL = [*commands.EXAMPLES, *(f"{group} {name}" for group, given in commands.GROUPS.items() for name in given[1])]


@pytest.mark.parametrize("command", ALL)
def test_each_command_has_help_with_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each option is described, and an example begins with the command."""
    assert main([*command.split(), "--help"]) == 0
    printed, complaints = capsys.readouterr()
    assert printed.startswith(f"Usage: erllama {command}")
    assert re.search(f"Example: .*erllama {command}", " ".join(printed.split()))
    assert re.search(r"^  --[\w-]+(?: [A-Z.]+)?:\s*$", printed, re.MULTILINE) is None
    assert complaints == ""


def test_the_top_shows_all_commands_and_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    """With what each does; plain in a pipe."""
    assert main(["--help"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    for command in (*commands.EXAMPLES, *commands.GROUPS):
        assert f" {command}: " in printed
    assert "Exit codes: 0 done; 1 an error; 2 a wrong command line; 130 interrupted" in printed
    assert "╭" not in printed


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    """One line."""
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"erllama_py {erllama.__version__}\n"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("foo", "Unknown command"),
        ("foo", "rm and others; see"),
        ("serve server.toml", "named by --config"),
        ("download smollm2", "here: erllama pull hf:owner/repo:Q4_K_M"),
        ("chat a.gguf", "here: erllama run MODEL"),
        ("help", "here: erllama --help"),
        ("serve a.gguf --ctx-size 4096", "here it is --context"),
        ("serve a.gguf -ngl 99", "here it is --gpu-layers"),
        ("serve a.gguf --n_ctx 4096", "here it is --context"),
        ("serve a.gguf --temperature 1", "requests say it, each for itself"),
        ("run a.gguf --max-tokens 5", "here it is --tokens"),
        ("serve -m a.gguf", "the model stands by itself"),
        ("serve a.gguf --api-key x", "erllama key NAME"),
        ("inspect", "MODEL requires an argument"),
        ("inspect a.gguf b.gguf", "b.gguf"),
        ("inspect a.gguf --jsn", "--jsn"),
        ("run a.gguf --tokens x", "--tokens"),
        ("complete a.gguf --jsn", "Unknown option: --jsn"),
        ("serve", "there is no model to serve"),
        ("serve a.gguf --port 70000", "--port: expected int <= 65535, got 70000"),
        ("serve a.gguf --context=-1", "--context: expected int >= 0, got -1"),
        ("serve a.gguf b.gguf --alias x", "--alias x: there are 2 models"),
        ("serve a.gguf --alias x=b", "--alias x=b: it is NAME=MODEL"),
        ("serve a.gguf --gpu-layers -2", "--gpu-layers: expected int >= -1, got -2"),
        ("run a.gguf --threads 0", "--threads: expected int >= 1, got 0"),
        ("config check", "FILE requires an argument"),
        ("cache foo", "Available commands: ls, show, verify, rm, gc; see: erllama cache --help"),
        ("cache rm x --foo", "Unknown option: --foo; see: erllama cache rm --help"),
        ("cache show x", "say which row, by the beginning of its key"),
        ("bench", "MODEL requires an argument"),
        ("benchmark x", "here: erllama bench MODEL"),
        ("status", "here: erllama top"),
        ("top --interval x", "--interval"),
        ("tree --server ftp://h", "--server: 'ftp://h' is no URL"),
        ("reload --key a\u00e9", "--key: an API key is letters"),
        ("doctor --port x", "--port"),
        ("completion csh", "bash"),
    ],
)
def test_a_wrong_command_line_is_one_line(line: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """On stderr, with the exit code 2, before any model is opened."""
    assert main(line.split()) == 2
    printed, complaints = capsys.readouterr()
    assert printed == ""
    assert said in complaints
    assert complaints.startswith("erllama: ")
    assert complaints.count("\n") == 1


def test_no_command_shows_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    """On stderr, since nothing was done."""
    assert main([]) == 2
    assert "Usage: erllama COMMAND" in capsys.readouterr().err


@pytest.mark.parametrize("line", ["inspect", "run", "serve", "config check"])
def test_a_missing_file_is_an_error_of_one_line(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    """With the exit code 1 and the path."""
    assert main([*line.split(), "/nowhere/it"]) == 1
    complaints = capsys.readouterr().err
    assert "/nowhere/it" in complaints
    assert complaints.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (erllama.NotAGGUF("m", "no"), 1),
        (ending.UsageError("no"), 2),
        (KeyboardInterrupt(), 130),
        (BrokenPipeError(), 141),
    ],
)  # fmt: skip
def test_each_end_has_its_exit_code(error: BaseException, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Errors of the library, of the command line, an interrupt, and a reader that has gone."""
    moved: list[Any] = []
    monkeypatch.setattr(os, "dup2", lambda *ends: moved.append(ends))
    monkeypatch.setattr(sys, "stdout", type("Out", (), {"fileno": lambda self: 1})())

    def fail() -> int:
        raise error

    assert ended(fail) == code
    assert bool(moved) == (code == 141)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has it")
@pytest.mark.parametrize("line", ["key ada", "inspect MODEL", "complete MODEL hi --tokens 2 --threads 1", "--help"])
def test_output_that_a_full_disk_refuses_is_an_error_of_one_line(line: str, tmp_path: Path) -> None:
    """And an exit code, also of what is written at the end of the process."""
    arguments = [str(tiny_gguf("dense", tmp_path)) if word == "MODEL" else word for word in line.split()]
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "erllama_py.serve.cli", *arguments]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, env=os.environ | BUFFERED)
    assert done.returncode == 1
    assert done.stderr.endswith("erllama: No space left on device\n")
    assert "Traceback" not in done.stderr


def test_streams_may_be_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a daemon's are: nothing is read, and what is written is lost."""
    for name in ("stdin", "stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)
    assert main(["key", "ada"]) == 0
    assert main(["inspect", "/nowhere/it"]) == 1
    assert sys.stdin.read() == ""
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        stream.close()


@pytest.mark.parametrize("line", ["tree", "reload", "top --once", "bench tiny --server http://127.0.0.1:1", "cache ls"])
def test_a_server_that_is_not_there_is_an_error_of_one_line(
    line: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the exit code 1, how to start one, and without the key."""
    monkeypatch.setenv("ERLLAMA_SERVER", "http://127.0.0.1:1")
    monkeypatch.setenv("ERLLAMA_API_KEY", "sk-secret")
    assert main(line.split()) == 1
    printed, complaints = capsys.readouterr()
    assert printed == ""
    assert complaints.startswith("erllama: no answer from http://127.0.0.1:1: Connection refused; `erllama serve`")
    assert complaints.count("\n") == 1
    assert "sk-secret" not in complaints


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("serve smollm", "there is no file 'smollm'; models that are fetched are smollm2, gemma3, minilm"),
        ("complete a.gguf hi --tokens 0", "--tokens: expected int >= 1, got 0"),
        ("run a.gguf --temperature nan", "--temperature: expected float >= 0.0, got nan"),
        ("inspect a.gguf --sequences 0", "--sequences: expected int >= 1, got 0"),
    ],
)
def test_what_is_wrong_is_called_as_it_was_given(line: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """By the option of the command line, not by that of the library."""
    assert main(line.split()) == 2
    assert capsys.readouterr().err.startswith(f"erllama: {said}")


def test_a_fault_of_ours_is_not_hidden() -> None:
    """Its traceback is what is needed."""
    with pytest.raises(ZeroDivisionError):
        ended(lambda: 1 // 0)


def test_a_complaint_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever the text holds."""
    complain("a\n  b\tc\x1b[2J\x9b\u202e")
    assert capsys.readouterr().err == "erllama: a b c\ufffd[2J\ufffd\ufffd\n"


@pytest.mark.parametrize("command", ["", "serve", "cache", "bench"])
def test_help_in_a_pipe_is_broken_once(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A line that goes on is indented as its option is."""
    assert main([*command.split(), "--help"]) == 0
    printed = capsys.readouterr().out
    listed = printed[printed.index("\n  ") : printed.index("Example:")].rstrip()
    assert [line for line in listed.splitlines() if line and not line.startswith("  ") and not line.endswith(":")] == []


@pytest.mark.parametrize("group", commands.GROUPS)
def test_a_group_alone_is_no_command(group: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Its help goes where errors go, as that of all commands does."""
    assert main([group]) == 2
    printed, complaints = capsys.readouterr()
    assert printed == ""
    assert complaints.startswith(f"Usage: erllama {group}")


@pytest.mark.parametrize(("encoding", "drawn"), [("ascii", b"??? tiers"), ("utf-8", "├── tiers".encode())])
def test_what_a_terminal_cannot_show_is_no_error(encoding: str, drawn: bytes, tmp_path: Path) -> None:
    """Names of files that are no text come out as they are where that can be."""
    script = """
import sys
from erllama_py.serve.cli import ending
ending.open_streams()
def show():
    print("├── tiers", "\\udcff")
    return 0
sys.exit(ending.ended(show))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, "PYTHONIOENCODING": encoding}, capture_output=True
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == drawn + (b" ?\n" if encoding == "ascii" else b" \xff\n")


@pytest.fixture
def without_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where cyclopts is not installed."""
    real: Callable[..., Any] = builtins.__import__

    def missing(name: str, *rest: Any) -> Any:
        if name.partition(".")[0] == "cyclopts":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name, *rest)

    for name in [name for name in sys.modules if name.startswith(("cyclopts", "erllama_py.serve.cli."))]:
        if name not in ("erllama_py.serve.cli.bare", "erllama_py.serve.cli.ending"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", missing)


@pytest.mark.usefixtures("without_extra")
def test_without_the_extra_it_says_what_to_install(capsys: pytest.CaptureFixture[str]) -> None:
    """And the demo is there."""
    for command in ("serve", "run", "complete", "inspect", "config"):
        assert main([command, "x"]) == 2
        said = f"erllama: cyclopts is not installed; `erllama {command}` needs the extra: {bare.INSTALL}\n"
        assert capsys.readouterr().err == said
    assert main(["--help"]) == 0
    assert ".[serve]" in capsys.readouterr().out
    assert main(["demo", "--model", "/nowhere/it"]) == 1
    assert "cannot load /nowhere/it" in capsys.readouterr().err
    assert main(["foo"]) == 2


@pytest.mark.parametrize("line", ["--help", "inspect FILE"])
def test_a_reader_that_goes_is_one_exit_code(line: str, tmp_path: Path) -> None:
    """However the output is printed."""
    read, write = os.pipe()
    os.close(read)
    words = line.replace("FILE", str(tiny_gguf("dense", tmp_path))).split()
    try:
        done = subprocess.run([*COMMAND, *words], stdout=write, stderr=subprocess.PIPE, env=environment())
    finally:
        os.close(write)
    assert (done.returncode, done.stderr) == (141, b"")
