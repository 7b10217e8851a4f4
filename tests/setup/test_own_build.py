"""Set-up on a pretended machine: what it builds, tries, takes and remembers, over several makes.

The environment's Python is a shell script. It writes down what it is called for, leaves a small wheel where one is to
be built, and ends its trial as the test says. CPU, compiler and folder of wheels are pretended too.
"""

from __future__ import annotations

import json
import platform
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import setup_env
import setup_llama
import setup_plan as plan
from helpers.cpus import X86_V3, ZEN_5
from setup_plan import SetupProblem

PYTHON = """#!/bin/sh
case "$*" in
  *files*pip*) [ ! -e "{top}/no pip" ] || exit 1; echo 9 ;;
  *ensurepip) echo ensurepip >> "{top}/calls"; rm "{top}/no pip" ;;
  -c*) echo "python 3 12 0"; echo "llama $(cat "{top}/version")"; echo "sound complete" ;;
  *"pip wheel"*) echo "build $CMAKE_ARGS" >> "{top}/calls"; mkdir -p "$6"; cp "{top}/wheel" "$6/a.whl" ;;
  *"pip install"*whl) echo "install $(basename "$(dirname "$7")")" >> "{top}/calls" ;;
  *"pip install"*) ;;
  *setup_trial.py) echo trial >> "{top}/calls"; . "{top}/trial" ;;
esac
"""
NATIVE_OFF = "-DGGML_NATIVE=OFF"
AVX512 = f"{NATIVE_OFF} -DGGML_AVX512=ON -DGGML_AVX512_VBMI=ON -DGGML_AVX512_VNNI=ON -DGGML_AVX512_BF16=ON"
OWN = f"{AVX512} -DGGML_AVX_VNNI=ON"


class Pretended:
    """A machine and what happens on it."""

    def __init__(self, top: Path, patch: pytest.MonkeyPatch, said: Callable[[], str]) -> None:
        self._top, self._patch, self._said = top, patch, said
        version = plan.pinned((setup_env.TOP / "constraints.txt").read_text(), setup_llama.LLAMA)
        (top / "version").write_text(version)
        with zipfile.ZipFile(top / "wheel", "w") as wheel:
            wheel.writestr("llama_cpp/lib/libllama.so", bytes(1000))
        for name in ("CMAKE_ARGS", "PORTABLE", "PYTHON"):
            patch.delenv(name, raising=False)
        patch.setenv("ERLLAMA_HOME", str(top / "home"))
        patch.setenv("CC", "true")
        patch.setenv("CXX", "true")
        patch.setattr(setup_llama, "CPUINFO", top / "cpuinfo")
        patch.setattr(platform, "machine", lambda: "x86_64")
        self.cpu(ZEN_5)
        self.trial("exit 0")

    def cpu(self, flags: str) -> None:
        """What its CPU reports from now on."""
        (self._top / "cpuinfo").write_text(f"model name\t: Some CPU\nflags\t\t: {flags}\n")

    def trial(self, command: str) -> None:
        """How trials end from now on."""
        (self._top / "trial").write_text(command)

    def compiler(self, script: str) -> None:
        """Another C compiler."""
        file = self._top / "cc"
        file.write_text(f"#!/bin/sh\n{script}\n")
        file.chmod(0o755)
        self._patch.setenv("CC", str(file))

    def environment(self, name: str = "venv", stamp: dict[str, str] | None = None) -> Path:
        """An environment that is complete, and was made by a set-up that left this stamp."""
        python = self._top / name / "bin" / "python"
        python.parent.mkdir(parents=True)
        python.write_text(PYTHON.format(top=self._top))
        python.chmod(0o755)
        (self._top / name / "erllama.json").write_text(json.dumps({"build": ""} if stamp is None else stamp))
        return self._top / name

    def make(self, venv: Path, **asked: str) -> tuple[list[str], list[str]]:
        """What a make did, hashes of folders left out, and what it said."""
        calls = self._top / "calls"
        calls.write_text("")
        self._said()
        with self._patch.context() as patch:
            for name, value in asked.items():
                patch.setenv(name, value)
            setup_env.set_up(venv)
        done = [line.rpartition("-")[0] if line.startswith("install") else line for line in self.calls()]
        return done, self._said().splitlines()

    @property
    def wheels(self) -> Path:
        """Where built ones are kept."""
        return self._top / "home" / "wheels"

    def calls(self) -> list[str]:
        """What was called, in order."""
        return (self._top / "calls").read_text().splitlines()

    def installed(self, name: str) -> str:
        """The call that installs the wheel of a build."""
        return f"install {(self._top / 'version').read_text()}-{name}"


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Pretended:
    """One with AVX-512 and a compiler that knows all of it."""
    return Pretended(tmp_path, monkeypatch, lambda: capfd.readouterr().err)


OWN_NAME, PORTABLE_NAME = "avx512-vbmi-vnni-bf16-avxvnni", "portable"


def test_a_build_for_this_cpu_is_tried_once_and_kept(machine: Pretended) -> None:
    """The next make does and says nothing."""
    venv = machine.environment()
    done, said = machine.make(venv)
    assert done == [f"build {OWN}", machine.installed(OWN_NAME), "trial"]
    assert said[0].startswith("erllama_py: building llama.cpp ")
    assert machine.make(venv) == ([], [])


def test_a_build_that_traps_gives_way_to_the_portable_one(machine: Pretended) -> None:
    """One line says why. It is remembered: neither the next make nor another environment tries it again."""
    machine.trial("kill -ILL $$")
    venv = machine.environment()
    done, said = machine.make(venv)
    assert done == [
        f"build {OWN}", machine.installed(OWN_NAME), "trial", f"build {NATIVE_OFF}", machine.installed(PORTABLE_NAME)
    ]  # fmt: skip
    assert [line for line in said if "trial" in line] == [
        f"erllama_py: llama.cpp built for this CPU ({OWN_NAME}) fails its trial: it ended by SIGILL; "
        "the portable build takes its place"
    ]
    assert machine.make(venv) == ([], [])
    other, _ = machine.make(machine.environment("other"))
    assert other == [machine.installed(PORTABLE_NAME)]


def test_a_trial_with_wrong_numbers_fails_too(machine: Pretended) -> None:
    """Its own last line is the reason."""
    machine.trial("echo it computes wrong numbers; exit 3")
    done, said = machine.make(machine.environment())
    assert done[-1] == machine.installed(PORTABLE_NAME)
    assert any("fails its trial: it computes wrong numbers; the portable" in line for line in said)


def test_what_failed_on_one_machine_is_tried_on_another(machine: Pretended, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of wheels can be shared, and a new kernel may know better."""
    machine.trial("kill -ILL $$")
    venv = machine.environment()
    machine.make(venv)
    machine.trial("exit 0")
    monkeypatch.setattr(platform, "release", lambda: "a newer kernel")
    assert machine.make(venv)[0] == [machine.installed(OWN_NAME), "trial"]
    assert machine.make(venv) == ([], [])


def test_a_trial_that_could_not_be_run_is_run_by_the_next_make(machine: Pretended) -> None:
    """Nothing is said of the build by it."""
    machine.trial("echo no module >&2; exit 1")
    venv = machine.environment()
    with pytest.raises(SetupProblem, match="could not be run"):
        machine.make(venv)
    machine.trial("exit 0")
    assert machine.make(venv)[0] == ["trial"]
    assert machine.make(venv)[0] == []


def test_an_environment_that_came_from_another_machine_is_noticed(machine: Pretended) -> None:
    """It gets the build of the CPU that it is on now; wheels that were built once serve again."""
    venv = machine.environment()
    machine.make(venv)
    machine.cpu(X86_V3)
    assert machine.make(venv)[0] == [f"build {NATIVE_OFF}", machine.installed(PORTABLE_NAME)]
    assert machine.make(venv)[0] == []
    machine.cpu(ZEN_5)
    assert machine.make(venv)[0] == [machine.installed(OWN_NAME), "trial"]


def test_another_kernel_is_another_trial(machine: Pretended, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same build, copied to a machine with an equal CPU: a second's trial, once."""
    venv = machine.environment()
    machine.make(venv)
    monkeypatch.setattr(platform, "release", lambda: "another kernel")
    assert machine.make(venv)[0] == ["trial"]
    assert machine.make(venv)[0] == []


def test_the_portable_build_is_kept_once_it_was_asked_for(machine: Pretended) -> None:
    """A make without `PORTABLE` changes nothing, `PORTABLE=0` goes back."""
    venv = machine.environment()
    assert machine.make(venv, PORTABLE="1")[0] == [f"build {NATIVE_OFF}", machine.installed(PORTABLE_NAME)]
    assert machine.make(venv, PORTABLE="1")[0] == machine.make(venv)[0] == []
    assert machine.make(venv, PORTABLE="0")[0] == [f"build {OWN}", machine.installed(OWN_NAME), "trial"]
    assert machine.make(venv)[0] == []


def test_a_wish_counts_even_where_nothing_is_due(machine: Pretended) -> None:
    """An environment that is portable already, and would be rebuilt for this CPU by the next make."""
    venv = machine.environment(stamp={"cmake_args": ""})
    machine.make(venv, PORTABLE="1")
    assert "build" not in str(machine.calls())
    assert machine.make(venv)[0] == []


def test_a_portable_environment_that_set_up_made_gets_the_build_of_its_cpu(machine: Pretended) -> None:
    """One that was made before builds were chosen; one with options of the user's own is left alone."""
    assert machine.make(machine.environment("old", {"cmake_args": ""}))[0][-1] == "trial"
    cuda = machine.environment("cuda", {"cmake_args": "-DGGML_CUDA=on"})
    assert machine.make(cuda)[0] == []
    by_hand = machine.environment("by_hand", {})
    assert machine.make(by_hand)[0] == []


def test_a_set_that_the_compiler_lacks_is_left_out(machine: Pretended) -> None:
    """It is not missed at each make."""
    machine.compiler('case "$*" in *avxvnni*) exit 1 ;; esac')
    venv = machine.environment()
    assert machine.make(venv)[0] == [f"build {AVX512}", machine.installed("avx512-vbmi-vnni-bf16"), "trial"]
    assert machine.make(venv)[0] == []


@pytest.mark.parametrize("said", ["exit 3", r"printf '\377\376'; exit 3", r"printf '\377'; kill -ILL $$"])
def test_a_trial_that_says_nothing_or_garbage_fails_like_any_other(machine: Pretended, said: str) -> None:
    """A library that computes wrongly may print anything."""
    machine.trial(said)
    assert machine.make(machine.environment())[0][-1] == machine.installed(PORTABLE_NAME)


def test_why_a_trial_could_not_be_run_is_in_the_line(machine: Pretended) -> None:
    """A full disk, for one: Python says it on stderr."""
    machine.trial("echo 'OSError: [Errno 28] No space left on device' >&2; exit 1")
    venv = machine.environment()
    with pytest.raises(SetupProblem) as raised:
        machine.make(venv)
    assert str(raised.value) == (
        f"the trial of llama.cpp could not be run: the disk is full (log: {venv / 'build.log'})"
    )  # fmt: skip


def test_a_failed_trial_is_known_where_it_cannot_be_shared(machine: Pretended) -> None:
    """A folder of wheels that others own: the environment knows by itself, and gets the portable build."""
    machine.make(machine.environment("own"))
    machine.make(machine.environment("portable"), PORTABLE="1")
    (machine.wheels / "failed.json").mkdir()  # a root user may write into any folder
    machine.trial("kill -ILL $$")
    venv = machine.environment()
    assert machine.make(venv)[0] == [machine.installed(OWN_NAME), "trial", machine.installed(PORTABLE_NAME)]
    assert machine.make(venv) == ([], [])


@pytest.mark.slow
@pytest.mark.parametrize("note", ["", "null", "[]", "{", '{"a": 1}', '"text"'])
def test_a_damaged_note_of_failed_trials_is_an_empty_one(machine: Pretended, note: str) -> None:
    """And is written again by the next failure."""
    machine.wheels.mkdir(parents=True)
    (machine.wheels / "failed.json").write_text(note)
    machine.trial("kill -ILL $$")
    machine.make(machine.environment())
    assert machine.make(machine.environment("other"))[0] == [machine.installed(PORTABLE_NAME)]


@pytest.mark.slow
@pytest.mark.parametrize("note", ["", "null", "[]", "{", '{"build": null}', '"text"'])
def test_an_environment_whose_stamp_is_damaged_is_set_up_again(machine: Pretended, note: str) -> None:
    """What its llama.cpp was built for is not known any more."""
    venv = machine.environment()
    machine.make(venv)
    (venv / setup_env.STAMP).write_text(note)
    done, said = machine.make(venv)
    assert done == [machine.installed(OWN_NAME), "trial"]
    assert "is damaged" in said[0]
    assert machine.make(venv) == ([], [])


@pytest.mark.slow
def test_a_broken_wheel_is_built_again(machine: Pretended) -> None:
    """A disk that was full, or a copy that was broken off, leaves one."""
    machine.make(machine.environment())
    (wheel,) = machine.wheels.glob("*/*.whl")
    whole = wheel.read_bytes()
    for broken in (whole[:100], b"", whole.replace(bytes(10), bytes(9) + b"x", 1)):
        wheel.write_bytes(broken)
        venv = machine.environment(f"after{len(broken)}{broken[-1:].hex()}")
        assert machine.make(venv)[0] == [f"build {OWN}", machine.installed(OWN_NAME), "trial"]
    assert list(machine.wheels.glob("*/*")) == [wheel]


def test_a_wheel_that_could_not_be_kept_is_not_built(machine: Pretended) -> None:
    """It is said before the minutes that a build takes."""
    machine.wheels.parent.mkdir()
    machine.wheels.write_text("a file where the folder should be")
    with pytest.raises(SetupProblem, match=r"cannot write into .*wheels.*ERLLAMA_HOME"):
        machine.make(machine.environment())
    assert machine.calls() == []


def test_an_environment_without_pip_gets_it(machine: Pretended, tmp_path: Path) -> None:
    """Its making was interrupted, or it was made by uv."""
    (tmp_path / "no pip").touch()
    done, _ = machine.make(machine.environment())
    assert done == ["ensurepip", f"build {OWN}", machine.installed(OWN_NAME), "trial"]


def test_options_of_blanks_are_none(machine: Pretended) -> None:
    """They ask for no build of their own."""
    venv = machine.environment()
    machine.make(venv)
    assert machine.make(venv, CMAKE_ARGS=" ") == ([], [])
