"""Installs llama.cpp into an environment: from a wheel that an earlier build left, or building it; and tries it.

Owns `$ERLLAMA_HOME/wheels`: a folder for each build, and `failed.json`: what failed its trial, on which kind of
machine. Without that file all is tried again. pip's own cache does not look at CMAKE_ARGS and would serve a build made
with others, so it is not used for llama.cpp.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import setup_builds as builds
from setup_builds import Build
from setup_plan import SetupProblem, build_progress
from setup_run import pip, say

LLAMA = "llama-cpp-python"
TRIAL = Path(__file__).resolve().parent / "setup_trial.py"
TRIAL_SECONDS = 300  # it takes one; a machine on which others compute may need many times that
CPUINFO = Path("/proc/cpuinfo")


class Machine:
    """What set-up knows of the machine that it runs on."""

    def __init__(self) -> None:
        text = CPUINFO.read_text(errors="replace") if CPUINFO.exists() else ""
        self.flags = builds.cpu_flags(text) if platform.machine() == "x86_64" else None
        self.key = builds.machine_key(text, platform.release())


def choose(version: str, asked: builds.Asked, machine: Machine) -> Build:
    """The build that is asked for, or the portable one where that failed its trial before."""
    build = builds.choose(asked, machine.flags)
    return builds.portable(build) if builds.trial_key(version, build, machine.key) in _failed() else build


def install(venv: Path, version: str, build: Build, fresh: bool) -> None:
    """Install the wheel of this build; it is built where there is none, and anyway where `fresh`."""
    wheel = built(venv, version, build, fresh)
    pip(venv, "install", "--no-deps", "--no-index", "--force-reinstall", str(wheel))


def built(venv: Path, version: str, build: Build, fresh: bool = False) -> Path:
    """The wheel of this build, made now where there is none."""
    build = builds.unknown_to_compiler(build, refused(build))
    of_machine = " ".join((sys.platform, platform.machine(), *platform.libc_ver()))
    folder = wheels() / builds.wheel_folder(version, build, of_machine)
    if fresh or not list(folder.glob("*.whl")):
        _build(venv, version, build, folder)
    return next(folder.glob("*.whl"))


def wheels() -> Path:
    """Where wheels are kept."""
    return Path(os.environ.get("ERLLAMA_HOME") or Path.home() / ".cache/erllama") / "wheels"


def refused(build: Build) -> list[str]:
    """The options that this build needs and the C compiler lacks: GCC 10 knows no AVX-VNNI, for one."""
    options = {option for one in build.more for option in one.compiler}
    compiler = os.environ.get("CC", "").split() or [name for name in ("cc", "gcc", "clang") if shutil.which(name)][:1]
    if not options or not compiler:
        return []  # without a compiler a wheel may be there; if not, it is said before the build

    def takes(*tried: str) -> bool:
        command = [*compiler, *tried, "-Werror", "-x", "c", "-fsyntax-only", os.devnull]
        try:
            return subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0
        except OSError:
            return True

    return [] if takes(*options) or not takes() else sorted(option for option in options if not takes(option))


def try_out(venv: Path) -> str | None:
    """What is wrong with the llama.cpp that is installed, in another process; None for nothing."""
    with open(venv / "build.log", "a") as log:
        try:
            done = subprocess.run(
                [str(venv / "bin/python"), str(TRIAL)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                timeout=TRIAL_SECONDS,
            )
        except subprocess.TimeoutExpired:
            return f"no answer in {TRIAL_SECONDS} s"
    return builds.trial_verdict(done.returncode, done.stdout)


def remember_failure(version: str, build: Build, machine: Machine, why: str) -> None:
    """This build is not taken on this kind of machine any more."""
    failed = {**_failed(), builds.trial_key(version, build, machine.key): why}
    wheels().mkdir(parents=True, exist_ok=True)
    scratch = wheels() / f"failed.json.{os.getpid()}"
    scratch.write_text(json.dumps(failed, indent=1))
    scratch.replace(wheels() / "failed.json")


def _failed() -> dict[str, str]:
    try:
        failed: dict[str, str] = json.loads((wheels() / "failed.json").read_text())
    except (OSError, ValueError):
        return {}
    return failed


def _build(venv: Path, version: str, build: Build, folder: Path) -> None:
    """Build llama.cpp into `folder`, with a count of what is compiled."""
    require_compiler()
    say(f"building llama.cpp {version} ({build.name}): 4-9 minutes on 2 cores (log: {venv / 'build.log'})")
    shown = -1

    def show(line: str) -> None:
        nonlocal shown
        progress = build_progress(line)
        if progress is None:
            return
        if sys.stderr.isatty():
            sys.stderr.write(f"\rbuilding llama.cpp [{progress[0]}/{progress[1]}]")
            sys.stderr.flush()
        elif progress[0] * 10 // progress[1] > shown:  # a log gets a line at each tenth
            shown = progress[0] * 10 // progress[1]
            say(f"building llama.cpp [{progress[0]}/{progress[1]}]")

    scratch = venv / "wheel"
    shutil.rmtree(scratch, ignore_errors=True)
    source = ("--no-cache-dir", "--no-deps", "--no-binary", LLAMA, f"{LLAMA}=={version}")
    try:
        pip(venv, "wheel", "--verbose", "--wheel-dir", str(scratch), *source, show=show, cmake_args=build.args)
    finally:
        if sys.stderr.isatty():
            sys.stderr.write("\n")
    folder.mkdir(parents=True, exist_ok=True)
    for wheel in scratch.glob("*.whl"):
        shutil.move(str(wheel), str(folder / wheel.name))


def require_compiler() -> None:
    """Say now what would otherwise be said after minutes, on page ten of a log."""
    for language, variable, names in (("C", "CC", ("cc", "gcc", "clang")), ("C++", "CXX", ("c++", "g++", "clang++"))):
        named = os.environ.get(variable, "").split()[:1]
        if not any(shutil.which(name) for name in named or names):
            looked = f"{variable}={named[0]}" if named else ", ".join(names)
            hint = "xcode-select --install" if sys.platform == "darwin" else "apt install build-essential"
            raise SetupProblem(f"no {language} compiler was found (looked for {looked}); install one: {hint}")
