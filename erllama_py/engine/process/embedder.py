"""An embedder in a child, as the actor of the parent has it: each call is sent, and waited for, by its own thread."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy

from erllama_py.engine.backend import BackendFailure
from erllama_py.engine.embedding import EmbedderFacts, EmbedderOpts, NoRoom, Part
from erllama_py.engine.evidence import EngineDied, died
from erllama_py.engine.process.child import Child
from erllama_py.engine.process.life.death import Death
from erllama_py.engine.process.wire.channel import BlockingChannel, socketpair
from erllama_py.engine.process.wire.descriptors import Descriptors
from erllama_py.engine.process.wire.frames import (
    CloseEmbedder,
    Compute,
    EmbedderLoaded,
    EmbedderPart,
    Forget,
    Frame,
    LoadEmbedder,
    Refused,
    Reserve,
    Rest,
    Vectors,
)
from erllama_py.engine.process.wire.pages import new_page
from erllama_py.engine.recorder import Doing
from erllama_py.shared_memory.segment import Attached

DEATH_SECONDS = 5.0  # until the end of a process is known whose socket has ended


class RemoteEmbedder:
    """See `Embedder`. Made on the event loop."""

    def __init__(self, child: Child, engine: int, opts: EmbedderOpts) -> None:
        self._child = child
        mine, theirs = socketpair()
        page, self._recorder = new_page()
        self._channel = BlockingChannel(mine, "erllama-embedder", posts=False)
        self._lock = threading.Lock()
        self._call = 0
        self._aborted = self._closed = False
        self._segment: Attached | None = None  # that vectors lie in, once it has loaded
        self._death: Death | None = None
        self._doing: Doing | None = None
        self._dead = threading.Event()
        self._number = child.start_embedder(engine, opts, theirs.detach(), page, self._recorder, self._child_died)

    def __repr__(self) -> str:
        return f"<RemoteEmbedder {self._number} in {self._child}>"

    def load(self) -> EmbedderFacts:
        """See `Embedder`."""
        number, _ = self._begin()
        answer, descriptors = self._call_with(LoadEmbedder(number))
        with descriptors:
            assert isinstance(answer, EmbedderLoaded)
            if answer.nbytes:
                self._segment = Attached(descriptors.take(), answer.nbytes)
        return answer.facts

    def reserve(self, tokens: int) -> None:
        """See `Embedder`."""
        self._ask(Reserve(tokens))

    def compute(self, parts: Sequence[Part]) -> Any:
        """See `Embedder`."""
        number, wanted = self._begin()
        if not wanted:
            return None
        sent = [
            EmbedderPart(part.seq_id, part.start, numpy.asarray(part.tokens, "i4").tobytes(), part.last)
            for part in parts
        ]
        answer = self._ask(Compute(number, sent))
        if not isinstance(answer, Vectors):
            return None
        rows, width = answer.rows, answer.width
        if self._segment is None:
            return numpy.frombuffer(answer.data or b"", "f4").reshape(rows, width)
        return self._segment.array(0, 4 * rows * width).view("f4").reshape(rows, width)

    def forget(self, seq_id: int) -> None:
        """See `Embedder`."""
        self._ask(Forget(seq_id))

    def rest(self) -> None:
        """See `Embedder`. That its process has ended is for the next call to tell: nobody waits for this one."""
        with suppress(EngineDied, BackendFailure):
            self._ask(Rest())

    def abort(self, flag: bool) -> None:
        """See `Embedder`. Calls are numbered, so one that comes after it is not stopped by it."""
        with self._lock:
            self._aborted, number = flag, self._call
        if flag and not self._closed:
            self._child.abort_embedder(self._number, number)

    def close(self) -> None:
        """See `Embedder`."""
        if self._closed:
            return
        self._closed = True
        self._segment = None
        self._child.is_to_leave(self._number)
        self._channel.call(CloseEmbedder())
        self._channel.close()
        self._child.left(self._number)
        self._recorder.keep()

    def _begin(self) -> tuple[int, bool]:
        with self._lock:
            self._call += 1
            return self._call, not self._aborted

    def _child_died(self, death: Death, doing: Doing | None) -> None:
        self._death, self._doing = death, doing
        self._dead.set()
        self._channel.is_dead()

    def _ask(self, frame: Frame) -> Frame:
        answer, descriptors = self._call_with(frame)
        descriptors.close()
        return answer

    def _call_with(self, frame: Frame) -> tuple[Frame, Descriptors]:
        """The answer to a call. Raises what it was refused with, or what is known of the end of the process."""
        self._child.sent(self._number)
        got = None if self._closed else self._channel.call(frame)
        if got is None:
            raise self._gone()
        answer, descriptors = got
        if isinstance(answer, Refused):
            descriptors.close()
            raise _error(answer.failure.error())
        return answer, descriptors

    def _gone(self) -> Exception:
        self._dead.wait(DEATH_SECONDS)
        if self._death is None:
            return BackendFailure("the embedder has ended")
        return died(self._death, self._recorder, self._doing)


def _error(error: Exception) -> Exception:
    """An error that came back, of the class that callers tell apart."""
    kinds = {"NoRoom": NoRoom, "BackendFailure": BackendFailure}
    kind = kinds.get(getattr(error, "kind", ""))
    return error if kind is None else kind(getattr(error, "problem", ""))
