"""A child's side of the socket that concerns all of it: engines and embedders begin here, and the end is told here.

`serve` is the main thread. It waits for nothing else, so that a parent that asks gets an answer as long as the
interpreter runs at all. The end of the socket is the end of the parent, or of its wish for this child.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
from typing import TYPE_CHECKING, Any

from erllama_py import shared_memory
from erllama_py.buffers import BufferPool
from erllama_py.engine.children.codes import DONE, LOST_PARENT
from erllama_py.engine.failure import failure_of
from erllama_py.engine.making import weights_of
from erllama_py.engine.process.inside import child_log
from erllama_py.engine.process.inside.embedder_server import EmbedderServer
from erllama_py.engine.process.inside.engine_server import EngineServer
from erllama_py.engine.process.inside.trying import try_file
from erllama_py.engine.process.wire.channel import BlockingChannel
from erllama_py.engine.process.wire.descriptors import Descriptors
from erllama_py.engine.process.wire.frames import (
    AbortEmbedder,
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
    config_of,
)
from erllama_py.engine.process.wire.pages import open_page
from erllama_py.engine.process.wire.payloads import Payloads
from erllama_py.engine.recorder import Recorder
from erllama_py.engine.run import Steps
from erllama_py.shared_memory.ledger import take_seat
from erllama_py.stacks import begin_thread

if TYPE_CHECKING:
    from erllama_py.engine.backend import Backend

LAST_WORDS_SECONDS = 1.0  # for what was logged to be with the parent


def serve(sock: socket.socket, given: dict[str, Any]) -> int:
    """Do what the parent says, until it says `Stop` or is gone; what the process ends with."""
    sys.setswitchinterval(given["switch_seconds"])
    shared_memory.share()
    control = BlockingChannel(sock, "erllama-control")
    child_log.send_to(lambda name, level, event, facts: control.post(LogLine(name, level, event, facts)))
    host = Host(control, given)
    control.post(Ready(os.getpid()))
    while (got := control.receive()) is not None:
        frame, descriptors = got
        with descriptors:
            if isinstance(frame, Stop):
                host.stop()
                control.drained(LAST_WORDS_SECONDS)
                return DONE
            host.do(frame, descriptors)
    return LOST_PARENT


class Host:
    """What runs in this child."""

    def __init__(self, control: BlockingChannel, given: dict[str, Any]) -> None:
        self._control = control
        self._payloads = Payloads(control.tell)
        self._buffers = BufferPool(given["buffer_bytes"], take_seat(given["ledger"], given["seat"]))
        self._engines: dict[int, EngineServer] = {}
        self._embedders: dict[int, EmbedderServer] = {}
        self._held: dict[int, Backend] = {}  # weights without an engine

    def __repr__(self) -> str:
        return f"<Host of {len(self._engines)} engines, {len(self._embedders)} embedders>"

    def do(self, frame: Frame, descriptors: Descriptors) -> None:
        """What one frame asks for."""
        match frame:
            case StartEngine():
                self._start_engine(frame, descriptors)
            case TryFile(told):
                try_file(told, descriptors)
            case StartEmbedder():
                self._start_embedder(frame, descriptors)
            case HoldWeights():
                begin_thread(threading.Thread(target=self._hold, args=(frame,), name="erllama-weights", daemon=True))
            case AbortEmbedder(number, up_to):
                if (embedder := self._embedders.get(number)) is not None:
                    embedder.abort(up_to)
            case Released():
                self._payloads.released(frame)
            case Ping(number):
                self._control.post(Pong(number))

    def _hold(self, frame: HoldWeights) -> None:
        failure, steps = None, Steps(lambda done: self._control.post(LoadProgress(done)))

        def progress(done: float) -> bool:
            steps.reach(done)
            return True

        try:
            self._held[frame.engine] = weights_of(frame.model_id, config_of(frame), progress)
        except Exception as error:
            failure = failure_of(error)
        self._control.post(WeightsHeld(frame.engine, failure))

    def stop(self) -> None:
        """End all that runs; what does not end is left to the end of the process."""
        for embedder in self._embedders.values():
            embedder.end()
        for engine in self._engines.values():
            engine.end()

    def _start_engine(self, frame: StartEngine, descriptors: Descriptors) -> None:
        sock, recorder = socket.socket(fileno=descriptors.take()), _page(descriptors)
        lender = None if frame.weights_of is None else self._weights(frame.weights_of)
        self._engines = {number: one for number, one in self._engines.items() if not one.is_over}
        self._engines[frame.engine] = EngineServer(
            frame, sock, recorder, lender, self._buffers, self._payloads, is_guest=frame.weights_of in self._engines
        )

    def _weights(self, engine: int) -> Backend | None:
        running = self._engines.get(engine)
        return self._held.get(engine) if running is None else running.backend

    def _start_embedder(self, frame: StartEmbedder, descriptors: Descriptors) -> None:
        sock, recorder = socket.socket(fileno=descriptors.take()), _page(descriptors)
        self._embedders = {number: one for number, one in self._embedders.items() if not one.is_over}
        self._embedders[frame.embedder] = EmbedderServer(frame, sock, recorder, self._engines.get(frame.engine))


def _page(descriptors: Descriptors) -> Recorder:
    fd = descriptors.take()
    try:
        return open_page(fd)
    finally:
        os.close(fd)
