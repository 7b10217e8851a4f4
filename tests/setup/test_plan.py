"""What set-up decides: which steps are due, which interpreter is taken, and what a failure is called."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import setup_plan as plan
from setup_plan import Found, Python, SetupProblem, Wanted

PORTABLE = "-DGGML_NATIVE=OFF"
WANTED = Wanted(
    llama="0.3.36", packages="abc", build=PORTABLE, tried=False, named=False, machine="m", place="/p", python=None
)
OWN = WANTED._replace(build="-DGGML_NATIVE=OFF -DGGML_AVX512=ON", tried=True)
READY = Found(python=(3, 11, 7), llama="0.3.36", llama_sound=True, complete=True)
STAMP = {"packages": "abc", "tried": "m"}
ALL = ("create", "llama", "packages")


@pytest.mark.parametrize(
    ("wanted", "found", "made", "stamp", "due"),
    [
        pytest.param(WANTED, READY, PORTABLE, STAMP, (), id="all is there"),
        pytest.param(WANTED, Found(), None, {}, ALL, id="a bare machine"),
        pytest.param(OWN, Found(), None, {}, (*ALL, "trial"), id="a bare machine with more to its CPU"),
        pytest.param(WANTED, Found(), PORTABLE, STAMP, ALL, id="the interpreter is gone"),
        pytest.param(WANTED, READY._replace(python=(3, 10, 2)), PORTABLE, STAMP, ALL, id="the interpreter is too old"),
        pytest.param(WANTED, READY, None, {}, ("packages",), id="an environment made by hand is adopted"),
        pytest.param(OWN, READY, None, STAMP, (), id="and its llama.cpp is kept"),
        pytest.param(WANTED._replace(packages="new"), READY, PORTABLE, STAMP, ("packages",), id="dependencies changed"),
        pytest.param(WANTED._replace(llama="0.4"), READY, PORTABLE, STAMP, ("llama", "packages"), id="the pin changed"),
        pytest.param(WANTED, READY._replace(llama=None, llama_sound=False, complete=False), PORTABLE, STAMP,
                     ("llama", "packages"), id="llama.cpp is not installed"),
        pytest.param(WANTED, READY._replace(llama_sound=False, complete=False), PORTABLE, STAMP,
                     ("llama", "packages"), id="llama.cpp does not load"),
        pytest.param(WANTED, READY._replace(complete=False), PORTABLE, STAMP, ("packages",),
                     id="what it needs is missing"),
        pytest.param(WANTED._replace(python=(3, 13, 0)), READY, PORTABLE, STAMP, ALL,
                     id="another interpreter is asked for"),
        pytest.param(WANTED._replace(python=(3, 11, 9)), READY, PORTABLE, STAMP, (), id="the same one is asked for"),
        pytest.param(OWN, READY, OWN.build, {**STAMP, "place": "/p"}, (), id="it is where it was made"),
        pytest.param(OWN, READY, OWN.build, {**STAMP, "place": "/elsewhere"}, (*ALL, "trial"),
                     id="it was moved, and its scripts call what lies elsewhere"),
        pytest.param(WANTED, READY, OWN.build, STAMP, ("llama", "packages"), id="another build is wanted"),
        pytest.param(WANTED._replace(named=True), READY, None, STAMP, ("llama", "packages"),
                     id="a build is asked for in an environment made by hand"),
        pytest.param(OWN, READY, OWN.build, STAMP, (), id="a build for this CPU is there and tried"),
        pytest.param(OWN, READY, PORTABLE, STAMP, ("llama", "packages", "trial"), id="a new build is tried"),
        pytest.param(OWN, READY, OWN.build, {"packages": "abc"}, ("trial",), id="the trial was interrupted"),
        pytest.param(OWN._replace(machine="n"), READY, OWN.build, STAMP, ("trial",),
                     id="the environment was copied to another machine"),
    ],
)  # fmt: skip
def test_only_the_steps_that_are_due_are_taken(
    wanted: Wanted, found: Found, made: str | None, stamp: dict[str, str], due: tuple[str, ...]
) -> None:
    """llama.cpp, which takes minutes, is built when it is missing, broken or another one, and never else."""
    assert plan.steps(wanted, found, made, stamp) == due


def test_the_newest_interpreter_that_makes_environments_is_taken() -> None:
    """A newer one without `ensurepip` is passed over."""
    found = [Python("a", (3, 11, 7), True), Python("b", (3, 13, 0), True), Python("c", (3, 14, 0), False)]
    assert plan.choose_python(found, None).path == "b"


@pytest.mark.parametrize(
    ("found", "asked", "line"),
    [
        ([], None, "no Python was found; Python 3.11 or newer is needed"),
        ([], "python9", "PYTHON=python9 does not run; Python 3.11 or newer is needed"),
        (
            [Python("/bin/python3", (3, 9, 2), True)],
            None,
            "/bin/python3 is Python 3.9.2; Python 3.11 or newer is needed",
        ),
        (
            [Python("/bin/python3", (3, 11, 2), False)],
            None,
            "/bin/python3 cannot make environments; install the package python3.11-venv",
        ),
    ],
)
def test_without_a_fitting_interpreter_one_line_says_what_to_do(
    found: list[Python], asked: str | None, line: str
) -> None:
    """Too old, missing, and Debian's Python without its venv package are distinguished."""
    with pytest.raises(SetupProblem) as raised:
        plan.choose_python(found, asked)
    assert str(raised.value) == line


def test_the_pin_is_read_from_the_constraints() -> None:
    """Comments and other packages do not matter; a missing pin is an error."""
    assert plan.pinned("# a\nruff==1\nllama-cpp-python==0.3.36\n", "llama-cpp-python") == "0.3.36"
    with pytest.raises(SetupProblem, match="does not pin"):
        plan.pinned("ruff==1\n", "llama-cpp-python")


def test_the_counter_of_the_build_is_read_from_its_output() -> None:
    """Ninja's `[done/of]` counts; other lines do not."""
    assert plan.build_progress("  [12/193] c++ -O3 ggml.c\n") == (12, 193)
    assert plan.build_progress("-- Found Threads: TRUE") is None


@pytest.mark.parametrize(
    ("log", "line"),
    [
        ("OSError: [Errno 28] No space left on device\nERROR: failed", "the disk is full"),
        (
            "WARNING: NewConnectionError(...)\nERROR: No matching distribution found for anyio",
            "the package index cannot be reached; check the network, or pip's configuration",
        ),
        (
            "ERROR: Could not find a version (from versions: none)\nERROR: No matching distribution found for anyio",
            "the package index cannot be reached, or has no anyio",
        ),
        ("ERROR: No matching distribution found for anyio>=99", "the package index has no fitting anyio>=99"),
        ("CMake Error: CMAKE_CXX_COMPILER not set", "no working C and C++ compiler was found"),
        ("OSError: no such readme\nerror: metadata-generation-failed", "OSError: no such readme"),
        ("x.cpp:1:10: fatal error: math.h: No such file\nERROR: Failed", "fatal error: math.h: No such file"),
        ("ERROR: Cannot do it\nbye", "ERROR: Cannot do it"),
        ("", "it ended without a reason"),
    ],
)  # fmt: skip
def test_a_failure_is_reported_in_one_line(log: str, line: str) -> None:
    """Causes that users can do something about have words of their own; else the error itself is shown."""
    assert plan.explain(log) == line


def test_set_up_itself_runs_on_an_old_python() -> None:
    """It must be able to say that the interpreter is too old. The trial is run by the environment's own."""
    scripts = {file for file in Path(plan.__file__).parent.glob("setup_*.py") if file.name != "setup_trial.py"}
    assert len(scripts) == 5
    for file in scripts:
        ast.parse(file.read_text(), str(file), feature_version=(3, 7))
