"""An engine thread without a thread or a model: it does the jobs of `engine.jobs` when asked to, in any portions.

`FakeEngine` owns the requests that were begun, and the cells. It checks whatever an engine has to be able to rely on,
and fails where that is not so: cells that are not there, a sequence given twice, a beginning that is not the prompt's
or not the tenant's, logits of another prompt.

Outcomes gather in `outbox`, for the test to hand over. Replies depend on every token before them (`draw`), so a wrong
cell changes the reply.
"""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from erllama_py.cache.keys import Identity, pack_tokens
from erllama_py.engine.backend import MemoryKind
from erllama_py.engine.captures import Captures
from erllama_py.engine.failure import failure_of
from erllama_py.engine.jobs import (
    Cancel,
    Capture,
    Captured,
    Drop,
    EndThinking,
    Failed,
    Finished,
    Fork,
    Forked,
    Generate,
    Grant,
    Job,
    Outcome,
    Park,
    Parked,
    Prefilled,
    PromptLogits,
    Restore,
    Restored,
    Resume,
    Resumed,
    Text,
    Wants,
)
from erllama_py.errors import DecodeFailed
from erllama_py.results import FinishReason
from erllama_py.scheduler.messages import Request
from helpers.fake_cells import FakeCells, unpacked
from helpers.requests import captured

N_UBATCH = 8  # tokens of a micro-batch: a sliding window forgets from one to the next
ASK_AHEAD = 4  # cells that are left when more of them are asked for
END_ODDS = 29  # one reply in so many ends at each token
FIRST_DRAWN, N_DRAWN = 900, 5


def logits_of(tokens: list[int]) -> bytes:
    """The logits after these tokens."""
    return zlib.crc32(pack_tokens(tokens)).to_bytes(4, "little")


def draw(logits: bytes) -> int | None:
    """The token that they give; None for the end of the reply."""
    value = int.from_bytes(logits, "little")
    return None if value % END_ODDS == 0 else FIRST_DRAWN + value % N_DRAWN


def reply_to(tokens: list[int], most: int) -> list[int]:
    """What a request for `most` tokens gets."""
    reply: list[int] = []
    while len(reply) < most and (token := draw(logits_of(tokens + reply))) is not None:
        reply.append(token)
    return reply


@dataclass(eq=False, slots=True)
class Work:
    """A request that was begun and is not over."""

    job: Generate
    owner: Identity
    captures: Captures
    seq_id: int
    position: int
    limit: int
    tokens: list[int] = field(default_factory=list)
    prefilled: bool = False
    asked: bool = False
    parking: bool = False
    finish: FinishReason | None = None
    told: int = 0  # tokens that its stream has got
    reached: int = 0  # how far it has ever come
    returning: bool = False  # it was parked, and has not come further yet

    @property
    def all_tokens(self) -> list[int]:
        return self.job.tokens + self.tokens

    @property
    def most(self) -> int:
        """Up to where it can come: what is drawn last is never decoded."""
        return len(self.job.tokens) + max(0, self.job.max_new_tokens - 1)


class FakeEngine:
    """See the module. `owners` says whose request it is, by its id."""

    def __init__(self, memory: MemoryKind, n_swa: int, n_cells: int, n_seq_max: int) -> None:
        self.inbox: deque[Job] = deque()
        self.outbox: list[Outcome] = []
        self.owners: dict[int, Identity] = {}
        self.running: dict[int, Work] = {}
        self.parked: dict[int, Work] = {}
        self.cells = FakeCells(memory, n_swa, n_cells, n_seq_max)
        self.failed: set[int] = set()
        self.begun: set[int] = set()  # all that there ever were
        self.thought: set[int] = set()  # of these, whose thinking is to end
        self.refuse: Literal["", "kept", "emptied"] = ""  # the next row, and what is left of its sequence
        self.buffers_gone = False  # for the next copy
        self.fail_begin = False  # the next request's sampler cannot be made
        self._forks: list[Fork] = []

    def _capture(self, request_id: int, seq_id: int, start: int, end: int, **fields: object) -> Captured:
        payload = self.cells.capture(seq_id, start, end)
        skipped = "forgotten" if payload is None else "no_buffer" if self.buffers_gone else None
        if skipped == "no_buffer":
            payload, self.buffers_gone = None, False
        return captured(request_id, start, end, payload=payload, skipped=skipped, **fields)

    def _restore(self, job: Restore) -> None:
        cells, seq_id, start = self.cells, job.seq_id, job.start
        assert job.payload is not None
        tokens = unpacked(job.payload)
        assert len(tokens) == job.end - start > 0
        ok = cells.length(seq_id) >= start and cells.can_cut(seq_id, start)
        if ok:
            cells.cut(seq_id, start)
            ok = cells.room_for(len(tokens)) and not self.refuse
            if self.refuse == "emptied":
                cells.cut(seq_id, 0)
            self.refuse = ""
        if ok:
            cells.restore(seq_id, tokens, self.owners[job.request_id])
        self.outbox.append(Restored(job.request_id, job.end, ok, cells.length(seq_id)))

    def has_to_end(self, request: Request) -> bool:
        """Whether its thinking can be ended: of what has not begun only that which its prompt opens."""
        sent = [job.request_id for job in self.inbox if isinstance(job, Generate)]
        markers, is_begun = request.markers, request.id in self.begun or request.id in sent
        return markers is not None and (is_begun or markers.begins == "thinking")

    # --- jobs --------------------------------------------------------------------------------------------

    def do(self, count: int) -> None:
        """The next `count` jobs."""
        for _ in range(min(count, len(self.inbox))):
            self._do(self.inbox.popleft())

    def _do(self, job: Job) -> None:
        match job:
            case Generate():
                self._begin(job)
            case Grant(request_id, limit):
                if work := self.running.get(request_id):
                    assert limit > work.limit
                    work.limit, work.asked = limit, False
            case Park(request_id):
                if work := self.running.get(request_id):
                    work.parking = True
            case Resume(request_id=request_id, seq_id=seq_id, keep=keep, limit=limit):
                if work := self.parked.pop(request_id, None):
                    self._forget_forks(seq_id)
                    self._check_beginning(work.owner, seq_id, keep, limit, work.all_tokens)
                    assert keep < len(work.all_tokens)
                    work.seq_id, work.position, work.limit, work.asked = seq_id, keep, limit, False
                    work.returning = True
                    self.running[request_id] = work
            case Fork():
                self._forks.append(job)
                self._do_forks()
            case Restore():
                self._restore(job)
            case Capture(request_id=ticket, seq_id=seq_id, start=start, end=end, reason=reason):
                self.outbox.append(self._capture(ticket, seq_id, start, end, reason=reason))
            case Drop(seq_id, start):
                assert all(work.seq_id != seq_id for work in self.running.values())
                self._forget_forks(seq_id)
                self.cells.cut(seq_id, min(start, self.cells.length(seq_id)))
            case Cancel(request_id):
                if parked := self.parked.pop(request_id, None):
                    self.running[request_id] = parked
                if work := self.running.get(request_id):
                    work.finish = work.finish or "cancelled"
            case EndThinking(request_id):
                assert request_id in self.begun, "it is not known yet, and will not be told again"
                self.thought.add(request_id)
            case _:
                raise AssertionError(f"no job for an engine in a test: {job}")

    def _check_beginning(self, owner: Identity, seq_id: int, keep: int, limit: int, tokens: list[int]) -> None:
        """The sequence that a request is to extend holds what it needs, and no other request is in it."""
        assert all(work.seq_id != seq_id for work in self.running.values())
        self.cells.cut(seq_id, keep)
        sequence = self.cells.sequences[seq_id]
        assert sequence.tokens == tokens[:keep]
        assert all(cell.owner == owner for cell in sequence.cells)
        assert keep <= limit

    def _begin(self, job: Generate) -> None:
        request_id, owner = job.request_id, self.owners[job.request_id]
        assert request_id not in self.running
        assert request_id not in self.parked
        self._forget_forks(job.seq_id)
        self.begun.add(request_id)
        if job.markers is not None and job.markers.ended:
            self.thought.add(request_id)
        drawn = [] if job.drawn is None else job.drawn.token_ids
        self._check_beginning(owner, job.seq_id, job.keep, job.limit, job.tokens + drawn)
        assert job.keep < len(job.tokens + drawn) or job.logits is not None
        if self.fail_begin:
            self.fail_begin = False
            self._fail(request_id)
            return
        captures = Captures(job.saves, len(job.tokens), job.keep, self.cells.memory)
        work = self.running[request_id] = Work(job, owner, captures, job.seq_id, job.keep, job.limit, reached=job.keep)
        if drawn:
            work.tokens, work.told, work.prefilled, work.returning = list(drawn), len(drawn), True, True
            work.reached = max(job.keep, len(work.all_tokens) - 1)
            work.finish = "length" if len(drawn) == job.max_new_tokens else None
        self._capture_due(work)
        if job.keep == len(job.tokens) and not drawn:
            assert job.logits == logits_of(job.tokens)
            self.outbox.append(Prefilled(request_id, job.keep, job.keep))
            self._draw(work, job.logits)

    def _forget_forks(self, seq_id: int) -> None:
        self._forks = [fork for fork in self._forks if fork.seq_id != seq_id]

    def _do_forks(self) -> None:
        reached = {work.seq_id: work.position for work in self.running.values()}
        for fork in list(self._forks):
            if reached.get(fork.source, fork.length) < fork.length:
                continue
            self._forks.remove(fork)
            length = self.cells.share(fork.source, fork.seq_id, fork.length)
            self.outbox.append(Forked(fork.request_id, length))

    # --- ticks -------------------------------------------------------------------------------------------

    def tick(self, tokens_for: Callable[[int], int]) -> bool:
        """One decode of at most so many tokens for each request, by its id; whether anything was done."""
        before = len(self.outbox)
        advanced = [
            work for work in list(self.running.values()) if self._advance(work, tokens_for(work.job.request_id))
        ]
        self._do_forks()
        self._finish_all()
        for work in [work for work in self.running.values() if work.parking and work.finish is None]:
            self._park(work)
        for work in self.running.values():
            short = work.limit < work.most and work.limit - work.position <= ASK_AHEAD
            if short and not (work.finish or work.parking or work.asked):
                work.asked = True
                self.outbox.append(Wants(work.job.request_id, work.limit))
        return bool(advanced) or len(self.outbox) > before

    def _advance(self, work: Work, most: int) -> bool:
        everything = work.all_tokens
        count = min(len(everything) - work.position, work.limit - work.position, most)
        if (reach := work.captures.reach(work.position, N_UBATCH)) is not None:
            count = min(count, reach)
        if work.finish is not None or work.parking or count < 1:
            return False
        self.cells.write(work.seq_id, everything[work.position : work.position + count], work.owner)
        self.cells.forget(work.seq_id, work.position + (count - 1) // N_UBATCH * N_UBATCH)
        work.position += count
        if work.returning and work.position > work.reached:
            work.returning = False
            if work.job.drawn is not None:
                self.outbox.append(Prefilled(work.job.request_id, work.position, work.position))
            self.outbox.append(Resumed(work.job.request_id))
        work.reached = max(work.reached, work.position)
        assert work.position == self.cells.length(work.seq_id)
        self._do_forks()
        request_id, prompt = work.job.request_id, len(work.job.tokens)
        if not work.prefilled:
            self.outbox.append(Prefilled(request_id, work.position, prompt))
        if work.position == len(everything):
            logits = logits_of(self.cells.sequences[work.seq_id].tokens)
            if not work.prefilled and work.job.keep_logits:
                self.outbox.append(PromptLogits(request_id, logits))
            self._draw(work, logits)
        self._capture_due(work)
        return True

    def _draw(self, work: Work, logits: bytes) -> None:
        work.prefilled = True
        token = draw(logits) if work.job.max_new_tokens else None
        if token is not None:
            work.tokens.append(token)
        if token is None:
            work.finish = "stop" if work.job.max_new_tokens else "length"
        elif len(work.tokens) == work.job.max_new_tokens:
            work.finish = "length"
        if work.job.stream and (fresh := work.tokens[work.told :]):
            work.told = len(work.tokens)
            self.outbox.append(Text(work.job.request_id, "x" * len(fresh), fresh))

    def _capture_due(self, work: Work) -> None:
        """One range a tick, as of those that are parked or over: whatever happens next may happen between two."""
        if due := work.captures.due(work.position):
            self._copy(work, *due)

    def _copy(self, work: Work, end: int, reason: str) -> None:
        generated = work.tokens[: max(0, end - len(work.job.tokens))]
        start, request_id = work.captures.begin, work.job.request_id
        copied = self._capture(request_id, work.seq_id, start, end, reason=reason, generated=generated)
        work.captures.settle(end, copied.payload is not None)
        self.outbox.append(copied)

    def _park(self, work: Work) -> None:
        held, request_id = work.position, work.job.request_id
        if due := work.captures.due(held) or work.captures.rest(held):
            self._copy(work, *due)
        if work.captures.due(held) or work.captures.rest(held):
            return
        self.cells.cut(work.seq_id, 0)
        self.parked[request_id] = self.running.pop(request_id)
        self._do_forks()
        work.seq_id, work.position, work.limit, work.parking = -1, 0, 0, False
        self.outbox.append(Parked(request_id=request_id, held=held, token_ids=list(work.tokens)))

    def _finish_all(self) -> None:
        for work in [work for work in self.running.values() if work.finish is not None]:
            held, first = work.position, -1
            if held:
                if due := work.captures.due(held) or work.captures.last(held):
                    self._copy(work, *due)
                if work.captures.due(held) or work.captures.last(held):
                    continue
                first = self.cells.sequences[work.seq_id].first
            del self.running[work.job.request_id]
            assert work.finish is not None
            self.outbox.append(
                Finished(
                    request_id=work.job.request_id, reason=work.finish, stop_sequence=None, text="",
                    token_ids=list(work.tokens), held=held, first_held=first, captured_to=work.captures.captured_to,
                    prefill_tokens=0, prefill_seconds=0.0, decode_seconds=0.0, decodes=0,
                )
            )  # fmt: skip
        self._do_forks()

    def fail(self, request_id: int) -> None:
        """This request cannot be decoded any more; what its sequence holds stays until it is dropped."""
        del self.running[request_id]
        self._fail(request_id)
        self._do_forks()

    def _fail(self, request_id: int) -> None:
        self.failed.add(request_id)
        self.outbox.append(Failed(request_id, failure_of(DecodeFailed("the decode was told to fail"))))

    def set_back(self, request_id: int) -> None:
        """A decode of this request did not end, and has left a recurrent state half-way: all is computed again."""
        work = self.running[request_id]
        if self.cells.memory in ("recurrent", "hybrid") and work.seq_id >= 0:
            self.cells.cut(work.seq_id, 0)
            work.position = 0
