"""One model's machine among callers, a cache and an engine that do what they do in any order.

`World` owns the state. It carries the machine's effects out against a fake engine and a shelf of rows, as late as it is
told to by its steps, and checks after each what has to be true always: cells suffice, sequences and sessions are
one request's at a time, none is overtaken, look-ups are ended, and each request is answered once with the tokens that
it is due. `settle` lets everything come to rest: none may be left over.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable

from erllama_py.cache.keys import TOKEN_BYTES
from erllama_py.cache.messages import Located
from erllama_py.engine.jobs import Generate
from erllama_py.results import TextDelta
from erllama_py.scheduler.cells import count
from erllama_py.scheduler.machine import next_look, transition
from erllama_py.scheduler.messages import (
    AnswerSaved,
    AwaitBuffers,
    BuffersBack,
    CancelRequest,
    Complete,
    Crash,
    Effect,
    Emit,
    EndLookUp,
    EndSession,
    EndThinking,
    EngineOutcomes,
    FailRequest,
    Found,
    KeepLogits,
    LeaveSaveAll,
    Look,
    LookUp,
    Message,
    ReadRows,
    Refuse,
    Request,
    RowRead,
    RowTaken,
    SaveAll,
    SaveRow,
    SendJob,
    Submit,
)
from erllama_py.scheduler.reuse import is_cuttable
from erllama_py.scheduler.stages import Looking, Restoring
from erllama_py.scheduler.state import Limits, new_state
from helpers.fake_cells import unpacked
from helpers.fake_engine import FakeEngine
from helpers.model_asks import IDENTITIES, SCORED, SESSIONS, Ask, Shape, request_for
from helpers.row_shelf import RowShelf
from helpers.stages import requests
from helpers.turn_laws import check_answer, check_parks, check_turns

N_SWA = 12
IDLE_SECONDS = 1000.0  # "look" lets up to 1,500 of them pass, and a decode one
TICK_SECONDS = 1.0
ALL = 1 << 30
PORTIONS = (0, 1, 2, 5, 16, 33, ALL, ALL)

Step = Ask | tuple[str, int]


class World:
    """See the module. `mail` are events that the machine has not got yet; `open` are look-ups that are not ended."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        n_cells = shape.n_ctx * (shape.n_seq_max if shape.memory == "recurrent" else 1)
        self.state = new_state(
            Limits(
                memory=shape.memory, n_swa=N_SWA, n_cells=n_cells, n_seq_max=shape.n_seq_max,
                quantum=shape.n_ctx if shape.n_seq_max == 1 else shape.quantum, min_tokens=8 if shape.saves else None,
                max_pending=shape.max_pending, kept_cells=shape.kept, idle_seconds=IDLE_SECONDS,
                turn_seconds=shape.turn,
            )
        )  # fmt: skip
        self.engine = FakeEngine(shape.memory, N_SWA, n_cells, shape.n_seq_max)
        self.now = 0.0
        self.last_id = 0
        self.mail: deque[Message] = deque()
        # callers
        self.asked: dict[int, Request] = {}
        self.streamed: dict[int, list[int]] = {}
        self.cancelled: set[int] = set()
        self.hurried: set[int] = set()  # whose thinking is to end
        self.answered: Counter[int] = Counter()
        self.texts: list[list[int]] = []
        self.tickets: set[int] = set()
        self.left = False  # the caller of a `SaveAll` has gone
        # the cache
        self.shelf = RowShelf()
        self.saves: deque[SaveRow] = deque()
        self.flushes = 0  # that are waited for
        self.kept_logits: dict[bytes, bytes] = {}
        self.open: dict[int, Request] = {}
        self.asking: deque[int] = deque()
        self.reading: dict[int, deque[Located]] = {}

    # --- the machine -------------------------------------------------------------------------------------

    def tell(self, event: Message) -> None:
        before = self.state
        self.state, effects = transition(self.state, event, self.now)
        check_turns(before, self.state)
        check_parks(before, self.state, event, self.now)
        for effect in effects:
            self.perform(effect)
        self.check()

    def perform(self, effect: Effect) -> None:
        match effect:
            case SendJob(job):
                if isinstance(job, Generate) and (lasting := self.asked[job.request_id].lasting) is not None:
                    assert job.keep <= lasting, "the logits of its end are wanted"
                self.engine.inbox.append(job)
            case Emit(request_id, event):
                assert not self.answered[request_id]
                if isinstance(event, TextDelta):
                    self.streamed[request_id] += event.token_ids
            case LookUp(request=request):
                assert request.id not in self.open, "a look-up is begun before the last one is ended"
                self.open[request.id] = request
                self.asking.append(request.id)
            case ReadRows(request_id, rows):
                assert request_id in self.open
                assert rows
                self.reading[request_id] = deque(rows)
            case RowTaken():
                pass
            case EndLookUp(request_id):
                del self.open[request_id]
                self.reading.pop(request_id, None)
                if request_id in self.asking:
                    self.asking.remove(request_id)
            case SaveRow():
                saved = unpacked(effect.tokens[: TOKEN_BYTES * effect.captured.end])
                assert not any(token >= SCORED for token in saved), "what is not to last was saved"
                self.saves.append(effect)
            case KeepLogits(key, logits):
                self.kept_logits[key] = logits
            case Complete():
                self.complete(effect)
            case FailRequest(request_id):
                assert request_id in self.engine.failed
                self.answer(request_id)
            case Refuse(request, waiting):
                assert waiting is not None or (request.session_id is not None and not request.session_wait)
                assert waiting is None or self.now >= request.submitted_at + request.queue_wait
                self.answer(request.id)
            case AwaitBuffers():
                self.flushes += 1
            case AnswerSaved(ticket):
                self.tickets.remove(ticket)
            case Crash(failure):
                raise AssertionError(failure)

    def answer(self, request_id: int) -> None:
        self.answered[request_id] += 1
        assert self.answered[request_id] == 1, "answered twice"

    def complete(self, answer: Complete) -> None:
        request, finished = self.asked[answer.request.id], answer.finished
        self.answer(request.id)
        check_answer(answer, was_cancelled=request.id in self.cancelled, stopping=self.state.stopping)
        if finished is not None:
            assert self.streamed.get(request.id, finished.token_ids) == finished.token_ids
        if finished is not None and request.lasting is None:
            self.texts.append(request.tokens + finished.token_ids)

    def check(self) -> None:
        state, engine = self.state, self.engine
        active = list(state.placed.values())
        booked = count(slot.pieces for slot in state.slots)
        # Followers have nothing of their own yet: whether there is as much is seen when they begin.
        looking = [one for one in active if isinstance(one, Looking)]
        following = {one.allocation.seq_id for one in looking if one.share is not None}
        assert count(slot.pieces for slot in state.slots if slot.seq_id not in following) <= state.limits.n_cells
        assert len({one.allocation.seq_id for one in active}) == len(active)
        for one in active:
            assert state.slots[one.allocation.seq_id].request_id == one.core.request.id
        assert len(active) == sum(slot.request_id is not None for slot in state.slots)
        sessions = [one.core.request.session for one in active if one.core.request.session is not None]
        assert len(set(sessions)) == len(sessions), "two turns of one session at a time"
        assert {one.core.request.id for one in active if isinstance(one, Looking | Restoring)} == set(self.open)
        for request_id, parked in state.parked.items():
            if (work := engine.parked.get(request_id)) is not None:
                assert parked.begun.sought.tokens == work.all_tokens
        every = [*state.placed, *state.parked, *(waiting.core.request.id for waiting in state.queue)]
        assert len(every) == len(set(every)) == len(requests(state))
        assert not state.queue.outside or state.pending - len(state.queue.outside) >= state.limits.max_pending
        if not (engine.inbox or engine.outbox or self.mail):
            assert engine.cells.used <= booked
            for slot in state.slots:
                if slot.request_id is None:
                    assert unpacked(slot.packed) == engine.cells.sequences[slot.seq_id].tokens
            if not active:
                assert engine.cells.used == booked

    # --- what happens ------------------------------------------------------------------------------------

    def step(self, step: Step) -> None:
        if isinstance(step, Ask):
            self.ask(step)
            return
        kind, number = step
        steps: dict[str, Callable[[int], object]] = {
            "jobs": self.engine.do, "tick": self.tick, "deliver": self.deliver, "work": self.work, "round": self.round,
            "answer": self.answer_look_up, "read": self.read, "store": self.store, "cancel": self.cancel,
            "save all": self.save_all, "leave save all": self.leave_save_all, "end session": self.end_session,
            "look": self.look, "mishap": self.mishap, "unload": self.unload, "evict rows": self.shelf.lose_half,
            "lose save": self.lose_save, "end thinking": self.end_thinking,
        }  # fmt: skip
        steps[kind](number)
        self.check()

    def ask(self, ask: Ask) -> None:
        if self.state.stopping:
            return
        self.last_id += 1
        request = request_for(self.shape, ask, self.last_id, self.texts, self.now)
        self.asked[request.id] = request
        self.engine.owners[request.id] = request.identity
        if ask.stream:
            self.streamed[request.id] = []
        self.tell(Submit(request, print if ask.stream else None))

    def cancel(self, number: int) -> None:
        if waiting := [request_id for request_id in self.asked if not self.answered[request_id]]:
            request_id = waiting[number % len(waiting)]
            self.cancelled.add(request_id)
            self.tell(CancelRequest(request_id))

    def end_thinking(self, number: int) -> None:
        """Of any request: it may be over, in whatever stage, and have been told before."""
        if self.asked:
            request = self.asked[sorted(self.asked)[number % len(self.asked)]]
            over = self.answered[request.id] or request.id in self.cancelled or self.state.stopping
            if not over and self.engine.has_to_end(request):
                self.hurried.add(request.id)
            self.tell(EndThinking(request.id))

    def save_all(self, number: int) -> None:
        self.last_id += 1
        self.tickets.add(self.last_id)
        self.tell(SaveAll(self.last_id, "evict"))

    def leave_save_all(self, number: int) -> None:
        """Whoever has waited for it the longest has gone."""
        if self.tickets:
            self.left = True
            self.tickets.remove(ticket := min(self.tickets))
            self.tell(LeaveSaveAll(ticket))

    def unload(self, number: int) -> None:
        """The model is shut down: no more requests come."""
        if not self.state.stopping and number % 4 == 0:
            self.last_id += 1
            self.tickets.add(self.last_id)
            self.tell(SaveAll(self.last_id, "shutdown"))

    def end_session(self, number: int) -> None:
        self.tell(EndSession((IDENTITIES[number // 2 % 2], SESSIONS[number % 2])))

    def look(self, number: int) -> None:
        self.now += 100 * (number % 16)
        self.tell(Look())

    def mishap(self, number: int) -> None:
        """Something goes wrong in the engine, soon or now."""
        engine, running = self.engine, sorted(self.engine.running)
        match number % 6:
            case 0:
                engine.refuse = "kept"
            case 1:
                engine.refuse = "emptied"
            case 2:
                engine.buffers_gone = True
            case 3:
                engine.fail_begin = True
            case 4 if running:
                engine.fail(running[number // 6 % len(running)])
            case 5 if running:
                engine.set_back(running[number // 6 % len(running)])

    def tick(self, number: int) -> None:
        """Three bits of the number for each sequence say how far it gets."""
        self.engine.tick(lambda request_id: PORTIONS[(number >> 3 * (request_id % 5)) & 7])

    def deliver(self, number: int) -> None:
        """One of what the engine, the cache and their likes have sent, with how many more are pending."""
        outbox = self.engine.outbox
        self.mail += [EngineOutcomes([outcome]) for outcome in outbox[:number]]
        del outbox[:number]
        self.read_mail(1)

    def read_mail(self, number: int) -> None:
        for _ in range(min(number, len(self.mail))):
            self.tell(self.mail.popleft())

    def answer_look_up(self, number: int) -> None:
        if not self.asking:
            return
        request_id = self.asking[number % len(self.asking)]
        self.asking.remove(request_id)
        request, hit = self.open[request_id], None
        if number % 8 != 7:  # else the cache cannot be asked
            hit = self.shelf.find(request, cuttable=is_cuttable(self.shape.memory))
        self.mail.append(Found(request_id, hit, self.kept_logits.get(request.key)))

    def read(self, number: int) -> None:
        if not self.reading:
            return
        request_id = sorted(self.reading)[number % len(self.reading)]
        rows = self.reading[request_id]
        row = rows.popleft()
        content = self.shelf.read(row) if number % 8 != 7 else None
        self.mail.append(RowRead(request_id, content))
        if content is None or not rows:
            del self.reading[request_id]

    def store(self, number: int) -> None:
        for _ in range(min(number, len(self.saves))):
            self.put_row(lose=False)
        if not self.saves:
            self.mail += [BuffersBack()] * self.flushes
            self.flushes = 0

    def put_row(self, *, lose: bool) -> None:
        if (lost := self.shelf.put(self.saves.popleft(), lose=lose)) is not None:
            self.mail.append(lost)

    def lose_save(self, number: int) -> None:
        """A tier does not take what it is given."""
        if self.saves:
            self.put_row(lose=True)

    def work(self, number: int) -> bool:
        """The engine does all that it has to, and tells; the cache sleeps. Whether there was anything."""
        engine = self.engine
        busy = len(self.mail) + len(engine.inbox) + len(engine.outbox)
        self.now += TICK_SECONDS
        if (due := next_look(self.state, self.now - TICK_SECONDS)) is not None and due <= self.now:
            self.mail.append(Look())
        engine.do(ALL)
        ticked = engine.tick(lambda _: ALL if number % 2 else 3)
        if engine.outbox:
            self.mail += [EngineOutcomes([outcome]) for outcome in engine.outbox]
            engine.outbox.clear()
        self.read_mail(ALL)
        return ticked or busy > 0

    def round(self, number: int) -> bool:
        """Let each part do what there is to do; whether there was anything."""
        self.store(ALL)
        asking, reading = len(self.asking), len(self.reading)
        for _ in range(asking):
            self.answer_look_up(0)
        for _ in range(reading):
            self.read(0)
        return self.work(number) or asking + reading > 0

    def settle(self) -> None:
        """Until nothing happens any more: no request is left."""
        for _ in range(500 * (1 + len(self.asked))):
            if not self.round(1):
                break
        else:
            raise AssertionError("they do not come to an end")
        if self.state.stopping:  # those in the queue learn that the model is gone
            assert not self.state.placed
            assert self.left or all(slot.is_free for slot in self.state.slots)
        else:
            assert not requests(self.state)
            assert all(self.answered[request_id] == 1 for request_id in self.asked)
        assert not self.open
        assert not self.tickets
        assert not self.state.copies
        assert not self.state.save_alls
        assert self.state.saving is None
        assert self.hurried & self.engine.begun == self.engine.thought, "thinking goes on, or was not to end"
        self.check_saving_all()

    def check_saving_all(self) -> None:
        """What is idle is saved by an eviction, buffer or not; unless a window forgets, or rows were evicted."""
        kept = [slot for slot in self.state.idle if slot.length >= (self.state.limits.min_tokens or ALL)]
        self.engine.buffers_gone = True
        self.save_all(0)
        while self.round(1):
            pass
        assert not self.tickets
        assert not self.state.idle
        if self.shape.memory == "full" and self.shelf.whole:
            assert [self.shelf.covers(slot) for slot in kept] == [True] * len(kept)
