"""`erllama completion`: what shells read, and what bash completes with it."""

from __future__ import annotations

import io
import shutil
import subprocess
from contextlib import redirect_stdout

import pytest

from erllama_py.serve.cli import main

Capture = pytest.CaptureFixture[str]
ASK = r"""
{script}
COMP_WORDS=({words})
COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
COMP_LINE="${{COMP_WORDS[*]}}"
COMP_POINT=${{#COMP_LINE}}
_erllama
printf '%s\n' "${{COMPREPLY[@]}}"
"""


@pytest.fixture(scope="module")
def bash() -> str:
    """The script for bash."""
    printed = io.StringIO()
    with redirect_stdout(printed):
        assert main(["completion", "bash"]) == 0
    return printed.getvalue()


def completed(script: str, *words: str) -> list[str]:
    """What bash offers for the last word."""
    quoted = " ".join(f"'{word}'" for word in words)
    done = subprocess.run(
        ["bash", "--norc", "-c", ASK.format(script=script, words=quoted)], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    return done.stdout.split()


def test_bash_completes_commands(bash: str) -> None:
    """Of one word and of two."""
    assert set(completed(bash, "erllama", "")) >= {"serve", "run", "cache", "top", "doctor"}
    assert completed(bash, "erllama", "comp") == ["complete", "completion"]
    assert set(completed(bash, "erllama", "cache", "")) >= {"ls", "show", "verify", "rm", "gc"}


def test_bash_completes_options_and_their_values(bash: str) -> None:
    """Those of the command."""
    assert completed(bash, "erllama", "serve", "--al") == ["--alias"]
    assert set(completed(bash, "erllama", "cache", "rm", "--")) >= {"--older-than", "--yes", "--server"}
    assert set(completed(bash, "erllama", "serve", "--log", "")) == {"text", "json"}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_has_its_script(shell: str, capsys: Capture) -> None:
    """Where the shell is here, it takes it."""
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert {"zsh": "#compdef erllama", "fish": "complete -c erllama", "bash": "complete "}[shell] in script
    for word in ("doctor", "older-than", "verify"):
        assert word in script
    if (found := shutil.which(shell)) is not None:
        subprocess.run([found, "-n"], input=script, text=True, check=True)


def test_another_shell_is_a_wrong_command_line(capsys: Capture) -> None:
    """With those that there are."""
    assert main(["completion", "csh"]) == 2
    complaints = capsys.readouterr().err
    assert complaints.count("\n") == 1
    assert "bash" in complaints
