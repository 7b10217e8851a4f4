"""Sets up `.venv` for make: looks at what is there, asks `setup_plan` what is due, and does it.

    setup_env.py [--venv VENV]      VENV is `.venv` at the top of the project unless named

Prints nothing when all is there. A failure is one line on stderr and exit 1; what pip and the compiler said
is in VENV/build.log. Owns VENV/erllama.json, which says what the last set-up made, and what was asked for.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import setup_builds as builds
import setup_llama as llama
import setup_plan as plan
from setup_builds import Build
from setup_plan import Found, Python, SetupProblem, Wanted
from setup_run import ask, pip, read_note, run, say, write_note

TOP = Path(__file__).resolve().parent.parent
STAMP = "erllama.json"
NAMES = ("python3", "python3.15", "python3.14", "python3.13", "python3.12", "python3.11")

ASK_PYTHON = """
import sys
try: import ensurepip, venv
except ImportError: ready = 0
else: ready = 1
print(*sys.version_info[:3], ready, int(sys.version_info.releaselevel == "final"))
"""
# Printed piece by piece: loading a library that was built for another machine may end the process.
ASK_ENVIRONMENT = """
import sys, importlib.metadata
print("python", *sys.version_info[:3], flush=True)
try: print("llama", importlib.metadata.version("llama-cpp-python"), flush=True)
except ImportError: sys.exit()
try: import llama_cpp
except ImportError as error: print("sound" if (error.name or "").split(".")[0] not in ("", "llama_cpp") else "broken")
else: print("sound complete")
"""

# What pip writes last is a list of its files.
ASK_PIP = "import importlib.metadata; print(len(importlib.metadata.files('pip')))"


def main(arguments: Sequence[str]) -> int:
    """Bring the environment up to date; the exit status."""
    parser = argparse.ArgumentParser(description="Bring the environment of this project up to date.")
    parser.add_argument("--venv", type=Path, default=TOP / ".venv", help="its folder; .venv unless named")
    venv = parser.parse_args(arguments).venv.resolve()
    try:
        with open(__file__) as lock:  # two makes at once: the second waits, and finds all done
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say("another make is setting up; waiting for it")
                fcntl.flock(lock, fcntl.LOCK_EX)
            set_up(venv)
    except (SetupProblem, OSError) as problem:
        say(str(problem))
        return 1
    except KeyboardInterrupt:
        say("interrupted; the next make goes on from here")
        return 130
    return 0


def set_up(venv: Path) -> None:
    """Take the steps that are due, and note in the stamp what each has made."""
    interpreter = os.environ.get("PYTHON") or None
    chosen = plan.choose_python(interpreters([interpreter]), interpreter) if interpreter else None
    stamp = read_note(venv / STAMP)
    if stamp is None:
        say(f"{venv / STAMP} is damaged; llama.cpp is installed again")
        stamp = {"build": ""}
    cmake_args, portable = os.environ.get("CMAKE_ARGS", ""), os.environ.get("PORTABLE", "")
    asked, made = builds.asked(cmake_args, portable, stamp), builds.made(stamp)
    machine, version = llama.Machine(), plan.pinned((TOP / "constraints.txt").read_text(), llama.LLAMA)
    build = llama.choose(version, asked, machine, stamp.get("failed", ""))
    wanted = Wanted(
        llama=version,
        packages=digest(TOP / "pyproject.toml", TOP / "constraints.txt"),
        build=build.args,
        tried=bool(build.more),
        named=bool(cmake_args or portable),
        machine=machine.key,
        place=str(venv),
        python=chosen.version if chosen else None,
    )
    found = look(venv)
    due = plan.steps(wanted, found, made, stamp)
    if wanted.named or "llama" in due:  # said once, it holds for later makes too
        stamp.update(build=made or "", cmake_args=asked.cmake_args, portable=str(int(asked.portable)))
        note(venv, stamp)
    if due:
        stamp["place"] = wanted.place
    for step in due:
        if step == "create":
            create(venv, chosen or plan.choose_python(interpreters(NAMES), None))
            stamp = {"build": "", **{name: stamp[name] for name in ("cmake_args", "portable", "place")}}
        elif step == "llama":
            require_pip(venv)
            broken = found.llama == version and not found.llama_sound and made == build.args
            llama.install(venv, version, build, fresh=broken)
            stamp.pop("tried", None)
            stamp["build"] = build.args
        elif step == "packages":
            require_pip(venv)
            install_packages(venv)
            stamp["packages"] = wanted.packages
        else:
            stamp["build"] = tried(venv, version, build, machine, stamp).args
            stamp["tried"] = machine.key
        note(venv, stamp)


def note(venv: Path, stamp: dict[str, str]) -> None:
    """Write down what was made."""
    if venv.exists():
        write_note(venv / STAMP, stamp)


def tried(venv: Path, version: str, build: Build, machine: llama.Machine, stamp: dict[str, str]) -> Build:
    """The build that is installed, if it decodes; or else the portable one, installed in its place."""
    problem = llama.try_out(venv)
    if problem is None:
        return build
    failure = builds.trial_key(version, build, machine.key)
    if not llama.remember_failure(failure, problem):
        stamp["failed"] = failure
    say(f"llama.cpp built for this CPU ({build.name}) fails its trial: {problem}; the portable build takes its place")
    portable = builds.portable(build)
    llama.install(venv, version, portable, fresh=False)
    return portable


# --- looking -------------------------------------------------------------------------------------------


def interpreters(names: Sequence[str]) -> list[Python]:
    """Those of `names` that run."""
    found = []
    for name in names:
        path = shutil.which(name)
        answer = ask(path, ASK_PYTHON).split() if path else []
        if path and len(answer) == 5 and answer[4] == "1":
            found.append(Python(path, tuple(map(int, answer[:3])), answer[3] == "1"))
    return found


def look(venv: Path) -> Found:
    """What is in the environment."""
    answer = dict(line.partition(" ")[::2] for line in ask(str(venv / "bin/python"), ASK_ENVIRONMENT).splitlines())
    if "python" not in answer:
        return Found()
    version = tuple(map(int, answer["python"].split()))
    return Found(version, answer.get("llama"), "sound" in answer, answer.get("sound") == "complete")


def digest(*files: Path) -> str:
    """One digest of the contents of all `files`."""
    return hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()


# --- acting --------------------------------------------------------------------------------------------


def create(venv: Path, python: Python) -> None:
    """Make an empty environment, in place of any that is there."""
    again = " again" if venv.exists() else ""
    say(f"creating {venv.name}{again} with {python.path} ({'.'.join(map(str, python.version))})")
    command = [python.path, "-m", "venv", "--clear", str(venv)]
    made = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if made.returncode:
        raise SetupProblem(f"cannot create {venv}: {plan.explain(made.stdout)}")


def require_pip(venv: Path) -> None:
    """Have pip whole: an environment whose making was interrupted lacks it, or parts of it, and uv makes none."""
    if not ask(str(venv / "bin/python"), ASK_PIP):
        run(venv, "-m", "ensurepip")


def install_packages(venv: Path) -> None:
    """Install what pyproject.toml names, and the project itself as an editable."""
    say("installing packages")
    # With the build backend at hand and isolation off, a change of pyproject.toml needs no index.
    pip(venv, "install", "hatchling>=1.27")
    constraints = ("--constraint", str(TOP / "constraints.txt"))
    pip(venv, "install", "--no-build-isolation", *constraints, "--editable", f"{TOP}[dev]")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
