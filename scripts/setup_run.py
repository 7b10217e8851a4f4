"""How set-up runs other programs and speaks to the person at the terminal."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import setup_plan as plan
from setup_plan import SetupProblem


def ask(python: str, code: str) -> str:
    """What `code` prints; "" where the interpreter does not run."""
    try:
        done = subprocess.run([python, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    except OSError:
        return ""
    return done.stdout.decode(errors="replace")


def pip(venv: Path, *arguments: str, show: Callable[[str], None] | None = None, cmake_args: str = "") -> None:
    """Run pip as `run` does."""
    run(venv, "-m", "pip", *arguments, show=show, cmake_args=cmake_args)


def run(venv: Path, *arguments: str, show: Callable[[str], None] | None = None, cmake_args: str = "") -> None:
    """Run the environment's Python with its output in the log; `show` gets each line.

    Raises `SetupProblem` with the cause where it fails.
    """
    environment = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1"}
    if cmake_args:
        environment["CMAKE_ARGS"] = cmake_args
    said = []
    with open(venv / "build.log", "a", errors="replace") as log:
        command = [str(venv / "bin/python"), *arguments]
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


def read_note(file: Path) -> dict[str, str] | None:
    """What `write_note` has written; None where it is damaged, empty where there is none."""
    try:
        note: Any = json.loads(file.read_text())
    except FileNotFoundError:
        return {}
    except ValueError:
        return None
    sound = isinstance(note, dict) and all(isinstance(value, str) for value in note.values())
    return note if sound else None


def write_note(file: Path, note: dict[str, str]) -> None:
    """Write it whole or not at all."""
    scratch = file.with_name(f"{file.name}.{os.getpid()}")
    try:
        scratch.write_text(json.dumps(note, indent=1))
        scratch.replace(file)
    except OSError:
        with suppress(OSError):
            scratch.unlink()
        raise


def say(text: str) -> None:
    """A line for the person at the terminal."""
    print(f"erllama_py: {text}", file=sys.stderr, flush=True)
