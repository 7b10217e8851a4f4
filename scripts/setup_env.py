"""Sets up `.venv` for make: looks at what is there, asks `setup_plan` what is due, and does it.

    setup_env.py [--venv VENV]      VENV is `.venv` at the top of the project unless named

Prints nothing when all is there. A failure is one line on stderr and exit 1; what pip and the compiler said
is in VENV/build.log. Owns VENV/erllama.json, which says what the last set-up made, and the folder of built
wheels, `$ERLLAMA_HOME/wheels`: pip's own cache does not look at CMAKE_ARGS and would serve a build made with
others, so it is not used for llama.cpp.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import setup_plan as plan
from setup_plan import Found, Python, SetupProblem, Wanted

TOP = Path(__file__).resolve().parent.parent
NAMES = ("python3", "python3.15", "python3.14", "python3.13", "python3.12", "python3.11")
LLAMA = "llama-cpp-python"

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


def main(arguments: Sequence[str]) -> int:
    """Bring the environment up to date; the exit status."""
    parser = argparse.ArgumentParser(description="Bring the environment of this project up to date.")
    parser.add_argument("--venv", type=Path, default=TOP / ".venv", help="its folder; .venv unless named")
    venv = parser.parse_args(arguments).venv.resolve()
    try:
        with open(__file__) as lock:  # two makes at once: the second waits, and finds all done
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
    asked = os.environ.get("PYTHON") or None
    chosen = plan.choose_python(interpreters([asked]), asked) if asked else None
    stamp_file = venv / "erllama.json"
    stamp: dict[str, str] = json.loads(stamp_file.read_text()) if stamp_file.exists() else {}
    wanted = Wanted(
        llama=plan.pinned((TOP / "constraints.txt").read_text(), LLAMA),
        packages=digest(TOP / "pyproject.toml", TOP / "constraints.txt"),
        cmake_args=os.environ.get("CMAKE_ARGS", ""),
        python=chosen.version if chosen else None,
    )
    found = look(venv)
    for step in plan.steps(wanted, found, stamp):
        if step == "create":
            create(venv, chosen or plan.choose_python(interpreters(NAMES), None))
            stamp = {}
        elif step == "llama":
            broken = found.llama == wanted.llama and not found.llama_sound
            install_llama(venv, wanted, fresh=broken)
            stamp["cmake_args"] = wanted.cmake_args
        else:
            install_packages(venv)
            stamp["packages"] = wanted.packages
        stamp_file.write_text(json.dumps(stamp))


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


def ask(python: str, code: str) -> str:
    """What `code` prints; "" where the interpreter does not run."""
    try:
        return subprocess.run([python, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout
    except OSError:
        return ""


def digest(*files: Path) -> str:
    """One digest of the contents of all `files`."""
    return hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()


# --- acting --------------------------------------------------------------------------------------------


def create(venv: Path, python: Python) -> None:
    """Make an empty environment, in place of any that is there."""
    say(f"creating {venv.name} with {python.path} ({'.'.join(map(str, python.version))})")
    command = [python.path, "-m", "venv", "--clear", str(venv)]
    made = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if made.returncode:
        raise SetupProblem(f"cannot create {venv}: {plan.explain(made.stdout)}")


def install_llama(venv: Path, wanted: Wanted, fresh: bool) -> None:
    """Install llama-cpp-python from the wheel that an earlier build left, or else build it; `fresh` builds anyway."""
    args = plan.cmake_args(wanted.cmake_args)
    home = Path(os.environ.get("ERLLAMA_HOME") or Path.home() / ".cache/erllama")
    machine = " ".join((sys.platform, platform.machine(), *platform.libc_ver()))
    wheels = home / "wheels" / plan.wheel_key(wanted.llama, args, machine)
    if fresh or not list(wheels.glob("*.whl")):
        build_llama(venv, wanted.llama, args, wheels)
    pip(venv, "install", "--no-deps", "--no-index", "--force-reinstall", *map(str, wheels.glob("*.whl")))


def build_llama(venv: Path, version: str, args: str, wheels: Path) -> None:
    """Build llama.cpp into `wheels`, with a count of what is compiled."""
    require_compiler()
    say(f"building llama.cpp {version}: 7-9 minutes on 2 cores (log: {venv / 'build.log'})")
    shown = -1

    def show(line: str) -> None:
        nonlocal shown
        progress = plan.build_progress(line)
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
        pip(venv, "wheel", "--verbose", "--wheel-dir", str(scratch), *source, show=show, cmake_args=args)
    finally:
        if sys.stderr.isatty():
            sys.stderr.write("\n")
    wheels.mkdir(parents=True, exist_ok=True)
    for wheel in scratch.glob("*.whl"):
        shutil.move(str(wheel), str(wheels / wheel.name))


def require_compiler() -> None:
    """Say now what would otherwise be said after minutes, on page ten of a log."""
    for language, variable, names in (("C", "CC", ("cc", "gcc", "clang")), ("C++", "CXX", ("c++", "g++", "clang++"))):
        named = os.environ.get(variable, "").split()[:1]
        if not any(shutil.which(name) for name in named or names):
            looked = f"{variable}={named[0]}" if named else ", ".join(names)
            hint = "xcode-select --install" if sys.platform == "darwin" else "apt install build-essential"
            raise SetupProblem(f"no {language} compiler was found (looked for {looked}); install one: {hint}")


def install_packages(venv: Path) -> None:
    """Install what pyproject.toml names, and the project itself as an editable."""
    say("installing packages")
    # With the build backend at hand and isolation off, a change of pyproject.toml needs no index.
    pip(venv, "install", "hatchling>=1.27")
    constraints = ("--constraint", str(TOP / "constraints.txt"))
    pip(venv, "install", "--no-build-isolation", *constraints, "--editable", f"{TOP}[dev]")


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


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
