"""Installs llama.cpp into an environment: from a wheel that an earlier build left, or building it; and tries it.

Owns `$ERLLAMA_HOME/wheels`: a folder for each build, and `failed.json`: what failed its trial, on which kind of
machine. Where that file is missing or damaged, all is tried again; where it cannot be written, each environment
remembers for itself. pip's own cache does not look at CMAKE_ARGS and would serve a build made with others, so it is not
used for llama.cpp.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path
from tempfile import TemporaryFile

import setup_builds as builds
from setup_builds import Build
from setup_plan import SetupProblem, build_progress
from setup_run import pip, read_note, say, write_note

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


def choose(version: str, asked: builds.Asked, machine: Machine, failed: str = "") -> Build:
    """The build that is asked for, or the portable one where that failed its trial before; `failed` is one more."""
    build = builds.choose(asked, machine.flags)
    return builds.portable(build) if builds.trial_key(version, build, machine.key) in {*_failed(), failed} else build


def install(venv: Path, version: str, build: Build, fresh: bool) -> None:
    """Install the wheel of this build; it is built where there is none, and anyway where `fresh`."""
    wheel = built(venv, version, build, fresh)
    pip(venv, "install", "--no-deps", "--no-index", "--force-reinstall", str(wheel))


def built(venv: Path, version: str, build: Build, fresh: bool = False) -> Path:
    """The wheel of this build, made now where there is none."""
    build = builds.unknown_to_compiler(build, refused(build))
    of_machine = " ".join((sys.platform, platform.machine(), *platform.libc_ver()))
    folder = wheels() / builds.wheel_folder(version, build, of_machine)
    if fresh or not _sound_wheels(folder):
        _build(venv, version, build, folder)
    return _sound_wheels(folder)[0]


def _sound_wheels(folder: Path) -> list[Path]:
    """Those that can be read to the end: a full disk or a copy that was broken off leaves others."""

    def sound(wheel: Path) -> bool:
        try:
            with zipfile.ZipFile(wheel) as archive:
                return archive.testzip() is None
        except (OSError, ValueError, zipfile.BadZipFile, zlib.error):
            return False

    return [wheel for wheel in sorted(folder.glob("*.whl")) if sound(wheel)]


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
    with open(venv / "build.log", "a+", errors="replace") as log:
        begin = log.tell()
        try:
            done = subprocess.run(
                [str(venv / "bin/python"), str(TRIAL)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                errors="replace",
                timeout=TRIAL_SECONDS,
            )
        except subprocess.TimeoutExpired:
            return f"no answer in {TRIAL_SECONDS} s"
        log.seek(begin)
        said = log.read()
    try:
        return builds.trial_verdict(done.returncode, done.stdout, said)
    except SetupProblem as problem:
        raise SetupProblem(f"{problem} (log: {log.name})") from None


def remember_failure(failure: str, why: str) -> bool:
    """No environment takes this build on this kind of machine any more; false where that cannot be written down."""
    try:
        wheels().mkdir(parents=True, exist_ok=True)
        write_note(wheels() / "failed.json", {**_failed(), failure: why})
    except OSError:
        return False
    return True


def _failed() -> dict[str, str]:
    try:
        return read_note(wheels() / "failed.json") or {}
    except OSError:
        return {}


def _build(venv: Path, version: str, build: Build, folder: Path) -> None:
    """Build llama.cpp into `folder`, with a count of what is compiled."""
    require_compiler()
    _require_room(folder)
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
    for wheel in scratch.glob("*.whl"):
        partial = folder / f"{wheel.name}.{os.getpid()}"  # it may be copied, from another file system
        shutil.move(str(wheel), str(partial))
        partial.replace(folder / wheel.name)


def _require_room(folder: Path) -> None:
    """Say now that the wheel cannot be kept, and not after minutes."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=str(folder)):
            pass
    except OSError as problem:
        raise SetupProblem(
            f"cannot write into {folder} ({problem.strerror}); ERLLAMA_HOME=… names another place for wheels"
        ) from None


def require_compiler() -> None:
    """Say now what would otherwise be said after minutes, on page ten of a log."""
    for language, variable, names in (("C", "CC", ("cc", "gcc", "clang")), ("C++", "CXX", ("c++", "g++", "clang++"))):
        named = os.environ.get(variable, "").split()[:1]
        if not any(shutil.which(name) for name in named or names):
            looked = f"{variable}={named[0]}" if named else ", ".join(names)
            hint = "xcode-select --install" if sys.platform == "darwin" else "apt install build-essential"
            raise SetupProblem(f"no {language} compiler was found (looked for {looked}); install one: {hint}")
