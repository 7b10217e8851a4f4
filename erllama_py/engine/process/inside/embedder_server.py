"""A child's side of one embedder: a thread that does what its socket says, one call after the other.

Vectors lie in a segment that the parent maps too; only their number is sent.
"""

from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING, Any

import numpy

from erllama_py.engine.children.traces import in_frame
from erllama_py.engine.children.uncaught import end_with
from erllama_py.engine.embedding import Part
from erllama_py.engine.failure import failure_of
from erllama_py.engine.heartbeat import Heart
from erllama_py.engine.process.wire.channel import BlockingChannel
from erllama_py.engine.process.wire.frames import (
    CloseEmbedder,
    Compute,
    Done,
    EmbedderLoaded,
    EmbedderPart,
    Forget,
    Frame,
    LoadEmbedder,
    Refused,
    Reserve,
    Rest,
    StartEmbedder,
    Vectors,
)
from erllama_py.engine.process.wire.payloads import IN_FRAME_BYTES
from erllama_py.engine.recorder import Recorder
from erllama_py.errors import ModelNotLoaded
from erllama_py.shared_memory.segment import Segment
from erllama_py.stacks import begin_thread

if TYPE_CHECKING:
    from erllama_py.engine.embedding import Embedder
    from erllama_py.engine.process.inside.engine_server import EngineServer

END_SECONDS = 20.0


class EmbedderServer:
    """See the module. `engine` is the one over whose weights it is."""

    def __init__(
        self, start: StartEmbedder, sock: socket.socket, recorder: Recorder, engine: EngineServer | None
    ) -> None:
        self.is_over = False
        self._start, self._recorder, self._engine = start, recorder, engine
        self._heart = Heart(recorder=recorder)
        self._channel = BlockingChannel(sock, f"embedder {start.embedder}")
        self._embedder: Embedder | None = None
        self._segment: Segment | None = None  # that vectors lie in, once it has loaded
        self._lock = threading.Lock()
        self._call = self._aborted_to = 0  # numbers of calls
        body, name = in_frame(start.embedder, self._serve), f"erllama-embedder-{start.embedder}"
        self._thread = threading.Thread(target=body, name=name, daemon=True)
        begin_thread(self._thread)

    def __repr__(self) -> str:
        return f"<EmbedderServer {self._start.embedder}>"

    def abort(self, up_to: int) -> None:
        """Stop the call under way, and those on their way, up to this number. From any thread."""
        with self._lock:
            self._aborted_to = max(self._aborted_to, up_to)
            if self._embedder is not None and self._call <= up_to:
                self._embedder.abort(True)

    def end(self) -> None:
        """Have it end, and wait for that, in bounded time."""
        self.abort(1 << 62)
        self._channel.close()
        self._thread.join(END_SECONDS)

    # --- on its thread -----------------------------------------------------------------------------------

    def _serve(self) -> None:
        try:
            self._recorder.begin("idle")  # that it has begun
            while (got := self._channel.receive()) is not None:
                frame, descriptors = got
                descriptors.close()
                answer = self._answer(frame)
                self._recorder.begin("idle")
                fds = [self._segment.fd] if isinstance(answer, EmbedderLoaded) and self._segment is not None else []
                self._channel.post(answer, fds, kept=True)
            self._close()
        except BaseException as error:
            end_with(error)
        self._channel.close()
        self.is_over = True

    def _answer(self, frame: Frame) -> Frame:
        try:
            return self._do(frame)
        except Exception as error:
            return Refused(failure_of(error))

    def _do(self, frame: Frame) -> Frame:
        match frame:
            case LoadEmbedder(number):
                return self._load(number)
            case Compute(number, parts):
                return self._compute(number, parts)
            case Reserve(tokens):
                self._recorder.begin("load", (), tokens)
                self._loaded().reserve(tokens)
            case Forget(seq_id):
                self._loaded().forget(seq_id)
            case Rest():
                self._loaded().rest()
            case CloseEmbedder():
                self._close()
        return Done()

    def _load(self, number: int) -> Frame:
        if self._engine is None:
            raise ModelNotLoaded(self._start.model_id)
        self._recorder.begin("load")
        embedder = self._engine.backend.embedder(self._start.opts)
        self._begin(number, embedder)
        facts = embedder.load()
        rows = facts.n_seq_max if self._start.opts.ranks else facts.n_batch
        nbytes = 4 * rows * facts.width
        if nbytes > IN_FRAME_BYTES:
            self._segment = Segment(nbytes)
        return EmbedderLoaded(facts, 0 if self._segment is None else nbytes)

    def _begin(self, number: int, embedder: Embedder) -> bool:
        """A call begins; false where it is not wanted any more."""
        with self._lock:
            self._call, self._embedder = number, embedder
            wanted = number > self._aborted_to
            embedder.abort(not wanted)
        return wanted

    def _compute(self, number: int, parts: list[EmbedderPart]) -> Frame:
        embedder = self._loaded()
        given = [Part(one.seq_id, one.start, numpy.frombuffer(one.tokens, "i4"), one.last) for one in parts]
        self._begin(number, embedder)
        self._heart.begins(sum(len(part.tokens) for part in given), operation="embed")
        rows = None
        try:
            rows = embedder.compute(given)
        finally:
            self._heart.ends(rows is not None)
        return Done() if rows is None else self._vectors(rows)

    def _loaded(self) -> Embedder:
        if self._embedder is None:
            raise ModelNotLoaded(self._start.model_id)
        return self._embedder

    def _close(self) -> None:
        self._recorder.begin("close")
        with self._lock:
            embedder, self._embedder = self._embedder, None
        if embedder is not None:
            embedder.close()
        if self._segment is not None:
            self._segment.close()

    def _vectors(self, rows: Any) -> Vectors:
        if self._segment is None:
            return Vectors(rows.shape[0], rows.shape[1], rows.tobytes())
        numpy.copyto(self._segment.array(0, rows.nbytes).view("f4").reshape(rows.shape), rows)
        return Vectors(rows.shape[0], rows.shape[1])
