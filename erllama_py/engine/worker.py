"""What the engine thread does between two looks at its queue: jobs, then one decode for all sequences. No thread here.

`Worker` owns the requests that run or are parked, and calls the backend. A tick is

    plan  →  one decode  →  a token for each row  →  copy cells out  →  share cells  →  close what ended

The outcomes of a tick are collected, and handed to `post` together, or early where nothing should wait for a copy.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import msgspec

from erllama_py.engine import jobs
from erllama_py.engine.backend import Backend, BackendFailure, ModelFacts, Slice, SpoiledLogits
from erllama_py.engine.cells import Cells
from erllama_py.engine.compute_threads import ComputeThreads
from erllama_py.engine.copies import Copies
from erllama_py.engine.decoding import Decoder, Part, with_few_scoring
from erllama_py.engine.failure import failure_of
from erllama_py.engine.heartbeat import Heart
from erllama_py.engine.prompt_scores import PromptScores
from erllama_py.engine.recorder import Recorder
from erllama_py.engine.sequence import Running, begin
from erllama_py.engine.stall import TickTimes, chunk_size, observed
from erllama_py.engine.tick_plan import Need, plan_tick
from erllama_py.engine.work import Work
from erllama_py.errors import ContextOverflow, DecodeFailed, ErllamaError, SamplerFailed
from erllama_py.options.model import SchedulerOpts
from erllama_py.options.request import BACKGROUND
from erllama_py.watch.log import get_logger


class Worker:
    """See the module. `alone(request_id)` is called before a decode for that request alone, and `alone(None)` after
    it."""

    def __init__(
        self, backend: Backend, cells: Cells, threads: ComputeThreads, facts: ModelFacts, scheduler: SchedulerOpts,
        name: str, post: Callable[[Sequence[jobs.Outcome]], None], alone: Callable[[int | None], None],
        clock: Callable[[], float] = time.perf_counter, work: Work | None = None, recorder: Recorder | None = None,
    ) -> None:  # fmt: skip
        self._backend, self._cells, self._facts, self._scheduler = backend, cells, facts, scheduler
        self.threads = threads
        self._post, self._alone, self._clock = post, alone, clock
        self._work = Work() if work is None else work
        self._recorder = Recorder() if recorder is None else recorder
        self.heart = Heart(clock, self._work, self._recorder)
        self._decoder = Decoder(backend, facts, self._settle, self.heart)
        self._log = get_logger(thread=name)
        self._running: dict[int, Running] = {}
        self._parked: dict[int, Running] = {}
        self._outcomes: list[jobs.Outcome] = []
        self._copies = Copies(cells, self._tell, self.flush)
        self._times, self._decoded_at = TickTimes(), clock()

    def __repr__(self) -> str:
        return f"<Worker of {len(self._running)} running, {len(self._parked)} parked>"

    @property
    def busy(self) -> bool:
        """Whether a tick would do something."""
        return any(one.finish or one.parking or one.wants or one.need() for one in self._running.values())

    def flush(self) -> None:
        """Hand over the outcomes so far. What was counted is written down before: nobody hears of a reply that the
        counts do not have yet."""
        if self._outcomes:
            self.heart.count()
            outcomes, self._outcomes = self._outcomes, []
            self._post(outcomes)

    def _tell(self, outcome: jobs.Outcome) -> None:
        self._outcomes.append(outcome)

    def close(self) -> None:
        """Free the samplers, and leave the CPUs to others."""
        self.threads.rest()
        for running in (*self._running.values(), *self._parked.values()):
            running.sampler.close()
        self._running.clear()
        self._parked.clear()

    # --- jobs --------------------------------------------------------------------------------------------

    def runs(self, request_id: int) -> bool:
        """Whether a request was begun and is neither over nor parked: no waiting job will begin it."""
        return request_id in self._running

    def do(self, job: jobs.Job) -> None:
        match job:
            case jobs.Generate():
                self._begin(job)
            case jobs.Grant(request_id, limit):
                if running := self._running.get(request_id):
                    running.grant(limit)
            case jobs.Park(request_id):
                if running := self._running.get(request_id):
                    running.parking = True
            case jobs.Resume():
                self._resume(job)
            case jobs.Fork():
                self._copies.forks.append(job)
                self._copies.do_forks(self._running.values())
            case jobs.Restore():
                self._outcomes.append(self._cells.restore(job))
                self.flush()  # the next row is read while this thread restores those that have come
            case jobs.Capture():
                span = job.seq_id, job.start, job.end
                self._outcomes.append(self._cells.capture(job.request_id, *span, job.reason, []))
            case jobs.Drop(seq_id, start):
                self._copies.forget_forks(seq_id)
                self._backend.remove(seq_id, start, -1)
            case jobs.Cancel(request_id):
                if parked := self._parked.pop(request_id, None):
                    self._running[request_id] = parked
                if (running := self._running.get(request_id)) and running.finish is None:
                    running.cancel(self._backend.vocabulary, self._clock())
            case jobs.EndThinking(request_id):
                if running := self._running.get(request_id) or self._parked.get(request_id):
                    running.end_thinking()
            case jobs.Fault("thread"):
                raise jobs.DrillFault("the engine thread was told to fail")
            case jobs.Fault("decode" | "assertion" as where):
                self._decoder.drill = where

    def _begin(self, job: jobs.Generate) -> None:
        self._copies.forget_forks(job.seq_id)
        if not self._cells.cut(job.seq_id, job.keep):
            # This should not happen. Ending the engine would not help: it would come back to the same rows.
            self._log.warning("a sequence does not hold what it should; computing all of it", keep=job.keep)
            self._outcomes.append(jobs.NotHeld(job.request_id))
            self._empty(job.seq_id)
            job = msgspec.structs.replace(job, keep=0, logits=None)
        self._recorder.begin("sampler", (job.request_id,))
        try:
            running = begin(job, self._backend, self._facts, self._clock)
        except ErllamaError as error:
            self._fail(job.request_id, error)
            return
        self._running[job.request_id] = running
        if job.cancelled:
            running.cancel(self._backend.vocabulary, self._clock())
        if not running.captures.can_wait:
            self._copies.due(running)  # of what is kept: a recurrent state stands there only now
        if running.finish is None and running.lacks_nothing:
            self._outcomes.append(jobs.Prefilled(job.request_id, job.keep, job.keep))
            if self._score_end(running, lambda: job.logits or b""):
                self._draw(running, lambda: running.sampler.sample_from(job.logits or b""), lambda: job.logits or b"")

    def _resume(self, job: jobs.Resume) -> None:
        running = self._parked.pop(job.request_id, None)
        if running is None:  # cancelled meanwhile
            return
        self._copies.forget_forks(job.seq_id)
        keep = job.keep
        if not self._cells.cut(job.seq_id, keep):
            self._empty(job.seq_id)
            keep = 0
        running.resume(job.seq_id, keep, job.limit)
        self._running[job.request_id] = running

    def _empty(self, seq_id: int) -> None:
        if not self._cells.cut(seq_id, 0):
            raise BackendFailure(f"sequence {seq_id} cannot be emptied")

    # --- ticks -------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """One decode for all that need one, and what follows from it."""
        needs = {running: need for running in self._running.values() if (need := running.need())}
        if needs:
            self._decode(with_few_scoring(needs, self._facts.n_vocab))
            self._copies.do_forks(self._running.values())
        self._finish_all()
        # A finished request is closed in a later tick; parked, its `Finished` would never be sent.
        for running in [one for one in self._running.values() if one.parking and one.finish is None]:
            self._park(running)
        for running in self._running.values():
            if running.wants:
                running.asked = True
                self._outcomes.append(jobs.Wants(running.job.request_id, running.limit))
        self.flush()

    def _decode(self, needs: dict[Running, Need]) -> None:
        rows, facts = list(needs), self._facts
        began, chunk = self._clock(), self._scheduler.prefill_chunk_size
        if chunk is None:
            # Streams have been waiting since the last decode, mostly for copies.
            left = self._scheduler.max_stall_ms / 1000 - (began - self._decoded_at)
            chunk = chunk_size(self._times, sum(need.decoding for need in needs.values()), left, facts.n_batch)
        portions = plan_tick(list(needs.values()), facts.n_batch, facts.n_ubatch, chunk)
        parts = [Part(rows[portion.index], portion.tokens) for portion in portions]
        others = sum(part.tokens for part in parts if part.running.job.priority > BACKGROUND)
        for running in rows:
            running.waited += 1
            running.beside += others
        n_rows = sum(1 for part in parts if needs[part.running].decoding)
        tokens = sum(part.tokens for part in parts)
        self.threads.begin(n_rows, tokens - n_rows)
        trying = self.threads.is_trying
        self._alone(parts[0].running.job.request_id if len(self._running) == 1 else None)
        result = self._decoder.decode(parts)
        self._alone(None)
        if result.whole:
            seconds = self._decoded_at - began
            self.threads.took(seconds)
            if not trying:
                self._times = observed(self._times, n_rows, tokens - n_rows, seconds)
                self._cells.decoded(tokens, tokens - n_rows, seconds)
        for part in result.stuck:
            running = part.running
            problem = f"the KV cache has no room for more of this request at position {running.position}"
            self._drop(running, ContextOverflow(problem, len(running.job.tokens), facts.n_ctx))
        for part, problem in result.failed:
            self._drop(part.running, DecodeFailed(problem))

    def _settle(self, parts: Sequence[Part], slices: Sequence[Slice]) -> None:
        """What was decoded: draw from its logits, and copy out what is complete."""
        self._decoded_at = self._clock()
        for index, (part, fed) in enumerate(zip(parts, slices, strict=True)):
            self._advance(part, index, fed)
        for part in parts:
            if part.running.job.request_id in self._running:
                self._copies.due(part.running)

    def _advance(self, part: Part, index: int, fed: Slice) -> None:
        running, job = part.running, part.running.job
        running.waited = running.beside = 0
        prefilling, reached = not running.generating, running.reached
        running.decoded(part.tokens)
        if prefilling:
            self._work.prompt_tokens += part.tokens
        if running.returning and running.reached > reached:
            running.returning = False
            if job.drawn is not None:
                self._outcomes.append(jobs.Prefilled(job.request_id, running.position, running.position))
            self._outcomes.append(jobs.Resumed(job.request_id))
        if prefilling and running.reached > reached:
            self._outcomes.append(jobs.Prefilled(job.request_id, running.position, len(job.tokens)))
        if fed.every and not self._read(running, index, fed):
            return
        if not fed.logits or running.finish is not None:
            return
        if prefilling and not self._score_end(running, lambda: self._backend.logits(index)):
            return
        self._draw(running, lambda: running.sampler.sample(index), lambda: self._backend.logits(index))
        # Given logits that were spoiled are replaced. Nothing is kept that no token could be drawn from.
        if prefilling and running.generating and (job.keep_logits or job.logits is not None):
            self._outcomes.append(jobs.PromptLogits(job.request_id, self._backend.logits(index)))

    def _read(self, running: Running, index: int, fed: Slice) -> bool:
        """Read what a slice says of tokens of the prompt, and of those of the reply that nobody has drawn, which can be
        told now; false where that failed."""
        end, scores, told = fed.start + len(fed.tokens), running.scores, running.told
        wants = scores is not None and scores.wants(fed.start, end)
        if wants and not self._score(running, lambda scores: scores.read(self._backend, index, fed)):
            return False
        if told is not None and told.wants(fed.start, end):
            self._recorder.begin("score", (running.job.request_id,))
            if not self._by_logits(running, lambda: told.read(self._backend, index, fed)):
                return False
            self._tell_of(running)
        return True

    def _score_end(self, running: Running, logits: Callable[[], bytes]) -> bool:
        """Read how likely the tokens are that could follow a prompt, where that is wanted; false where it failed."""
        if running.scores is None or not running.scores.wants_end:
            return True
        return self._score(running, lambda scores: scores.read_end(logits(), self._backend.vocabulary))

    def _score(self, running: Running, read: Callable[[PromptScores], None]) -> bool:
        """Read how likely the tokens of a prompt were; false where that failed."""
        assert running.scores is not None
        self.flush()  # tokens that were drawn in this tick do not wait for it
        self._recorder.begin("score", (running.job.request_id,))
        try:
            read(running.scores)
        except ErllamaError as error:
            if isinstance(error, SpoiledLogits) and running.reuses:  # read in parts: it cannot begin again here
                self._outcomes.append(jobs.Spoiled(running.job.request_id))
            self._drop(running, error)
            return False
        return True

    def _draw(self, running: Running, draw: Callable[[], int], logits: Callable[[], bytes]) -> None:
        """The next token of a request whose last position has logits."""
        if running.job.max_new_tokens == 0:
            running.prompt_done(self._clock())
            return
        before = len(running.tokens)
        self._recorder.begin("draw", (running.job.request_id,))
        if self._by_logits(running, lambda: running.draw(draw, logits, self._backend.vocabulary, self._clock)):
            self._work.generated += len(running.tokens) - before
            self._tell_of(running)

    def _tell_of(self, running: Running) -> None:
        if running.is_telling:
            self._outcomes += running.take_texts(self._clock())

    def _by_logits(self, running: Running, act: Callable[[], None]) -> bool:
        """Do what needs logits of the reply; false where that failed: the request begins again, or is over."""
        try:
            act()
        except SpoiledLogits as error:
            self._compute_anew(running, error)
            return False
        except ErllamaError as error:
            self._drop(running, error)
            return False
        return True

    def _compute_anew(self, running: Running, error: SpoiledLogits) -> None:
        """Logits that are no numbers: what the sequence began with may be to blame, so it is computed again, once."""
        if not running.reuses:
            self._drop(running, error)
            return
        self._log.warning("logits are no numbers; computing all of the prompt", request=running.job.request_id)
        self._outcomes.append(jobs.Spoiled(running.job.request_id))
        self._empty(running.seq_id)
        running.resume(running.seq_id, 0, running.limit)

    def _park(self, running: Running) -> None:
        """Copy out one more range of a request that is to leave its sequence; it has left when there is none."""
        held = running.position
        if not self._copies.before_park(running):
            return
        self._empty(running.seq_id)
        request_id = running.job.request_id
        self._parked[request_id] = self._running.pop(request_id)
        self._copies.do_forks(self._running.values())  # forks of it get nothing
        running.park()
        self._work.parks += 1
        self._outcomes.append(jobs.Parked(request_id=request_id, held=held, token_ids=list(running.tokens)))

    # --- ends --------------------------------------------------------------------------------------------

    def _drop(self, running: Running, error: ErllamaError) -> None:
        running.sampler.close()
        del self._running[running.job.request_id]
        self._backend.remove(running.seq_id, 0, -1)  # for the others, who may need the cells in the next tick
        self._fail(running.job.request_id, error, running.computed)

    def _fail(self, request_id: int, error: ErllamaError, computed: int = 0) -> None:
        if isinstance(error, SpoiledLogits):
            error = SamplerFailed(error.problem)
        self._outcomes.append(jobs.Failed(request_id, failure_of(error), computed))

    def _finish_all(self) -> None:
        now, over = self._clock(), [running for running in self._running.values() if running.finish is not None]
        for running in over:
            if running.job.stream:
                self._outcomes += running.take_texts(now)
            if not self._copies.at_end(running, any(one.need() for one in self._running.values())):
                continue
            running.sampler.close()
            first = self._backend.positions(running.seq_id)[0] if running.position else -1
            del self._running[running.job.request_id]
            self._outcomes.append(running.finished(first, now))
        if over:
            self._copies.do_forks(self._running.values())  # what they wait for will not come
