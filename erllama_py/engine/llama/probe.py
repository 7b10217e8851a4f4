"""What is tried in a child before it is done in this process, which it could end: once, then it is remembered.

`build`: whether this build of llama.cpp can decode on this CPU. `file`: whether a model file can be loaded, as far as
that goes without its weights; who is to try it says so to `FileTry.settle`. What has passed is remembered by this
process, and in `$ERLLAMA_HOME/probes`: a build by its library files and the CPU, a file by its identity, the build, and
the options of the context but for its size. So is a build that traps; whatever else happens may have other reasons, and
is tried again.

Where no child can be begun, or one fails before its task, that is logged, and the load goes on without it. Blocks.
"""

from __future__ import annotations

import ctypes
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Protocol

from erllama_py.cpus import usable_cpus
from erllama_py.engine.backend import FileFacts, LoadCancelled
from erllama_py.engine.children.codes import DONE
from erllama_py.engine.children.ended import Ended
from erllama_py.engine.children.spawn import CannotSpawn, run_child
from erllama_py.engine.fingerprint import identify
from erllama_py.engine.llama import remembered
from erllama_py.engine.llama.native import library_files, package_folder
from erllama_py.engine.llama.probe_words import REPAIR, Bounds, build_problem, file_error, is_lasting, passes
from erllama_py.engine.llama.remembered import Found
from erllama_py.errors import UnsupportedModel, UnusableBuild
from erllama_py.watch.log import get_logger

BOUNDS = Bounds()
_LOOK_SECONDS = 0.05
# How long a try waits where there are as many as CPUs: some that take so long are hanging, and leave a CPU to it.
PATIENCE_SECONDS = 5.0

# Of a context in a child: the books of each cell are real memory, some 40 bytes, though the cell itself is not.
MOST_CELLS = 4096

# Fields of a context's parameters that say nothing of whether its graph can be made. Sizes have bounds of their own.
_NOT_OF_THE_GRAPH = {"n_ctx", "n_threads", "n_threads_batch"}
_PLAIN = {ctypes.c_bool, ctypes.c_int, ctypes.c_int8, ctypes.c_uint32, ctypes.c_int32, ctypes.c_float, ctypes.c_uint64}


class Run(Protocol):
    """Does a task in a child, as `run_child` does."""

    def __call__(self, task: str, given: Any, *, seconds: float, wanted: Callable[[], bool]) -> Ended:
        """Raises `CannotSpawn`."""


class Probe:
    """Tries for one model. `folder` is where results are remembered."""

    def __init__(self, folder: Path, model_id: str, path: str) -> None:
        self.folder, self.path = folder, path
        self._log = get_logger(model=model_id)

    def build(self, wanted: Callable[[], bool]) -> None:
        """Before the library is opened here; `wanted` is asked whether to go on. Raises `UnusableBuild`,
        `LoadCancelled`."""
        key = remembered.digest("build", library_files(), cpu())
        with _alone(key, wanted) as turn:
            if turn.passed:
                return
            found = remembered.recall(self.folder, key, key)
            if found is None and (ended := self.run("probe_build", {}, wanted)) is not None:
                found = Found(key, build_problem(ended))
                if is_lasting(ended):
                    remembered.store(self.folder, key, found)
                elif found.problem is None:
                    self._log.warning(
                        "not known whether llama.cpp runs on this CPU", how=ended.how, signal=ended.signal
                    )
            if found is not None and found.problem is not None:
                signal = found.problem.split(" ")[0] if found.problem.startswith("SIG") else None
                raise UnusableBuild(self.path, found.problem + REPAIR.format(version=_version()), signal)
            _passed.add(key)

    def file(
        self, facts: FileFacts, context: Any, *, vocab_only: bool = False, reason: Callable[[], str | None]
    ) -> FileTry:
        """What is to be done before the file is loaded here; `context`: `llama_context_params`, or None where none is
        made. `reason` says in words what is wrong with a file that ends a process."""
        fields = None if context is None else plain_fields(context)
        if fields is not None:
            fields["n_ctx"] = min(fields["n_ctx"] or MOST_CELLS, MOST_CELLS)
        kept = {name: value for name, value in (fields or {}).items() if name not in _NOT_OF_THE_GRAPH}
        name = remembered.digest("file and texts", os.path.realpath(self.path), kept, context is None, vocab_only)
        identities = [identify(file, "probe") for file in facts.files]
        key = remembered.digest(name, identities, library_files())
        bounds = {"most_bytes": BOUNDS.memory, "text_seconds": BOUNDS.text_seconds}
        given = {"path": self.path, "vocab_only": vocab_only, "context": fields, **bounds}
        return FileTry(self, Found(key), name, given, reason)

    def run(self, task: str, given: dict[str, Any], wanted: Callable[[], bool], run: Run | None = None) -> Ended | None:
        """None where it came to nothing. Raises `LoadCancelled`."""
        folder = package_folder()
        if folder is None:
            return None  # the import that follows says what is wrong
        try:
            ended = (run or run_child)(task, {"folder": str(folder), **given}, seconds=BOUNDS.seconds, wanted=wanted)
        except CannotSpawn as problem:
            self._log.warning("not tried in a process of its own first", task=task, problem=str(problem))
            return None
        if ended.how == "unwanted":
            raise LoadCancelled
        if ended.how == "failed":
            self._log.warning("not tried in a process of its own first", task=task, problem=ended.last_words)
            return None
        self._log.debug("tried in a process of its own", task=task, how=ended.how, seconds=round(ended.seconds, 3))
        return ended


class FileTry:
    """One file, which may be known to be sound: see `Probe.file`. `found` is remembered under `name`."""

    def __init__(
        self, probe: Probe, found: Found, name: str, given: dict[str, Any], reason: Callable[[], str | None]
    ) -> None:
        self._probe, self._found, self._name, self._given, self._reason = probe, found, name, given, reason

    def settle(self, wanted: Callable[[], bool], run: Run | None = None) -> None:
        """Have it tried where it is not known to be sound: in a child of its own, or by `run`. Where it cannot be
        tried, what is known to be unsound is refused.

        Raises `UnsupportedModel`, `ModelLoadError`, `LoadCancelled`.
        """
        probe, key = self._probe, self._found.key
        with _alone(key, wanted) as turn:
            if turn.passed or remembered.recall(probe.folder, self._name, key) is not None:
                _passed.add(key)
                return
            ended = turn.late or probe.run("probe_file", self._given, wanted, run)
            if ended is not None:
                self._judge(ended, turn)
                return
        if problem := self._reason():
            raise UnsupportedModel(probe.path, problem)

    def _judge(self, ended: Ended, turn: _Turn) -> None:
        turn.late = ended if ended.how == "out of time" else None
        if not passes(ended):
            raise file_error(self._probe.path, ended, self._reason(), BOUNDS)
        if ended.code == DONE:  # else not all was tried, as where there was no memory for it
            _passed.add(self._found.key)
            remembered.store(self._probe.folder, self._name, self._found)


# --- one try for all who ask at the same time, and no more at once than there are CPUs -------------------------------


class _Turn:
    """Of one who asks: `passed`, if this process knows that it is sound, and how a try ended that was not done in time,
    for those who wait for it. Else each of them would take as long again."""

    passed = False
    late: Ended | None = None


_changed = threading.Condition()
_under_way: dict[str, _Turn] = {}
_passed: set[str] = set()


def _forget_others() -> None:
    """In a process that was forked, nobody tries what its parent's threads do, nor holds the lock."""
    global _changed
    _changed = threading.Condition()
    _under_way.clear()


os.register_at_fork(after_in_child=_forget_others)


@contextmanager
def _alone(key: str, wanted: Callable[[], bool]) -> Iterator[_Turn]:
    """Nobody else tries this meanwhile. Raises `LoadCancelled`."""
    turn, before, patient_until = _Turn(), None, time.monotonic() + PATIENCE_SECONDS
    with _changed:
        while key not in _passed and (key in _under_way or (_are_many() and time.monotonic() < patient_until)):
            if not wanted():
                raise LoadCancelled
            before = _under_way.get(key, before)
            _changed.wait(_LOOK_SECONDS)
        turn.passed = key in _passed
        turn.late = None if before is None else before.late
        if not turn.passed:
            _under_way[key] = turn
    try:
        yield turn
    finally:
        with _changed:
            if not turn.passed:
                _under_way.pop(key, None)
            _changed.notify_all()


def _are_many() -> bool:
    return len(_under_way) >= max(1, len(usable_cpus()))


def plain_fields(params: Any) -> dict[str, Any]:
    """The numbers in a struct of parameters, by name: no addresses, which mean nothing in another process."""
    return {name: getattr(params, name) for name, kind, *_ in params._fields_ if kind in _PLAIN}


@cache
def cpu() -> str:
    """What the kernel says of the CPU and of itself: what a build can run on."""
    wanted = ("vendor_id", "model name", "flags", "Features", "CPU implementer", "CPU part", "CPU variant")
    try:
        with open("/proc/cpuinfo") as file:
            first = file.read(64 << 10).split("\n\n")[0]
    except OSError:  # another system
        first = ""
    system = os.uname()
    lines = [line for line in first.splitlines() if line.startswith(wanted)]
    return "\n".join([system.sysname, system.release, system.machine, *lines])


def _version() -> str:
    from importlib import metadata  # it takes longer to import than all else here, and children have no need of it

    try:
        return metadata.version("llama-cpp-python")
    except metadata.PackageNotFoundError:
        return ""
