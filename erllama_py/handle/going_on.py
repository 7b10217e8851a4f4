"""A request on its caller's side, from the call to its answer: over all lives of the actor that has it.

    begin ─▶ in its actor ──answer, or an error of its own──▶ over
                 │ a crash                        cancel, the deadline: what has come so far
                 ▼                                the model is given up, unloaded, closed: that error
              between two lives ──the model is back, and nobody else is on trial──▶ in its actor

What has come of it is in its `Transcript`, which each actor fills in turn; another life is told what was drawn, and
goes on from there. So a stream sees a pause. All of it is on the event loop.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Literal, NamedTuple

import msgspec

from erllama_py.actors import ActorEnded, ActorRef, Raised, Reply, Returned
from erllama_py.cache.keys import Identity
from erllama_py.errors import CrashReport, ModelCrashed
from erllama_py.handle.metering import Spend
from erllama_py.model.blame import blamed_in, crash_of, guilty_of, is_last, last_error, report_of
from erllama_py.model.board import ModelBoard
from erllama_py.model.open_request import began_at
from erllama_py.model.request import make_completion
from erllama_py.model.suspects import Place
from erllama_py.model.trials import Trials
from erllama_py.results import CacheHit, Completion
from erllama_py.scheduler import machine
from erllama_py.scheduler.messages import (
    CancelRequest,
    Complete,
    Earlier,
    EndThinking,
    Feed,
    Message,
    Outline,
    Request,
    Submit,
)
from erllama_py.scheduler.transcript import Transcript
from erllama_py.watch.log import get_logger

Why = Literal["cancelled", "deadline"]
Hold = Callable[[], Awaitable[tuple[ModelBoard, Callable[[], None]]]]
"""Waits for what computes it: the board of that, once it is up, and what lets go of it."""

CHANGED = "the model that came back is another one: its file has changed"
NOT_BACK = Outline(hit=CacheHit("cold", 0), miss_reason="cancelled before it was looked up")


class Where(NamedTuple):
    """Where a request is computed."""

    model: ModelBoard
    trials: Trials  # of all that crashes with it
    hold: Hold
    new_id: Callable[[], int]


class GoingOn:
    """See the module. `reply` is what its caller waits for. Unless it `goes_on`, a crash is its end."""

    def __init__(
        self, where: Where, request: Request, feed: Feed | None, spend: Spend | None, *, identity: Identity | None,
        goes_on: bool,
    ) -> None:  # fmt: skip
        self.id = request.id  # what its caller knows it by
        self.reply: Reply[Completion] = Reply(where.model.model_id)
        self._where, self._request, self._feed, self._spend = where, request, feed, spend
        self._goes_on = goes_on
        self._transcript = Transcript(feed)
        self._board: ModelBoard | None = None  # of the actor that has it
        self._ref: ActorRef[Message] | None = None
        self._inner: Reply[Completion] | None = None  # that actor's
        self._identity = identity  # of the model that it was made for
        self._let_go: Callable[[], None] | None = None
        self._coming: asyncio.Task[None] | None = None  # while no actor has it
        self._before: CrashReport | None = None  # its model's last crash, when that actor was given it
        self._early: Why | None = None
        self._last: BaseException | None = None  # what its last life ended with
        self._charged = self._lost = 0
        self._crashes = 0  # that it has gone on after
        self.reply.on_abandoned(self._abandoned)

    def __repr__(self) -> str:
        return f"<GoingOn of request {self.id}, {self._transcript!r}>"

    def begin(self, board: ModelBoard) -> None:
        """Submit it to the actor of a board, now if that takes it."""
        self._where.model.calls[self.id] = self
        self._where.model.tally.requests += 1
        self._where.trials.enter(self._request.id, self)
        if board.is_up and self._where.trials.may_run(self._request.id):
            self._submit(board)
        else:
            self._wait()

    # --- what its caller may ask ---------------------------------------------------------------------------------

    def cancel(self, why: Why = "cancelled") -> None:
        """Finish it with what it has."""
        self._early = self._early or why
        if self._inner is None:
            self._answer()
        elif self._ref is not None and self._ref.exit is None:
            # Not urgent: it must not overtake the request that it cancels.
            self._ref.cast(CancelRequest(self._request.id, why), bounded=False)

    def end_thinking(self) -> None:
        """Close the thinking that it is in, or is to begin in."""
        thinks, markers = self._transcript.is_thinking, self._request.markers
        if thinks or (thinks is None and markers is not None and markers.begins == "thinking"):
            self._transcript.end_thinking = True  # another life does not know of it
        self._tell_thinking()

    def _tell_thinking(self) -> None:
        if self._ref is not None and self._ref.exit is None:
            self._ref.cast(EndThinking(self._request.id), bounded=False)

    def _abandoned(self) -> None:
        """Nobody waits for it any more. It is over when nothing of it is in its actor."""
        self._early = self._early or "cancelled"
        if self._inner is not None:
            self._inner.abandon()
        else:
            self._answer()

    # --- its lives -----------------------------------------------------------------------------------------------

    def _submit(self, board: ModelBoard) -> None:
        """Give it to the actor that is up now."""
        ref, request, transcript = board.ref, self._request, self._transcript
        assert ref is not None
        self._where.model.between.discard(self.id)
        if board.identity != self._identity:
            get_logger(model=self._where.model.model_id, request=self.id).warning(
                "a request ends: its model came back as another one, as its file has changed"
            )
            self._fail(ModelCrashed(self._where.model.model_id, CHANGED))
            return
        if transcript.lives:
            drawn = transcript.drawn(logprobs=request.report.logprobs is not None)
            request = msgspec.structs.replace(request, again=True, drawn=drawn)
        transcript.begins(self._moved if self._where.trials.is_on_trial(request.id) else None)
        self._board, self._ref, self._before = board, ref, self._where.model.last_crash
        spend = None if self._spend is None else self._charge
        try:
            inner = ref.begin_call(Submit(request, self._feed, spend, transcript), bounded=False)
        except ActorEnded as ended:
            self._ended(ended)
            return
        self._inner = inner
        inner.on_settled(partial(self._settled, inner))
        if transcript.end_thinking and request.drawn is None:
            self._tell_thinking()

    def _settled(self, inner: Reply[Completion]) -> None:
        if inner is not self._inner:  # it was withdrawn
            return
        match inner.outcome:
            case Returned(value):
                self._pay()  # where this engine never had it, for those before
                self._over()
                self._send(value)
            case Raised(ActorEnded() as ended):
                self._ended(ended)
            case Raised(error):
                self._pay()
                self._over()
                self.reply.fail(error)

    def _ended(self, ended: ActorEnded) -> None:
        """The actor that had it has ended."""
        board, where = self._board, self._where
        assert board is not None
        crash = crash_of(ended, where.model, self._before)
        if crash is not None:
            where.trials.crashed(report_of(crash) or crash, blamed_in(crash, board))
        self._note(board)
        self._lost += self._transcript.untold(self._kept)
        self._leave_actor()
        self._last = ended
        if self._early is not None:
            self._answer()
        elif where.trials.is_guilty(self._request.id) and crash is not None:
            error = guilty_of(where.model.model_id, crash)
            error.__cause__ = crash
            self._fail(error)
        elif not self._goes_on:
            self._fail(ended)
        elif is_last(where.model, ended):
            self._fail(last_error(where.model, ended))
        else:
            get_logger(model=where.model.model_id, request=self.id).info(
                "a request goes on after a crash", tokens=len(self._transcript.token_ids)
            )
            where.model.tally.continued += 1
            self._crashes += 1
            self._wait()

    def _note(self, board: ModelBoard) -> None:
        """What its answer is to tell of how it began."""
        state = board.last_state
        if state is not None and (earlier := machine.earlier(state, self._request.id)) is not None:
            self._request = msgspec.structs.replace(self._request, earlier=earlier)

    @property
    def _kept(self) -> int:
        """How many tokens its last life began with."""
        return 0 if self._request.earlier is None else self._request.earlier.found

    def _leave_actor(self) -> None:
        self._inner = self._ref = self._board = None
        if self._let_go is not None:
            let_go, self._let_go = self._let_go, None
            let_go()

    def _wait(self) -> None:
        self._where.model.between.add(self.id)
        self._coming = asyncio.get_running_loop().create_task(self._come(), name=f"request {self.id}")

    async def _come(self) -> None:
        """Wait until an actor takes it."""
        trials = self._where.trials
        try:
            while True:
                await trials.turn(self._request.id)
                board, let_go = await self._where.hold()
                if board.is_up and trials.may_run(self._request.id):
                    break
                let_go()
        except asyncio.CancelledError:
            self._coming = None
            if not self.reply.settled and not self.reply.abandoned:  # its task was cancelled from outside
                self._fail(self._last or ModelCrashed(self._where.model.model_id, "its task was cancelled"))
            raise
        except Exception as error:
            self._coming = None
            self._fail(error)
            return
        self._coming, self._let_go = None, let_go
        self._submit(board)

    # --- trials --------------------------------------------------------------------------------------------------

    @property
    def place(self) -> Place:
        """See `Tried`."""
        return Place(len(self._transcript.token_ids), self._transcript.read)

    def _moved(self) -> None:
        self._where.trials.moved(self._request.id)

    def withdraw(self) -> None:
        """See `Tried`. It goes on under another id: what is left of this life may still be in the actor."""
        inner, trials, left = self._inner, self._where.trials, self._request.id
        assert inner is not None
        assert self._board is not None
        self._note(self._board)
        self._leave_actor()
        trials.leave(left)
        self._request = msgspec.structs.replace(self._request, id=self._where.new_id())
        trials.enter(self._request.id, self)  # crashes are told by the ids that engines know
        self._transcript.is_away = True
        inner.on_settled(partial(trials.is_out, left))
        inner.abandon()
        if self._early is None:
            self._wait()
        else:
            self._answer()

    # --- ends ----------------------------------------------------------------------------------------------------

    def _answer(self) -> None:
        """It was cancelled while no actor had it: it finishes with what has come so far."""
        now, request, earlier = time.monotonic(), self._request, self._request.earlier
        earlier = earlier or Earlier(NOT_BACK, None)
        outline, started_at = earlier.outline, earlier.started_at
        begun = started_at is not None
        began = began_at(outline, started_at, now)
        finished = self._transcript.so_far(request.id, began, now) if begun else None
        answer = Complete(request, outline, finished, started_at, None)
        completion = make_completion(answer, now, self._early or "cancelled")
        self._where.model.tally.completed(completion, began=begun)
        self._pay()
        self._over()
        self._send(completion)

    def _send(self, completion: Completion) -> None:
        """Answer it; no actor knows of more than its own life."""
        if self._crashes:
            stats = msgspec.structs.replace(completion.stats, crashes=self._crashes)
            completion = msgspec.structs.replace(completion, stats=stats)
        self.reply.send(completion)

    def _fail(self, error: BaseException) -> None:
        self._where.model.tally.failed += 1
        self._pay()
        self._over()
        self.reply.fail(error)

    def _over(self) -> None:
        if self._where.model.calls.pop(self.id, None) is not None:
            self._where.trials.leave(self._request.id)
            self._where.model.between.discard(self.id)
        if self._coming is not None:
            self._coming.cancel()
        self._leave_actor()

    # --- metering ------------------------------------------------------------------------------------------------

    def _charge(self, computed: int) -> None:
        """What was computed in all lives so far, but for what a life has lost that has told nothing of its reply."""
        computed += self._lost
        new, self._charged = max(0, computed - self._charged), max(computed, self._charged)
        if new and self._spend is not None:
            self._spend(new)

    def _pay(self) -> None:
        self._charge(self._transcript.computed)
