"""The actor of one loaded model: it owns the engine thread and carries out what the state machine decides.

Life: `init` fingerprints the file on a worker thread and has the engine thread load it; `ready` is when the
weights and the context are there. Every end, by a crash, an unload or a cancelled start, goes through
`terminate`, which waits until the thread has freed the native memory, so that a restart never holds two
copies of the weights. Open requests fail at once when the actor ends; the kit does that.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from erllama_py import errors
from erllama_py.actors import Background, Exit, Raised, Reply, StateMachine, Stop, Threads
from erllama_py.buffers import BufferPool
from erllama_py.cache.client import CacheClient
from erllama_py.cache.messages import RowBytes, Save, SaveLost, Skipped
from erllama_py.engine import SourceFactory
from erllama_py.engine.engines import Engine, make_engine, make_spare
from erllama_py.engine.failure import Failure
from erllama_py.engine.jobs import DrillFault, Failed, Finished, Outcome
from erllama_py.model import open_request
from erllama_py.model.blame import rows_at_fault
from erllama_py.model.board import ModelBoard
from erllama_py.model.loaded import Loaded
from erllama_py.model.loading import (
    borrow,
    check_backend,
    describe,
    missed_gpu,
    prepare_off_loop,
    range_bytes,
    report_weights,
)
from erllama_py.model.look_ups import KeptLogits, LookUps
from erllama_py.model.open_request import OpenRequest
from erllama_py.model.request import make_completion, row_meta
from erllama_py.scheduler import machine, messages
from erllama_py.scheduler.messages import Effect, Message
from erllama_py.scheduler.outcomes import texts_of
from erllama_py.scheduler.reuse import is_cuttable
from erllama_py.scheduler.state import State, changed, limits_of, new_state
from erllama_py.watch.log import get_logger

# Buffers that are made while a model loads: a tick copies two ranges at most, while those of the last are written.
WARM_BUFFERS = 4
WATCH_SECONDS = 1.0  # between two checks for a decode that hangs


class ModelActor(StateMachine[State, Message, Effect]):
    """One incarnation; a restart makes a new one for the same board."""

    def __init__(
        self, board: ModelBoard, make_backend: SourceFactory, remember: Path, buffers: BufferPool,
    ) -> None:  # fmt: skip
        super().__init__()
        self._board = board
        self._buffers = buffers
        self._kept = KeptLogits()
        self._loading = Threads(f"load {board.model_id}", 1)  # its own: no other load, and no caller, holds it up
        self._background = Background(board.model_id)
        self._look_ups: LookUps | None = None
        self._cache: CacheClient
        self._saves: dict[int, Reply[None]] = {}
        self._make_backend = make_backend
        self._remember = remember  # the folder of remembered fingerprints
        self._engine: Engine | None = None
        self._open: dict[int, OpenRequest] = {}
        self._payers: dict[int, Callable[[int], object]] = {}  # told once the engine says what a request came to
        self._undecided = 0  # engine batches that wait in the mailbox
        self._look_at: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._log = get_logger(model=board.model_id)

    async def init(self) -> None:
        board, began = self._board, time.perf_counter()
        self._cache = CacheClient(self.names)
        board.begins(self.ref)
        # On a worker thread, because the first of a kind imports its code, some 20 ms of it.
        backend = await self._loading.abandon(self._make_backend, board.model_id, board.config)
        check_backend(backend, board)
        if board.lender is None:
            prepared = await prepare_off_loop(backend, board, self._remember, self._loading)
        else:
            prepared = borrow(backend, board)
        label, scheduler = board.model_id if board.lender is None else self.name, board.config.scheduler
        if board.config.spare and board.lender is None and board.spare is None:
            board.spare = make_spare(board.model_id)
        self._engine = make_engine(
            backend,
            self._take_outcomes,
            f"erllama-{label}",
            self._buffers,
            scheduler,
            prepared.threads,
            board.use_threads,
            board.tally.begin_engine(),
            board.spare,
        )
        facts = await self._engine.load(report_weights(board, prepared.facts.file_size))
        self._look_ups = LookUps(self._cache, self.name, self._kept, facts.n_vocab, self._post, board.crashed_rows)
        if board.tally.loads == 0 and (nbytes := range_bytes(prepared.facts, board.config)):
            # The first copies should not wait for fresh memory, which takes ten times longer than they do. After a
            # crash requests wait, which shall not wait for that.
            await self._engine.warm(WARM_BUFFERS, nbytes, self._loading.run)
        self.state = new_state(limits_of(board.config, facts, board.grid))
        description = describe(board, prepared, facts, time.perf_counter() - began)
        self._loading.close()
        board.pid = self._engine.pid
        board.ready(description, facts, backend.vocabulary, self.state)
        if board.lender is None:
            board.tally.loaded(description.load_seconds)
        board.lends(Loaded(backend, prepared))
        self._background.start(self._watch(self._engine))
        self._log.info(
            "model loaded", seconds=round(description.load_seconds, 3), description=facts.description,
            threads=description.threads, threads_reason=description.threads_reason, n_ctx=description.context_size,
            n_seq_max=description.n_seq_max,
        )  # fmt: skip
        first = board.lender is None and board.tally.loads == 1
        if first and (problem := missed_gpu(board.config, prepared.facts)):
            self._log.warning("no GPU", problem=problem)

    def _take_outcomes(self, outcomes: Sequence[Outcome]) -> None:
        """Called on the loop, once a tick of the engine thread. Text goes straight to its streams: one wake-up of the
        loop for each token, and no message. All else needs a decision, and text after it waits in the mailbox too, to
        keep the order. Urgent, so that it is never refused."""
        if self.ref.exit is not None:  # an actor that is ending has answered everything
            return
        if not self._undecided and (texts := texts_of(outcomes)) is not None:
            for text in texts:
                self._emit(text)
            return
        self._undecided += 1
        self.ref.cast(messages.EngineOutcomes(list(outcomes)), urgent=True)

    async def handle(self, message: Message, reply: Reply[Any] | None) -> Stop | None:
        """Handle it, and count the engine batches that still wait in the mailbox."""
        stop = await super().handle(message, reply)
        self._undecided -= isinstance(message, messages.EngineOutcomes)
        return stop

    def _emit(self, effect: messages.Emit) -> None:
        if one := self._open.get(effect.request_id):
            one.emit(effect.event, effect.draws)

    def _post(self, event: messages.Found | messages.RowRead | messages.Look | messages.BuffersBack | SaveLost) -> None:
        if self.ref.exit is None:
            self.ref.cast(event, urgent=True)

    # --- running -------------------------------------------------------------------------------------------

    def event_of(self, message: Message, reply: Reply[Any] | None) -> Message:
        """Keep the reply of a request until its effect answers it; a caller that goes away cancels it. What the engine
        has computed of a request is told to its payer, whatever becomes of it."""
        if isinstance(message, messages.EngineOutcomes):
            self._charge(message.batch)
        if isinstance(message, SaveLost):
            self._board.tally.lost_rows += 1
        if isinstance(message, messages.Submit) and reply is not None:
            request_id = message.request.id
            self._board.tally.requests += message.transcript is None  # else its caller's side counts it, once
            self._open[request_id] = OpenRequest(message, reply)
            if message.spend is not None:
                self._payers[request_id] = message.spend
            reply.on_abandoned(lambda: self._abandoned(request_id))
        elif isinstance(message, messages.CancelRequest):
            if one := self._open.get(message.request_id):
                one.end(message.why)
            asyncio.get_running_loop().call_later(open_request.SETTLE_SECONDS, self._settle, message.request_id)
        elif isinstance(message, messages.SaveAll) and reply is not None:
            ticket = message.ticket
            self._saves[ticket] = reply
            reply.on_abandoned(lambda: self.ref.cast(messages.LeaveSaveAll(ticket), bounded=False))
        elif isinstance(message, messages.LeaveSaveAll):
            self._saves.pop(message.ticket, None)
        return message

    def _charge(self, outcomes: Sequence[Outcome]) -> None:
        for one in outcomes:
            if isinstance(one, Finished | Failed) and (spend := self._payers.pop(one.request_id, None)) is not None:
                spend(one.computed)

    def _abandoned(self, request_id: int) -> None:
        """Cancel a request that nobody waits for any more; an actor that is ending fails it anyway."""
        if self.ref.exit is None:
            self.ref.cast(messages.CancelRequest(request_id), bounded=False)

    def _settle(self, request_id: int) -> None:
        """Answer a request that was cancelled with what has come so far, if the engine has not said what it had."""
        now = time.monotonic()
        if request_id in self._open and (cut := machine.cut_short(self.state, request_id, now)):
            one = self._open.pop(request_id)
            finished = one.so_far(cut.outline, cut.started_at, now)
            self._complete(one, msgspec.structs.replace(cut, finished=finished), now)

    def transition(self, state: State, event: Message) -> tuple[State, Sequence[Effect]]:
        now = time.monotonic()
        if self._engine is not None and (rates := self._engine.rates) is not state.rates:
            if (rates.out, rates.into) != (state.rates.out, state.rates.into):
                self._board.saving(rates)
            state = changed(state, rates=rates)
        after, effects = machine.transition(state, event, now)
        self._board.show(after)
        self._look_again(machine.next_look(after, now), now)
        return after, effects

    def _look_again(self, when: float | None, now: float) -> None:
        """Have a `Look` come when something is due without an event."""
        due = self._look_at is not None and self._look_at <= now
        if when == self._look_at or due:  # a `Look` that is due still comes: other events do not do its work
            return
        if self._timer is not None:
            self._timer.cancel()
        self._look_at, self._timer = when, None
        if when is not None:
            delay = max(0.0, when - now)
            self._timer = asyncio.get_running_loop().call_later(delay, self._look_due)

    def _look_due(self) -> None:
        # A loop's timer may come some tenths of a millisecond early: then nothing is due, and another is set.
        self._look_at, self._timer = None, None
        self._post(messages.Look())

    async def perform(self, effect: Effect) -> None:
        assert self._engine is not None
        assert self._look_ups is not None
        match effect:
            case messages.SendJob(job):
                self._engine.submit(job)
            case messages.Emit():
                self._emit(effect)
            case messages.LookUp():
                self._look_ups.find(effect, self._board.config.tier_srv, is_cuttable(self.state.limits.memory))
            case messages.ReadRows():
                self._look_ups.read(effect)
            case messages.RowTaken(request_id):
                self._look_ups.taken(request_id)
            case messages.EndLookUp():
                self._look_ups.end(effect)
            case messages.RefuseRows(rows):
                self._look_ups.refuse(rows)
            case messages.SaveRow():
                self._save(effect)
            case messages.KeepLogits(key, logits):
                self._kept.put(key, logits)
            case messages.AwaitBuffers():
                self._background.start(self._await_buffers())
            case messages.AnswerSaved(ticket):
                self._background.answer(self._saves.pop(ticket), self._cache.flush())
            case messages.Complete(request):
                self._payers.pop(request.id, None)  # where the engine never had it
                if one := self._open.pop(request.id, None):
                    self._complete(one, effect, time.monotonic())
            case messages.FailRequest(request_id, failure):
                self._payers.pop(request_id, None)
                if one := self._open.pop(request_id, None):
                    self._board.tally.failed += not one.is_away
                    error = failure.error()
                    one.reply.fail(error if isinstance(error, errors.ErllamaError) else _told(error))
            case messages.Refuse(request, waiting):
                self._board.tally.refused += 1
                self._payers.pop(request.id, None)
                self._open.pop(request.id).reply.fail(self._refusal(request.session_id or "", waiting))
            case messages.Crash(None):
                raise DrillFault("the model's actor was told to fail")
            case messages.Crash(Failure() as failure):
                raise self._engine.failure or failure.error()

    def _complete(self, one: OpenRequest, answer: messages.Complete, now: float) -> None:
        if answer.finished is None and answer.request.earlier is not None:  # this engine has not seen it, another had
            finished = one.so_far(answer.outline, answer.started_at, now)
            answer = msgspec.structs.replace(answer, finished=finished)
        completion = make_completion(answer, now, one.early or "cancelled")
        if not one.is_away:
            self._board.tally.completed(completion, began=answer.started_at is not None)
        one.reply.send(completion)

    def _refusal(self, session_id: str, waiting: int | None) -> errors.ErllamaError:
        if waiting is None:
            return errors.SessionBusy(errors.BUSY, session_id)
        return errors.QueueFull(self._board.model_id, waiting, self.state.limits.max_pending)

    def _save(self, effect: messages.SaveRow) -> None:
        captured, facts = effect.captured, self._board.facts
        assert facts is not None
        self._board.tally.saved(None if captured.payload is None else len(captured.payload))
        if captured.payload is None:
            self._cache.tell(Skipped(captured.skipped or "no_buffer"))
            return
        meta = row_meta(effect, facts.build, time.time())
        save = Save(
            row=RowBytes(meta, captured.payload, effect.logits or b""), tier=self._board.config.tier_srv,
            pack_seconds=captured.seconds, holder=self.name, request_id=captured.request_id,
            keep_seconds=effect.keep_seconds, replaces=effect.replaces,
        )  # fmt: skip
        if not self._cache.tell(save):
            self._post(SaveLost(captured.request_id, meta.key, meta.start, meta.end))

    async def _await_buffers(self) -> None:
        await self._cache.flush()
        self._post(messages.BuffersBack())

    async def _watch(self, engine: Engine) -> None:
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            self._board.watch(engine.overdue())

    # --- ending --------------------------------------------------------------------------------------------

    async def terminate(self, exit: Exit) -> None:
        self._board.pid = None
        if isinstance(exit, Raised):
            self._board.last_crash = getattr(exit.error, "report", None) or self._board.last_crash
            if self._look_ups is not None:  # at once: the next engine must not be given them
                self._look_ups.refuse(rows := rows_at_fault(exit.error, self._board.last_state))
                self._board.crashed_rows.update(row.meta.key for row in rows)
        self._board.ends()
        self._open.clear()
        self._loading.close()
        if self._engine is not None:
            self._engine.ask_to_stop()  # first of all, so that it ends even if nothing below is waited for
        if self._timer is not None:
            self._timer.cancel()
        await self._background.stop()
        if self._look_ups is not None:
            await self._look_ups.stop()
        if self._board.end_companion is not None:  # first: a restart must not load weights that are in use still
            await self._board.end_companion()
        for one in tuple(self._board.beside):
            await one.end()
        if self._engine is not None:
            # Without a limit: until then the memory, and this actor's name, stay taken. The supervisor limits its own
            # wait, and never starts another one beside this.
            await self._engine.stop()
            self._board.tally.end_engine(self._engine.work)


def _told(error: Exception) -> errors.RequestError:
    """The error that a request has failed with, as one of ours: a backend may have raised any other."""
    told = errors.RequestError(str(error))
    told.__cause__ = error
    return told
