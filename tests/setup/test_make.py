"""`make` on machines where something is missing: one line on stderr, exit status 2, nothing half-made.

Each test runs the real Makefile, on a PATH or with settings that lack one thing, into an environment folder
of its own; none gets as far as a build.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]
# What the Makefile and `python -m venv` call, apart from the interpreter.
TOOLS = ("make", "sh", "env", "test", "awk")

pytestmark = pytest.mark.slow


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """A PATH with make and a shell, and nothing else."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for tool in TOOLS:
        found = shutil.which(tool)
        if found:
            (folder / tool).symlink_to(found)
    return folder


def script(folder: Path, name: str, text: str) -> None:
    """An executable shell script."""
    file = folder / name
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(0o755)


def real_python(folder: Path) -> None:
    """Puts the interpreter of this run on that PATH; a link would look for its library beside itself."""
    script(folder, "python3", f'exec "{Path(sys.executable).resolve()}" "$@"')


def make(tools: Path, venv: Path, **settings: str) -> tuple[int, list[str]]:
    """Exit status and what was said on stderr, without make's own closing line."""
    with begin(tools, venv, **settings) as process:
        assert process.stderr is not None
        said = [line.rstrip("\n") for line in process.stderr if not line.startswith("make")]
    return process.returncode, said


def begin(tools: Path, venv: Path, **settings: str) -> subprocess.Popen[str]:
    """`make env` under way."""
    environment = {"PATH": str(tools), "HOME": str(venv.parent), "ERLLAMA_HOME": str(venv.parent / "home"), **settings}
    return subprocess.Popen(
        ["make", "env", f"VENV={venv}"],
        cwd=TOP,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        stdin=subprocess.DEVNULL,
    )


def test_no_python_is_one_line(tools: Path, tmp_path: Path) -> None:
    """Not even the set-up script can run, and make itself says it."""
    status, said = make(tools, tmp_path / "venv")
    assert status == 2
    assert said == ["erllama_py: no Python was found that could be used; Python 3.11 or newer is needed"]


def test_an_old_python_is_one_line(tools: Path, tmp_path: Path) -> None:
    """An interpreter that runs the set-up, but says that it is a 3.9 when asked."""
    real = Path(sys.executable).resolve()
    script(tools, "python3", f'case "$1" in -c) echo 3 9 2 1 1 ;; *) exec "{real}" "$@" ;; esac')
    status, said = make(tools, tmp_path / "venv")
    assert status == 2
    assert said == [f"erllama_py: {tools / 'python3'} is Python 3.9.2; Python 3.11 or newer is needed"]


@pytest.mark.parametrize("broken", ["exit 1", "echo 'pyenv: python3: command not found' >&2; exit 127"])
def test_a_python_that_cannot_run_the_set_up_is_passed_over(tools: Path, tmp_path: Path, broken: str) -> None:
    """Python 3.6 as `python3` of an old system, or a name that leads nowhere, with a newer one beside it."""
    real_python(tools)
    (tools / "python3").rename(tools / "python3.11")
    script(tools, "python3", broken)
    assert make(tools, tmp_path / "venv", PORTABLE="2") == (2, ["erllama_py: PORTABLE is 1 or 0, not 2"])


def test_a_python_that_does_not_exist_is_one_line(tools: Path, tmp_path: Path) -> None:
    """`PYTHON=` names it, and no other is taken in its place."""
    real_python(tools)
    status, said = make(tools, tmp_path / "venv", PYTHON="python9.9")
    assert status == 2
    assert said == ["erllama_py: PYTHON=python9.9 does not run; Python 3.11 or newer is needed"]


def test_a_python_whose_path_has_a_space_is_taken(tmp_path: Path) -> None:
    """It is somebody's home, as often as not."""
    folder = tmp_path / "Ada Lovelace"
    folder.mkdir()
    for tool in TOOLS:
        (folder / tool).symlink_to(shutil.which(tool) or "")
    real_python(folder)
    assert make(folder, tmp_path / "venv", PORTABLE="2") == (2, ["erllama_py: PORTABLE is 1 or 0, not 2"])


def test_a_make_that_waits_for_another_says_so(tools: Path, tmp_path: Path) -> None:
    """The other one may be compiling for minutes."""
    real_python(tools)
    with open(TOP / "scripts" / "setup_env.py") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with begin(tools, tmp_path / "venv", PORTABLE="2") as process:
            assert process.stderr is not None
            assert process.stderr.readline() == "erllama_py: another make is setting up; waiting for it\n"
            fcntl.flock(lock, fcntl.LOCK_UN)
            assert process.stderr.readline() == "erllama_py: PORTABLE is 1 or 0, not 2\n"


def test_a_missing_compiler_is_one_line(tools: Path, tmp_path: Path) -> None:
    """It is said before anything is downloaded, not by the build."""
    real_python(tools)
    status, said = make(tools, tmp_path / "venv", PIP_INDEX_URL="http://127.0.0.1:9/simple")
    assert status == 2
    assert said[0].startswith("erllama_py: creating venv with ")
    assert said[1].startswith("erllama_py: no C compiler was found (looked for cc, gcc, clang); install one: ")
    assert len(said) == 2


def test_an_unreachable_index_is_one_line(tools: Path, tmp_path: Path) -> None:
    """Compilers are there; the index is a port where nothing listens."""
    real_python(tools)
    for compiler in ("cc", "c++"):
        script(tools, compiler, "exit 1")
    settings = {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_RETRIES": "0", "PIP_CONFIG_FILE": os.devnull}
    status, said = make(tools, tmp_path / "venv", **settings)
    assert status == 2
    log = tmp_path / "venv" / "build.log"
    assert said[-1].startswith("erllama_py: the package index cannot be reached")
    assert said[-1].endswith(f"(log: {log})")
    assert len(said) == 3  # creating, building, and why not


def test_help_needs_nothing_and_is_the_default(tools: Path) -> None:
    """The list of targets comes without any Python, and sets nothing up."""
    done = subprocess.run(["make"], cwd=TOP, env={"PATH": str(tools)}, capture_output=True, text=True)
    assert done.returncode == 0
    for target in ("run", "test", "quick", "check", "bench", "docs"):
        assert f"make {target} " in done.stdout
