"""A child that lives as long as its model, and the thread that looks after it.

The thread begins the child, because a child ends with the thread that began it; it reads what libraries write to
standard error, has the watchdog look, and waits for the end. The event loop is told of the begin and of the end, and is
needed for nothing else: a child of an application whose loop is busy is watched as well.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import anyio
import msgspec

from erllama_py.engine.children.spawn import CannotSpawn, begin, reap, signal_name
from erllama_py.engine.compute_threads import PROCESS
from erllama_py.engine.process.life.condition import Conditions
from erllama_py.engine.process.life.death import Death, Kill, KillReason, MemoryKills, Observed, death_of
from erllama_py.engine.process.life.last_lines import LastLines
from erllama_py.engine.process.life.limits import Limits, check_cpus
from erllama_py.engine.process.life.output import Output
from erllama_py.engine.process.life.watchdog import LOOK_SECONDS, Look, Watch, look, said
from erllama_py.errors import InvalidOption
from erllama_py.options.process import ProcessOpts
from erllama_py.stacks import begin_thread
from erllama_py.watch.log import get_logger

LOOP_CLOSED = "the event loop of its model is closed"
_CLOSE_SECONDS = 10.0  # for the kernel to be done with a group, which nobody waits for
_IDLE_SECONDS = 1.0  # between two looks at one that has nothing to do


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """How far a child's engine is, for the watchdog: see `watchdog.Look`."""

    beats: int
    has_work: bool
    patience: float
    doing: str = "its work"
    why: str = ""  # what it comes to where it does not get on, and what can be done, in words


class ChildProcess:
    """One child. Everything is called on the event loop, but for `progress`, which the thread asks.

    `ask` is called on the loop when the child is to show that it is alive; then `answered` is to be called. `on_end` is
    called there when `ended` is set. That takes no task, which might be cancelled.
    """

    def __init__(
        self, task: str, given: Mapping[str, Any], *, model_id: str, pass_fds: Sequence[int] = (),
        opts: ProcessOpts | None = None, devices: bool = True, progress: Callable[[], Progress] | None = None,
        ask: Callable[[], object] | None = None, on_end: Callable[[], object] = lambda: None,
    ) -> None:  # fmt: skip
        self.pid: int | None = None
        self.death: Death | None = None
        self.ended = anyio.Event()  # once `death` is known; also where none was begun
        self.lines = LastLines(model_id)
        self._task, self._devices = task, devices
        self._given, self._pass_fds = dict(given), tuple(pass_fds)
        self._row: tuple[int, int] | None = None  # of the table of who has the CPUs
        self._model_id, self._opts = model_id, opts or ProcessOpts()
        self._progress, self._ask, self._on_end = progress, ask, on_end
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._limits = Limits(self._opts)
        self._begun = anyio.Event()
        self._problem: Exception | None = None  # why none was begun
        self._kill: Kill | None = None
        self._word: int | None = None  # what it said that it would end with
        self._asked = self._answers = False
        self._loop_turned = True  # since it was told to, while an answer is waited for
        self._watch = Watch()
        self._thread = threading.Thread(target=self._run, name=f"erllama-warden-{model_id}", daemon=True)

    def __repr__(self) -> str:
        state = "starting" if self.pid is None else "running" if self.death is None else self.death.problem
        return f"<ChildProcess {self._model_id!r} {self.pid} {state}>"

    @property
    def most_bytes(self) -> int | None:
        """Of memory, if it has a limit."""
        return self._opts.memory_bytes

    # --- on the event loop --------------------------------------------------------------------------------------

    async def start(self) -> int:
        """Begin it, and return its process id. Where this is cancelled, what was begun is killed.

        Raises `CannotSpawn`, and `InvalidOption` for limits that cannot be set.
        """
        try:
            check_cpus(self._opts)
        except InvalidOption:
            self._is_over(None)
            raise
        self._row = PROCESS.lend()
        if self._row is not None:
            self._given["cpu_row"] = self._row
            self._pass_fds += self._row[:1]
        try:
            begin_thread(self._thread)
        except RuntimeError as error:  # the system has no thread left
            if self._row is not None:
                PROCESS.take_back(self._row[1])
            self._is_over(None)
            raise CannotSpawn(str(error)) from error
        try:
            await self._begun.wait()
        except BaseException:
            self.kill("killed", "its start was cancelled")
            raise
        if self._problem is not None:
            raise self._problem
        assert self.pid is not None
        return self.pid

    def kill(self, reason: KillReason, problem: str) -> None:
        """End it at once, from any thread; `problem` says why. The first reason counts."""
        with self._lock:
            self._kill = self._kill or Kill(reason, problem)
            process = self._process
        if process is not None:
            process.kill()

    def expects_end(self) -> None:
        """It has been told to end: that it does is no crash."""
        self._asked = True

    def answered(self) -> None:
        """It has shown that it is alive."""
        self._answers = True

    async def end(self, seconds: float) -> bool:
        """Wait for its end, at most so long, and kill it then; false where even that does not end it soon."""
        self.expects_end()
        with anyio.move_on_after(seconds):
            await self.ended.wait()
            return True
        self.kill("killed", f"it was told to end, and did not within {seconds:g} s")
        with anyio.move_on_after(max(seconds, 1.0)):
            await self.ended.wait()
        return self.ended.is_set()

    # --- on the thread ------------------------------------------------------------------------------------------

    def _run(self) -> None:
        began, process = time.monotonic(), None
        try:
            process = begin(self._task, self._given, devices=self._devices, pass_fds=self._pass_fds)
            self._limits.apply(process.pid)
            with self._lock:
                self._process = process
            if self._kill is not None:  # meanwhile
                process.kill()
            self._tell(self._is_up, process.pid)
            with contextlib.closing(Output(process)) as output:
                self._look_after(process, output)
        except Exception as error:
            self._problem = error
        death = self._buried(process, time.monotonic() - began)
        closed = self._limits.close()
        if self._row is not None:
            PROCESS.take_back(self._row[1])
        self._tell(self._is_over, death)
        if not closed:
            self._limits.close(_CLOSE_SECONDS)

    def _look_after(self, process: subprocess.Popen[bytes], output: Output) -> None:
        """Until it has ended, and all that it wrote was read."""
        conditions, wait = Conditions(process.pid), LOOK_SECONDS
        while output.read(wait, self.lines):
            if self._loop.is_closed():  # nobody will ask it to end, nor let go of its sockets
                self.kill("killed", LOOP_CLOSED)
            try:
                wait = self._look(conditions)
            except Exception as error:  # of reading what others write: it is watched no more, and works on
                self._progress = None
                self._log().error("a process is not watched any more", exc_info=error)
        self._word = output.word

    def _look(self, conditions: Conditions) -> float:
        """Have the watchdog look; in how many seconds it is to look again."""
        if self._progress is None:
            return _IDLE_SECONDS
        now, seen = time.monotonic(), self._progress()
        stands = seen.has_work and seen.beats == self._watch.beats
        condition = conditions.since_last(now) if stands else "running"
        self._watch, verdict = look(
            self._watch,
            Look(
                now=now, beats=seen.beats, has_work=seen.has_work, patience=seen.patience, condition=condition,
                ran=conditions.ran, answers=self._answers, hears=self._hears(),
            ),
        )  # fmt: skip
        if verdict == "ask":
            self._ask_it(conditions, seen)
        elif verdict == "kill":
            self.kill("watchdog", said(self._watch, seen.why))
        elif not stands:
            self._limits.look()
        return LOOK_SECONDS if seen.has_work else _IDLE_SECONDS

    def _hears(self) -> bool:
        """Whether the event loop, which an answer comes through, has turned since the last look."""
        if self._watch.asked_at is None:
            return True
        turned, self._loop_turned = self._loop_turned, False
        self._tell(self._has_turned)
        return turned

    def _ask_it(self, conditions: Conditions, seen: Progress) -> None:
        """For an answer, and for what its threads do, which Python writes to standard error without its lock."""
        self._log().warning("a process with work does not get on", doing=seen.doing, seconds=round(self._watch.able, 1))
        self._answers = self._loop_turned = False
        if self._ask is not None:
            self._tell(self._ask)
        self._tell(self._has_turned)
        if self._process is not None and conditions.catches(signal.SIGUSR1):
            self._process.send_signal(signal.SIGUSR1)

    def _buried(self, process: subprocess.Popen[bytes] | None, lived: float) -> Death:
        """How it has ended. One that has not is killed: it is not looked after any more."""
        code = None
        if process is not None:
            if self._problem is not None:
                process.kill()
            code = reap(process)
        seen = Observed(
            code=code, signal=signal_name(code), word=self._word, kill=self._kill, asked=self._asked,
            kills=self._limits.kills() if code == -signal.SIGKILL else MemoryKills(),
            bound=self._limits.bound, lines=self.lines.last(),
        )  # fmt: skip
        pid = None if process is None else process.pid
        return msgspec.structs.replace(death_of(seen), pid=pid, lived=lived, at=time.time())

    def _log(self) -> Any:
        return get_logger(model=self._model_id, pid=None if self._process is None else self._process.pid)

    def _tell(self, function: Callable[..., object], *args: object) -> None:
        try:
            self._loop.call_soon_threadsafe(function, *args)
        except RuntimeError:  # the loop is closed: there is nobody to work for
            with suppress(Exception):
                self.kill("killed", LOOP_CLOSED)

    # --- on the event loop again ---------------------------------------------------------------------------------

    def _has_turned(self) -> None:
        self._loop_turned = True

    def _is_up(self, pid: int) -> None:
        self.pid = pid
        self._begun.set()

    def _is_over(self, death: Death | None) -> None:
        self.death = death
        self._begun.set()
        self.ended.set()
        self._on_end()
