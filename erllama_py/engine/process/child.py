"""A parent's side of one child: its process, the socket that concerns all of it, and what runs in it.

It belongs to one run of a model's engine, which begins and ends it; a companion's engine and embedders are guests. All
on the event loop, but for `progress`, which the thread that looks after the process asks.
"""

from __future__ import annotations

import asyncio
import itertools
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress

import anyio
import msgspec

from erllama_py import shared_memory
from erllama_py.buffers import BufferPool
from erllama_py.engine.backend import LoadCancelled
from erllama_py.engine.children.traces import frame_hit
from erllama_py.engine.embedding import EmbedderOpts
from erllama_py.engine.evidence import EngineDied
from erllama_py.engine.failure import Failure
from erllama_py.engine.pace import patience
from erllama_py.engine.process.life.child_process import ChildProcess, Progress
from erllama_py.engine.process.life.death import Death, Evidence, report_of
from erllama_py.engine.process.wire.channel import LoopChannel, socketpair
from erllama_py.engine.process.wire.descriptors import Descriptors, close_all
from erllama_py.engine.process.wire.frames import (
    AbortEmbedder,
    BadFrame,
    Frame,
    HoldWeights,
    LoadProgress,
    LogLine,
    Ping,
    Pong,
    Ready,
    Released,
    StartEmbedder,
    StartEngine,
    Stop,
    TryFile,
    WeightsHeld,
    path_of,
)
from erllama_py.engine.process.wire.payloads import Payloads
from erllama_py.engine.recorder import Doing, Recorder
from erllama_py.options.model import ModelConfig, for_engine

# For an interpreter and its imports, on a machine that swaps; and for what begins in it, until its own thread runs.
START_SECONDS = 60.0
NOT_UP = (
    f"its Python and libraries were not read in {START_SECONDS:g} s in which it could run. A disk that is slow, or "
    'memory that is short, may be why: have it load again, or with isolation="thread", which begins no process'
)
NOT_BEGUN = "the main thread of its process did not begin what it was told to"
LOAD_SECONDS = 600.0  # for a part of a load that reports nothing: weights may be read from a slow disk
END_SECONDS = 5.0  # for one that is told to end: what it has is freed with it anyway
SWITCH_SECONDS = 0.0005  # of its interpreter: its threads have little to do beside the engine's

Left = Callable[[Death, Doing | None], object]


class Child:
    """See the module."""

    def __init__(self, model_id: str, config: ModelConfig, buffers: BufferPool) -> None:
        self._model_id = model_id
        self._loop, self._loop_thread = asyncio.get_running_loop(), threading.get_ident()
        shared_memory.share()
        self._ledger = buffers.share()
        self._seat = self._ledger.enter()
        ends = list[socket.socket]()
        try:
            ends += socketpair()
            mine, self._theirs = ends
            self._control = LoopChannel(mine, self._loop, self._on_frame, self._on_end)
        except OSError:
            self._ledger.leave(self._seat)
            close_all(one.detach() for one in ends)
            raise
        given = {
            "control": self._theirs.fileno(), "model_id": model_id, "switch_seconds": SWITCH_SECONDS,
            "ledger": self._ledger.fd, "seat": self._seat.index, "buffer_bytes": buffers.budget,
            "bindings": getattr(sys.modules.get("llama_cpp"), "__version__", None),
        }  # fmt: skip
        self.process = ChildProcess(
            "host", given, model_id=model_id, pass_fds=(self._theirs.fileno(), self._ledger.fd),
            opts=config.process_opts, progress=self.progress, ask=self._ask, on_end=self._bury,
        )  # fmt: skip
        self.payloads = Payloads(self._control.tell)
        self._numbers, self._pings = itertools.count(1), itertools.count(1)
        self._recorders: dict[int, Recorder] = {}  # by what they are of
        self._sent: dict[int, float] = {}  # when each of them was given work last
        self._holding: dict[int, asyncio.Future[None]] = {}  # weights that are being loaded
        self._steps = 0  # of these loads
        self.is_up = False  # it has said so
        self.up = anyio.Event()  # since then, or since its death
        self.gone = threading.Event()  # once `death` is known: for threads
        self._leaving: dict[int, Left] = {}  # who is told of its death
        self._is_begun = False

    def __repr__(self) -> str:
        return f"<Child {self.process}>"

    @property
    def death(self) -> Death | None:
        """How it has ended; None while it lives."""
        return self.process.death

    async def start(self) -> None:
        """Begin it. Raises `CannotSpawn`, and `InvalidOption` for limits that cannot be set."""
        self._is_begun = True
        await self.process.start()
        self._theirs.close()  # else at its end: until it has begun, the number must not be another's

    def try_file(self, given: str, take_pipes: Callable[[], tuple[int, ...]]) -> None:
        """Have it try a file, before there is an engine in it: see `TryFile`. The pipes are taken on the loop, and
        given away. From any thread. Raises `LoadCancelled` where the loop is closed."""

        def send() -> None:
            if pipes := take_pipes():
                self._control.send(TryFile(given), pipes, give=True)

        try:
            self._loop.call_soon_threadsafe(send)
        except RuntimeError as error:
            raise LoadCancelled from error

    def start_engine(self, frame: StartEngine, sock: int, page: int, recorder: Recorder, left: Left) -> None:
        """Have an engine begin in it; the descriptors are given away. `left` is called when the child has died."""
        self._add(frame.engine, recorder, left)
        self._control.send(frame, (sock, page), give=True)

    async def hold_weights(self, config: ModelConfig) -> int:
        """Have it load weights and keep them; their number, for `weights_of`. Raises what the load raised there, and
        `EngineDied`."""
        if self.death is not None:
            raise EngineDied(report_of(self.death, Evidence(doing="starting")))
        number = self.new_number()
        done = self._holding[number] = self._loop.create_future()
        self._control.send(HoldWeights(number, self._model_id, for_engine(config), path_of(config)))
        try:
            await done
        finally:
            del self._holding[number]
        return number

    def start_embedder(
        self, engine: int, opts: EmbedderOpts, sock: int, page: int, recorder: Recorder, left: Left
    ) -> int:
        """Have an embedder begin over the weights of an engine; its number. As `start_engine`."""
        number = self.new_number()
        self._add(number, recorder, left)
        self._control.send(
            StartEmbedder(embedder=number, engine=engine, model_id=self._model_id, opts=opts), (sock, page), give=True
        )
        return number

    def abort_embedder(self, number: int, up_to: int) -> None:
        """Stop its calls up to this one. From any thread."""
        frame = AbortEmbedder(number, up_to)
        if threading.get_ident() == self._loop_thread:
            self._control.send(frame)
        else:
            self._loop.call_soon_threadsafe(self._control.send, frame)

    def sent(self, number: int) -> None:
        """It is given work now. From any thread."""
        self._sent[number] = time.monotonic()

    def new_number(self) -> int:
        """For an engine or an embedder."""
        return next(self._numbers)

    def is_to_leave(self, number: int) -> None:
        """An engine or an embedder over the weights of another was told to end: a process in which it does not is of no
        use. From any thread."""
        with suppress(RuntimeError):  # the loop is closed, and the process ends with that
            self._loop.call_soon_threadsafe(self._loop.call_later, END_SECONDS, self._end_stuck, number)

    def _end_stuck(self, number: int) -> None:
        if number in self._leaving:
            self.process.kill("killed", f"what was told to end in it did not within {END_SECONDS:g} s")

    def left(self, number: int) -> None:
        """An engine or an embedder has ended."""
        self._recorders.pop(number, None)
        self._sent.pop(number, None)
        self._leaving.pop(number, None)
        if self.death is not None and not self._leaving:
            self.payloads.close()

    def _add(self, number: int, recorder: Recorder, left: Left) -> None:
        self._recorders[number], self._leaving[number] = recorder, left
        if self.death is not None and self.gone.is_set():  # it has died in between
            self._loop.call_soon(left, self.death, None)

    async def end(self) -> None:
        """Have it end, and wait for that."""
        self._control.send(Stop())
        if not self._is_begun:
            self._theirs.close()
            self._control.close()
            self._ledger.leave(self._seat)
            return
        while not await self.process.end(END_SECONDS):
            pass  # one that waits for a disk that hangs: until then its memory stays taken
        self._control.close()

    def _bury(self) -> None:
        self._theirs.close()
        self.up.set()
        self.gone.set()
        self._control.is_dead()
        self.payloads.end(self._ledger, self._seat)
        if (death := self.process.death) is None:  # it was never begun
            return
        for waiting in self._holding.values():
            if not waiting.done():
                waiting.set_exception(EngineDied(report_of(death, Evidence(doing="load"))))
        doing = doing_last({number: one.doing() for number, one in self._recorders.items()}, frame_hit(death.texts))
        for left in list(self._leaving.values()):
            left(death, doing)
        if not self._leaving:
            self.payloads.close()

    # --- what comes ----------------------------------------------------------------------------------------------

    def _on_frame(self, frame: Frame, descriptors: Descriptors) -> None:
        match frame:
            case Ready():
                self.is_up = True
                self.up.set()
            case Pong():
                self.process.answered()
            case Released():
                self.payloads.released(frame)
            case LoadProgress():
                self._steps += 1
            case WeightsHeld(number, failure):
                self._held(number, failure)
            case LogLine(name, level, event, facts):
                self.process.lines.log(name, level, event, facts)

    def _held(self, number: int, failure: Failure | None) -> None:
        waiting = self._holding.get(number)
        if waiting is None or waiting.done():
            return
        if failure is None:
            waiting.set_result(None)
        else:
            waiting.set_exception(failure.error())

    def _on_end(self, problem: BadFrame | None) -> None:
        """It has ended, or is about to: one that goes on without hearing us is of no use."""
        if self.process.death is None:
            self._loop.call_later(END_SECONDS, self._end_deaf, problem)

    def _end_deaf(self, problem: BadFrame | None) -> None:
        if self.process.death is None:
            self.process.kill("killed", str(problem or "it had closed the socket that it is told through"))

    # --- whether it gets on ---------------------------------------------------------------------------------------

    def _ask(self) -> None:
        self._control.send(Ping(next(self._pings)))

    def progress(self) -> Progress:
        """How far it is: of all that runs in it, what has begun its operation longest ago."""
        if not self.is_up:
            # No page has so few beats: what begins when it is up has its own time.
            return Progress(beats=-1, has_work=True, patience=START_SECONDS, doing="its start", why=NOT_UP)
        if self._holding:
            return Progress(beats=self._steps, has_work=True, patience=LOAD_SECONDS, doing="load")
        found = [(recorder.doing(), recorder, number) for number, recorder in list(self._recorders.items())]
        working = [(doing, recorder) for doing, recorder, number in found if self._has_work(doing, number)]
        if not working:
            return Progress(beats=sum(doing.beats for doing, *_ in found), has_work=False, patience=START_SECONDS)
        doing, recorder = min(working, key=lambda one: one[0].since)
        return Progress(
            beats=doing.beats, has_work=True, patience=patience_for(doing, recorder), doing=doing.operation,
            why=NOT_BEGUN if doing.operation == "starting" else "",
        )  # fmt: skip

    def _has_work(self, doing: Doing, number: int) -> bool:
        """Also what waits for work although it was given some since it began to: it does not hear that."""
        return doing.operation not in ("idle", "ended") or (
            doing.operation == "idle" and doing.since < self._sent.get(number, 0.0)
        )


def patience_for(doing: Doing, recorder: Recorder) -> float:
    """How many seconds an operation may take without a further beat."""
    if doing.operation == "starting":  # by the main thread, which waits for nothing
        return START_SECONDS
    if doing.operation in ("load", "close"):
        return LOAD_SECONDS
    return patience(recorder.pace(), max(1, doing.tokens))


def doing_last(doing: Mapping[int, Doing], hit: int | None) -> Doing | None:
    """What was under way when a process died, of all that ran in it: where the thread is known that a signal has hit,
    what that one did. Else what had begun last, and all that was at work counts; None where there was nothing. Pure.

    So it was an embedder only where no engine can have been it.
    """
    if hit is not None and (found := doing.get(hit)) is not None and found.is_work:
        return found
    at_work = [one for one in doing.values() if one.is_work]
    working = sorted(at_work, key=lambda one: (one.operation != "embed", one.since))
    if not working:
        return None
    requests = tuple(dict.fromkeys(request for one in working for request in one.requests))
    return msgspec.structs.replace(working[-1], requests=requests)
