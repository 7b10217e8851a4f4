"""What set-up decides: which steps are due, which interpreter is taken, and what a failure is called."""

from __future__ import annotations

import pytest
import setup_plan as plan
from hypothesis import given
from hypothesis import strategies as st
from setup_plan import Found, Python, SetupProblem, Wanted

WANTED = Wanted(llama="0.3.36", packages="abc", cmake_args="", python=None)
READY = Found(python=(3, 11, 7), llama="0.3.36", llama_sound=True, complete=True)
STAMP = {"packages": "abc", "cmake_args": ""}
ALL = ("create", "llama", "packages")


@pytest.mark.parametrize(
    ("wanted", "found", "stamp", "due"),
    [
        pytest.param(WANTED, READY, STAMP, (), id="all is there"),
        pytest.param(WANTED, Found(), {}, ALL, id="a bare machine"),
        pytest.param(WANTED, Found(), STAMP, ALL, id="the interpreter is gone"),
        pytest.param(WANTED, READY._replace(python=(3, 10, 2)), STAMP, ALL, id="the interpreter is too old"),
        pytest.param(WANTED, READY, {}, ("packages",), id="an environment made by hand is adopted"),
        pytest.param(WANTED._replace(packages="new"), READY, STAMP, ("packages",), id="dependencies changed"),
        pytest.param(WANTED._replace(llama="0.4"), READY, STAMP, ("llama", "packages"), id="the pin changed"),
        pytest.param(WANTED, READY._replace(llama=None, llama_sound=False, complete=False), STAMP,
                     ("llama", "packages"), id="llama.cpp is not installed"),
        pytest.param(WANTED, READY._replace(llama_sound=False, complete=False), STAMP,
                     ("llama", "packages"), id="llama.cpp does not load"),
        pytest.param(WANTED, READY._replace(complete=False), STAMP, ("packages",), id="what it needs is missing"),
        pytest.param(WANTED._replace(python=(3, 13, 0)), READY, STAMP, ALL, id="another interpreter is asked for"),
        pytest.param(WANTED._replace(python=(3, 11, 9)), READY, STAMP, (), id="the same one is asked for"),
        pytest.param(WANTED._replace(cmake_args="-DGGML_CUDA=on"), READY, STAMP,
                     ("llama", "packages"), id="another build is asked for"),
        pytest.param(WANTED, READY, {**STAMP, "cmake_args": "-DGGML_CUDA=on"}, (), id="a special build is kept"),
    ],
)  # fmt: skip
def test_only_the_steps_that_are_due_are_taken(
    wanted: Wanted, found: Found, stamp: dict[str, str], due: tuple[str, ...]
) -> None:
    """llama.cpp, which takes minutes, is built when it is missing, broken or another one, and never else."""
    assert plan.steps(wanted, found, stamp) == due


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
    """Too old, missing, and Debian's Python without its venv package are told apart."""
    with pytest.raises(SetupProblem) as raised:
        plan.choose_python(found, asked)
    assert str(raised.value) == line


def test_the_pin_is_read_from_the_constraints() -> None:
    """Comments and other packages do not matter; a missing pin is an error."""
    assert plan.pinned("# a\nruff==1\nllama-cpp-python==0.3.36\n", "llama-cpp-python") == "0.3.36"
    with pytest.raises(SetupProblem, match="does not pin"):
        plan.pinned("ruff==1\n", "llama-cpp-python")


def test_the_build_is_portable_unless_the_user_decides_that() -> None:
    """Our option is added to theirs, and never contradicts it."""
    assert plan.cmake_args("") == "-DGGML_NATIVE=OFF"
    assert plan.cmake_args("-DGGML_CUDA=on") == "-DGGML_CUDA=on -DGGML_NATIVE=OFF"
    assert plan.cmake_args("-DGGML_NATIVE=ON") == "-DGGML_NATIVE=ON"


@given(st.tuples(st.text(), st.text(), st.text()), st.tuples(st.text(), st.text(), st.text()))
def test_builds_that_differ_are_kept_apart(one: tuple[str, str, str], other: tuple[str, str, str]) -> None:
    """The folder of a wheel stands for version, options and machine together."""
    lines = ["\n".join(one), "\n".join(other)]
    assert (plan.wheel_key(*one) == plan.wheel_key(*other)) == (lines[0] == lines[1])


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
def test_a_failure_is_told_in_one_line(log: str, line: str) -> None:
    """Causes that users can do something about have words of their own; else the error itself is shown."""
    assert plan.explain(log) == line
