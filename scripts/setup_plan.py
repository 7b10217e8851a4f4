"""What setting up `.venv` decides, as functions without side effects; `setup_env` looks and acts.

An environment is made in four steps, each skipped when its result is there already:

    create    python -m venv
    llama     build llama.cpp (minutes), or take the wheel that an earlier build left; then install it
    packages  everything else that pyproject.toml names, and this project itself
    trial     decode with a build that is made for this CPU, in another process; see `setup_builds`

These files run on the Python that `make` finds first, which may be too old for the project: they keep to the
standard library and to what Python 3.7 can parse.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

MIN_PYTHON = (3, 11)


class SetupProblem(Exception):
    """Set-up cannot go on; the text is the one line that is shown."""


class Python(NamedTuple):
    """An interpreter that answered."""

    path: str
    version: tuple[int, ...]
    makes_venv: bool  # Debian leaves `ensurepip` out unless its venv package is installed


class Wanted(NamedTuple):
    """What the project asks for."""

    llama: str  # the version that constraints.txt pins
    packages: str  # a digest of the files that name the packages
    build: str  # options of the build of llama.cpp
    tried: bool  # that build is used only after a trial
    named: bool  # the user has asked for a build this time
    machine: str  # for which a trial holds
    place: str  # the folder of the environment
    python: tuple[int, ...] | None  # version of the interpreter that PYTHON= names, if it was given


class Found(NamedTuple):
    """What is in `.venv`."""

    python: tuple[int, ...] | None = None  # None where there is none, or one that does not run
    llama: str | None = None  # version of the llama-cpp-python that is installed
    llama_sound: bool = False  # it loads, as far as the packages that it needs are there
    complete: bool = False  # it loads


def steps(wanted: Wanted, found: Found, made: str | None, stamp: dict[str, str]) -> tuple[str, ...]:
    """The steps that are due, in order.

    `stamp` is what the last set-up wrote down, empty without one; `made` the options of the build that it installed.
    """
    trial = ("trial",) if wanted.tried else ()
    if found.python is None or found.python[:2] < MIN_PYTHON:
        return ("create", "llama", "packages", *trial)
    if stamp.get("place", wanted.place) != wanted.place:  # its scripts, and what it imports, have the old place in them
        return ("create", "llama", "packages", *trial)
    if wanted.python is not None and wanted.python[:2] != found.python[:2]:
        return ("create", "llama", "packages", *trial)
    due: list[str] = []
    # A llama.cpp that somebody else installed is kept until a build is asked for by name.
    other_build = wanted.named if made is None else made != wanted.build
    if found.llama != wanted.llama or not found.llama_sound or other_build:
        due.append("llama")
    if due or not found.complete or stamp.get("packages") != wanted.packages:
        due.append("packages")
    if "llama" in due or (made is not None and stamp.get("tried") != wanted.machine):
        due.extend(trial)
    return tuple(due)


def choose_python(found: Sequence[Python], asked: str | None) -> Python:
    """The newest interpreter that can make an environment; `asked` is PYTHON=, then `found` holds that alone."""
    least = ".".join(map(str, MIN_PYTHON))
    if not found:
        what = f"PYTHON={asked} does not run" if asked else "no Python was found"
        raise SetupProblem(f"{what}; Python {least} or newer is needed")
    newest = max(found, key=lambda python: python.version)
    if newest.version[:2] < MIN_PYTHON:
        shown = ".".join(map(str, newest.version))
        raise SetupProblem(f"{newest.path} is Python {shown}; Python {least} or newer is needed")
    usable = [python for python in found if python.makes_venv and python.version[:2] >= MIN_PYTHON]
    if not usable:
        package = f"python{newest.version[0]}.{newest.version[1]}-venv"
        raise SetupProblem(f"{newest.path} cannot make environments; install the package {package}")
    return max(usable, key=lambda python: python.version)


def pinned(constraints: str, package: str) -> str:
    """The version that a constraints file pins `package` to."""
    match = re.search(rf"^{re.escape(package)}==(\S+)", constraints, re.MULTILINE)
    if match is None:
        raise SetupProblem(f"constraints.txt does not pin {package}")
    return match.group(1)


def build_progress(line: str) -> tuple[int, int] | None:
    """How far ninja is, `(done, of)`, from a line of its output: `[12/193] c++ …`."""
    match = re.match(r"\s*\[(\d+)/(\d+)\]", line)
    return (int(match.group(1)), int(match.group(2))) if match else None


# First match wins. "No space" stands first because everything else fails in its wake.
_CAUSES = (
    (r"No space left on device", "the disk is full"),
    (
        r"NewConnectionError|Failed to establish a new connection|Name or service not known|name resolution"
        r"|ConnectTimeout|Read timed out|Max retries exceeded|ProxyError|SSLError|CERTIFICATE_VERIFY_FAILED",
        "the package index cannot be reached; check the network, or pip's configuration",
    ),
    (
        r"from versions: none\)\n(?:.*\n)?.*No matching distribution found for (\S+)",
        "the package index cannot be reached, or has no {0}",
    ),
    (r"No matching distribution found for (\S+)", "the package index has no fitting {0}"),
    (r"No CMAKE_(?:C|CXX)_COMPILER|CMAKE_CXX_COMPILER not set", "no working C and C++ compiler was found"),
    (r"ResolutionImpossible|conflicting dependencies", "the packages that are asked for exclude each other"),
    (r"fatal error: Killed|signal terminated program", "the compiler was killed: there was too little memory"),
)


def explain(log: str) -> str:
    """Why a step failed, in a few words: a cause that is known, or else the last error line of its output."""
    for pattern, cause in _CAUSES:
        match = re.search(pattern, log)
        if match:
            return cause.format(*match.groups())
    # What raised tells more than pip's own closing lines do.
    for pattern in (r"^\s*(\w+Error: .+)", r"^.*(fatal error: .+)", r"^\s*((?:ERROR|error|Error): .+)"):
        lines = re.findall(pattern, log, re.MULTILINE)
        if lines:
            return str(lines[-1])
    return "it ended without a reason"
