"""The actor of one loaded model: it owns the engine thread and carries out what the state machine decides.

Life: `init` fingerprints the file on a worker thread and has the engine thread load it; `ready` is when the
weights and the context are there. Every end, by a crash, an unload or a cancelled start, goes through
`terminate`, which waits until the thread has freed the native memory, so that a restart never holds two
copies of the weights. Open requests fail at once when the actor ends; the kit sees to that.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import anyio.to_thread

from erllama_py import errors
from erllama_py.actors import Exit, NoRestart, Raised, Reply, StateMachine
from erllama_py.engine.backends import BackendFactory
from erllama_py.engine.jobs import Outcome
from erllama_py.engine.thread import EngineThread
from erllama_py.model import machine
from erllama_py.model.board import ModelBoard
from erllama_py.model.loading import describe, prepare_off_loop, report_weights
from erllama_py.model.messages import (
    CancelRequest,
    Complete,
    Crash,
    Effect,
    Emit,
    EngineOutcomes,
    FailRequest,
    Message,
    SendJob,
    Submit,
)
from erllama_py.model.request import make_completion
from erllama_py.results import Completion
from erllama_py.watch.log import get_logger


class EngineEnded(Exception):
    """The actor ends because its engine did, or because a drill asked for it."""


class ModelActor(StateMachine[machine.State, Message, Effect]):
    """One incarnation; a restart makes a new one for the same board."""

    def __init__(self, board: ModelBoard, make_backend: BackendFactory, remember: Path, stop_timeout: float) -> None:
        super().__init__()
        self._board = board
        self._make_backend = make_backend
        self._remember = remember  # the folder of remembered fingerprints
        self._stop_timeout = stop_timeout  # seconds that the engine thread has to end
        self._thread: EngineThread | None = None
        self._open: dict[int, tuple[Submit, Reply[Completion]]] = {}
        self._log = get_logger(model=board.model_id)

    async def init(self) -> None:
        board, began = self._board, time.perf_counter()
        board.show("restarting" if board.restarts else "loading", 0)
        # On a worker thread, because the first of a kind imports its code, some 20 ms of it.
        backend = await anyio.to_thread.run_sync(self._make_backend, board.model_id, board.config)
        prepared = await prepare_off_loop(backend, board, self._remember)
        self._thread = EngineThread(backend, self._take_outcomes, f"erllama-{board.model_id}")
        try:
            facts = await self._thread.load(report_weights(board, prepared.facts.file_size))
        except errors.ErllamaError:
            raise
        except Exception as error:
            raise errors.ModelLoadError(board.config.model_path or "the model", str(error)) from error
        self.state = machine.State(memory=facts.memory, n_swa=facts.n_swa)
        description = describe(board, prepared, facts, time.perf_counter() - began)
        board.ready(description, facts, backend.vocabulary)
        self._log.info("model loaded", seconds=round(description.load_seconds, 3), description=facts.description)

    def _take_outcomes(self, outcomes: Sequence[Outcome]) -> None:
        """Called on the loop, once a tick of the engine thread; urgent, so that it is never refused."""
        if self.ref.exit is None:  # an actor that is ending has answered everything
            self.ref.cast(EngineOutcomes(list(outcomes)), urgent=True)

    # --- running -------------------------------------------------------------------------------------------

    def event_of(self, message: Message, reply: Reply[Completion] | None) -> Message:
        """Keep the reply of a request until its effect answers it; a caller that goes away cancels it."""
        if isinstance(message, Submit) and reply is not None:
            request_id = message.request.id
            self._open[request_id] = (message, reply)
            reply.on_abandoned(lambda: self.ref.cast(CancelRequest(request_id), bounded=False))
        return message

    def transition(self, state: machine.State, event: Message) -> tuple[machine.State, Sequence[Effect]]:
        after, effects = machine.transition(state, event, time.monotonic())
        self._board.show(after.phase, len(after.waiting))
        self._board.last_hit = after.last_hit
        return after, effects

    async def perform(self, effect: Effect) -> None:
        match effect:
            case SendJob(job):
                assert self._thread is not None
                self._thread.submit(job)
            case Emit(request_id, event):
                if request_id in self._open and (feed := self._open[request_id][0].feed):
                    feed(event)
            case Complete(request):
                _, reply = self._open.pop(request.id)
                reply.send(make_completion(effect, time.monotonic()))
            case FailRequest(request_id, error, problem):
                _, reply = self._open.pop(request_id)
                reply.fail(errors.request_error(error, problem))
            case Crash(problem):
                raise EngineEnded(problem) from (self._thread.failure if self._thread else None)

    # --- ending --------------------------------------------------------------------------------------------

    async def terminate(self, exit: Exit) -> None:
        self._board.crashed(exit.error if isinstance(exit, Raised) else None)
        if self._thread is not None and not await self._thread.stop(self._stop_timeout):
            self._log.error("the engine thread does not end; its memory stays taken", thread=repr(self._thread))
            if isinstance(exit, Raised):
                # A second copy of the weights beside the stuck one would be worse than a model that is down.
                raise NoRestart("the engine thread does not end")
            await self._thread.ended.wait()  # until the supervisor's deadline: it says who was left behind
