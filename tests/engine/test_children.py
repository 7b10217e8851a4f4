"""Children: begun, watched, told apart by how they end; they outlive neither their time nor their parent."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
from helpers.project import TOP
from helpers.spoilt_gguf import UNKNOWN, spoilt_gguf
from helpers.tiny_gguf import tiny_gguf

from erllama_py.engine.children import probe_file, spawn
from erllama_py.engine.children.codes import DONE, REFUSED
from erllama_py.engine.children.ended import Ended, how_ended, last_words
from erllama_py.engine.children.spawn import CannotSpawn, run_child
from erllama_py.engine.llama.native import package_folder
from erllama_py.engine.llama.probe import BOUNDS
from erllama_py.engine.llama.probe_words import passes

GUARD_SECONDS = 30.0
CONTEXT = {"n_ctx": 256, "n_batch": 64, "n_ubatch": 64, "n_seq_max": 2, "kv_unified": True}


def probe(path: Path, **options: Any) -> Ended:
    bounds = {"most_bytes": BOUNDS.memory, "text_seconds": BOUNDS.text_seconds}
    given = {"folder": str(package_folder()), "path": str(path), "vocab_only": False, "context": CONTEXT, **bounds}
    return run_child("probe_file", given, **{"seconds": GUARD_SECONDS, **options})


def test_memory_that_python_has_not_is_memory_that_the_file_takes() -> None:
    """It is refused for that, and does not count as one that could not be tried."""
    codes = list[int]()

    def library() -> Any:
        raise MemoryError

    probe_file._try({}, library, codes.append)
    assert codes == [REFUSED]
    assert not passes(Ended("ended", REFUSED, None, ("vocabulary",), "MemoryError()", 0.1))


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    """A file that a child waits for, as long as it lives."""
    os.mkfifo(tmp_path / "pipe")
    return tmp_path / "pipe"


@pytest.mark.slow
def test_a_sound_file_passes_and_an_unsound_one_is_refused_in_order(tmp_path: Path) -> None:
    """By the child's own word."""
    ended = probe(tiny_gguf("dense", tmp_path))
    assert (ended.how, ended.code, ended.stages) == ("ended", DONE, ("library", "load", "vocabulary", "graph", "end"))
    (tmp_path / "no.gguf").write_bytes(b"GGUF, or so it says; but it is nothing of the kind")
    assert (probe(tmp_path / "no.gguf").how, probe(tmp_path / "no.gguf").code) == ("ended", REFUSED)


def test_what_ends_a_child_is_told_with_its_last_words(tmp_path: Path) -> None:
    """The signal, the stage, and what the library wrote last."""
    ended = probe(spoilt_gguf(UNKNOWN, tmp_path / "spoilt.gguf"))
    assert (ended.how, ended.signal, ended.stages[-1]) == ("crashed", "SIGABRT", "load")
    assert "fatal error" in ended.last_words


@pytest.mark.slow
def test_a_child_that_is_not_done_in_time_is_ended(pipe: Path) -> None:
    """And one that nobody wants any more."""
    assert probe(pipe, seconds=0.2).how == "out of time"
    looks = iter([True, True])
    assert probe(pipe, wanted=lambda: next(looks, False)).how == "unwanted"
    assert psutil.Process().children() == []


def hanging(pipe: Path) -> str:
    """A program that has a child which hangs; a line each time that it looks after it."""
    return (
        f"import os, sys; sys.path.insert(0, {str(TOP)!r})\n"
        "from erllama_py.engine.children.spawn import run_child\n"
        f"kept = os.open({str(pipe.parent)!r}, os.O_RDONLY); os.set_inheritable(kept, True)\n"
        f"given = {{'folder': {str(package_folder())!r}, 'path': {str(pipe)!r}, 'vocab_only': True, 'context': None,"
        " 'most_bytes': 1 << 30, 'text_seconds': 1}\n"
        "run_child('probe_file', given, seconds=60, wanted=lambda: print('looks', flush=True) is None)\n"
    )


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="it looks into /proc")
def test_a_child_has_nothing_of_its_parents_and_ends_with_it(pipe: Path) -> None:
    """No descriptor, even if it is inheritable; killed with SIGKILL, a parent leaves nothing behind."""
    with subprocess.Popen([sys.executable, "-c", hanging(pipe)], stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == "looks\n"
        (found,) = psutil.Process(program.pid).children()
        folder = Path(f"/proc/{found.pid}/fd")
        assert pipe.parent not in {(folder / name).resolve() for name in os.listdir(folder)}
        end = os.pidfd_open(found.pid)  # whoever is its parent then need not have waited for it
        program.kill()
        assert select.select([end], [], [], GUARD_SECONDS)[0] == [end]
        os.close(end)


UNGUARDED = """
import signal, sys
import erllama_py
if "ignoring" in sys.argv:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
try:
    print(erllama_py.inspect_model(sys.argv[1]).architecture)
except erllama_py.UnsupportedModel as error:
    print(error)
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", ["as it is", "ignoring"])
def test_scripts_without_a_guard_can_have_children(tmp_path: Path, how: str) -> None:
    """Their `__main__` is run once; also where they ignore the signal that tells of the end of a child, so that its
    code is lost."""
    script = tmp_path / "script.py"
    script.write_text(UNGUARDED)
    environment = {**os.environ, "PYTHONPATH": str(TOP), "ERLLAMA_HOME": str(tmp_path / "home")}

    def run(path: Path) -> str:
        return subprocess.check_output([sys.executable, script, path, how], env=environment, text=True)

    assert run(tiny_gguf("dense", tmp_path)) == "llama\n"
    assert "llama.cpp ends the process" in run(spoilt_gguf(UNKNOWN, tmp_path / "spoilt.gguf"))


@pytest.mark.slow
def test_a_child_needs_no_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may have been removed, and the file's name may be no text."""
    path = tmp_path / os.fsdecode(b"\xff\n.gguf")
    path.write_bytes(tiny_gguf("dense", tmp_path).read_bytes())
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    monkeypatch.syspath_prepend("")
    (tmp_path / "gone").rmdir()
    assert probe(path).how == "ended"


def test_an_application_is_never_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `sys.executable` names may be the application: an interpreter is looked for beside it, or none is there."""
    assert spawn.find_python() == sys.executable
    monkeypatch.setattr(sys, "executable", "/opt/app/uwsgi")
    assert Path(spawn.find_python()).name.startswith("python")
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    with pytest.raises(CannotSpawn, match="uwsgi"):
        spawn.find_python()


@pytest.mark.parametrize(
    ("code", "said", "how"),
    [
        (0, ["stage load", "done 0"], "ended"),
        (10, ["done 10"], "ended"),
        (0, ["done 10"], "ended"),  # its code was lost
        (0, ["stage load"], "crashed"),
        (-6, ["stage load"], "crashed"),
        (-6, ["done 0"], "crashed"),
        (None, [], "crashed"),
        (1, [], "failed"),
        (1, ["done 1"], "failed"),
        (0, ["done 1"], "failed"),
        (2, ["done 0"], "failed"),
    ],
)
def test_an_end_counts_by_word_and_code(code: int | None, said: list[str], how: str) -> None:
    """Both, where both are there."""
    assert how_ended(code, said)[0] == how
    if how == "ended":
        assert f"done {how_ended(code, said)[1]}" in said


def test_last_words_are_those_that_give_the_reason() -> None:
    """Not those after them; without the folders of the machine that built the library."""
    folder = "/tmp" + "/build/vendor/src"
    assert (
        last_words(f"a: b\n{folder}/x.cpp:1: GGML_ASSERT(a > 0) failed\nmore\n") == "x.cpp:1: GGML_ASSERT(a > 0) failed"
    )
    thrown = "terminate called after throwing an instance of 'std::bad_alloc'\n  what():  std::bad_alloc\n"
    assert last_words(thrown).endswith("'std::bad_alloc' what():  std::bad_alloc")
    assert (last_words("one\ntwo\n\n"), last_words("")) == ("two", "")
