"""How set-up runs other programs and speaks to the person at the terminal."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import setup_plan as plan
from setup_plan import SetupProblem


def ask(python: str, code: str) -> str:
    """What `code` prints; "" where the interpreter does not run."""
    try:
        return subprocess.run([python, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout
    except OSError:
        return ""


def pip(venv: Path, *arguments: str, show: Callable[[str], None] | None = None, cmake_args: str = "") -> None:
    """Run pip with its output in the log; `show` gets each line. Raises `SetupProblem` with the cause."""
    environment = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1"}
    if cmake_args:
        environment["CMAKE_ARGS"] = cmake_args
    said = []
    with open(venv / "build.log", "a", errors="replace") as log:
        command = [str(venv / "bin/python"), "-m", "pip", *arguments]
        with subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                log.write(line)
                said.append(line)
                if show:
                    show(line)
    if process.returncode:
        raise SetupProblem(f"{plan.explain(''.join(said))} (log: {venv / 'build.log'})")


def say(text: str) -> None:
    """A line for the person at the terminal."""
    print(f"erllama_py: {text}", file=sys.stderr, flush=True)
