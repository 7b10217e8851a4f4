"""`erllama completion`: what shells read, and what bash completes with it."""

from __future__ import annotations

import io
import shutil
import subprocess
from contextlib import redirect_stdout
from pathlib import Path

import pytest
from helpers.terminal import on_terminal

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
# What a user's own file of zsh has; the last word shows that all of it was read.
ZSH = """
PS1='@@'; fpath=({folder} $fpath); autoload -Uz compinit; compinit -u -D
setopt no_beep auto_list no_auto_menu no_list_ambiguous; {more}; print REA''DY
"""
OFFERED = [
    ("erllama cache ", ["gc", "ls", "rm", "show", "verify"]), ("erllama completion ", ["bash", "fish", "zsh"]),
    ("erllama serve --log-", ["--log-level"]), ("erllama serve --log ", ["json", "text"]),
    ("erllama inspect {folder}/m", ["m1.gguf", "m2.gguf"]), ("erllama serve --cache {folder}/m", ["m1.gguf"]),
    ("erllama serve --config {folder}/m", ["m1.gguf"]), ("erllama batch --model {folder}/m", ["m1.gguf"]),
    ("erllama cache ls {folder}/m", ["m1.gguf"]),
]  # fmt: skip


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
    assert set(completed(bash, "erllama", "serve", "--isolation", "")) == {"thread", "process"}
    assert completed(bash, "erllama", "serve", "--spa") == ["--spare"]


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


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two files that may be models, and what each shell reads, under the name that the guide gives it."""
    made = tmp_path_factory.mktemp("folder")
    for name in ("m1.gguf", "m2.gguf"):
        (made / name).write_bytes(b"")
    for shell, name in (("zsh", "_erllama"), ("fish", "erllama.fish"), ("bash", "erllama.bash")):
        printed = io.StringIO()
        with redirect_stdout(printed):
            assert main(["completion", shell]) == 0
        (made / name).write_text(printed.getvalue())
    return made


@pytest.mark.slow
@pytest.mark.parametrize("how", ["", "source {folder}/_erllama"])
def test_zsh_completes_it(how: str, folder: Path) -> None:
    """As a file of its $fpath, and as one that is read at its start: commands, options, their values, files."""
    if (found := shutil.which("zsh")) is None:
        return
    for line, expected in OFFERED if not how else OFFERED[:1]:
        with on_terminal("-f", "-i", program=[found], COLUMNS="200") as terminal:
            terminal.type(ZSH.format(folder=folder, more=how.format(folder=folder) or "true"))
            terminal.wait_for("READY")
            terminal.type(line.format(folder=folder) + "\t")
            for word in expected:
                terminal.wait_for(word)


@pytest.mark.slow
def test_fish_completes_it(folder: Path) -> None:
    """The same."""
    if (found := shutil.which("fish")) is None:
        return
    for line, expected in OFFERED:
        ask = f"source {folder}/erllama.fish; complete -C '{line.format(folder=folder)}'"
        told = subprocess.run([found, "-N", "-c", ask], capture_output=True, text=True, cwd=folder, check=True)
        offered = [one.partition("\t")[0].rpartition("/")[2] for one in told.stdout.splitlines()]
        assert set(expected) <= set(offered), line


def test_bash_completes_files_where_nothing_else_fits(bash: str) -> None:
    """By its own means, which know of folders and quotes."""
    assert "complete -o default -F _erllama erllama" in bash


def test_another_shell_is_a_wrong_command_line(capsys: Capture) -> None:
    """With those that there are."""
    assert main(["completion", "csh"]) == 2
    complaints = capsys.readouterr().err
    assert complaints.count("\n") == 1
    assert "bash" in complaints
