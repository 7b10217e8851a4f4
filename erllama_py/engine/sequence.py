"""One request on the engine thread: what it still has to decode, what it has sampled, when it is over.

`Running` is driven by the worker and touches no context itself: `slice` says what to decode next, `decoded` and
`sampled` take in what came of it. Its states: prefilling → generating → finished. What it feeds to the model is the
prompt and then what it sampled, whatever part of that its sequence holds: so it can be parked and taken up again, with
its sampler and its text where they were. One that goes on from an earlier life (`replay`) is as one that was parked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from erllama_py.chat.assemble import SegmentAssembler, TextAssembler
from erllama_py.chat.segments import Piece, calls_of, joined, text_of, thinking_of
from erllama_py.engine.backend import Backend, ModelFacts, Sampler, Slice, Vocabulary
from erllama_py.engine.captures import Captures
from erllama_py.engine.drawn import NOTHING_USED, Drawn, Draws
from erllama_py.engine.jobs import TOKENS_UNSEEN, Finished, Generate, Text
from erllama_py.engine.prompt_scores import PromptScores
from erllama_py.engine.reply_scores import ReplyScores
from erllama_py.engine.thinking_budget import ThinkingBudget
from erllama_py.engine.tick_plan import Need
from erllama_py.errors import ErllamaError
from erllama_py.results import FinishReason

# Tokens that are sent before copies that can wait: a reader waits for the first, and the second shows that more come.
FIRST_TOKENS = 2

# Cells are asked for this many tokens before they are needed: at 500 tokens a second, 30 ms for the loop to answer.
ASK_AHEAD = 16


class Running:
    """The state of one `Generate` job. Times are in seconds of the thread's clock."""

    def __init__(self, job: Generate, sampler: Sampler, facts: ModelFacts, now: float) -> None:
        self.job = job
        self.sampler = sampler
        self.captures = Captures(job.saves, len(job.tokens), job.keep, facts.memory)
        self.seq_id = job.seq_id
        self.reuses = job.keep > 0 or job.logits is not None  # its cells, or its first logits, were computed elsewhere
        self.position = job.keep  # tokens of this request that are in the sequence's cells
        self.reached = job.keep  # how far it has come; what is lost on the way is computed again
        self.limit = job.limit
        self.asked = False  # for more than `limit`
        self.parking = False  # it is to leave its sequence, and decodes no more there
        self.returning = False  # it was parked, and has not come further than it was
        self.waited = self.beside = 0  # ticks since it was last part of a decode, see `Need`
        self.tokens: list[int] = []  # sampled so far, the end token left out
        self.finish: FinishReason | None = None
        self._n_ubatch = facts.n_ubatch
        self.told = None if job.report.logprobs is None else ReplyScores(len(job.tokens), job.report)
        count = job.report.prompt_logprobs
        self.scores = None if count is None else PromptScores(job.tokens, job.report, facts.n_vocab)
        self._stops = frozenset(job.sampling.stop_token_ids)
        self._stop_token: int | None = None
        self._stop_name: str | None = None  # the stop sequence that names it
        self._last_drawn: int | None = None  # a token that ended it, also where a stop sequence was found then
        self._shown = frozenset(() if job.markers is None else job.markers.tokens)  # control tokens that are markers
        self._assembler = _assembler(job)
        self._budget = ThinkingBudget(job.markers)
        self._pieces: list[Piece] = []
        self._taken = 0  # pieces that `take_texts` has handed out
        self._fresh: list[int] = []  # token ids since the last `Text`
        self._began = now
        self._prefilled: float | None = None
        self._retraced = 0  # up to where slices are as they were at first
        # How it will be over, and how many tokens are to be in the cells then.
        self._ended: tuple[int, FinishReason] | None = None
        self._earlier = NOTHING_USED if job.drawn is None else job.drawn.draws
        self._prefill_tokens, self._decodes = self._earlier.prefill_tokens, self._earlier.decodes
        self._row = 1  # tokens that the last draw has added: one and those that a structure forces after it, or written

    @property
    def generating(self) -> bool:
        """Whether its first token was drawn."""
        return self._prefilled is not None

    @property
    def copies_wait(self) -> bool:
        """Whether copies wait until its first tokens are out; a request that is over makes them at its end."""
        return self.captures.can_wait and self.generating and len(self.tokens) < FIRST_TOKENS

    @property
    def _total(self) -> int:
        return len(self.job.tokens) + len(self.tokens)

    @property
    def _ahead(self) -> int:
        """How far it will come with what is drawn: the last token is decoded when another is wanted."""
        return self._total - 1 if self.generating and not self.returning else 0

    @property
    def lacks_nothing(self) -> bool:
        """Whether all of it is in the cells: the next token is drawn from logits that were kept."""
        return self.position == self._total

    @property
    def most_held(self) -> int:
        """Most tokens that may be in the cells when the next is to be drawn from logits, or its last ones are to be
        told of."""
        return self._total - 1 if self.told is None or not self.told.waiting else self.told.row

    def need(self) -> Need | None:
        """What it could put into a decode; None when it is over, or stalls for want of cells."""
        left = (self._total if self._ended is None else self._ended[0]) - self.position
        decoding = self.generating and left <= self._row
        tokens = min(left, self.limit - self.position)
        if self.job.reproducible or self.position < self._retraced:
            tokens = min(tokens, max(1, len(self.job.tokens) - self.position))
        reach = self.captures.reach(self.position, self._n_ubatch)
        if reach is not None:
            tokens = min(tokens, reach)
        scores = None if self.job.reproducible else self.scores  # else on its grid, whatever the logits take
        if scores is not None:
            tokens = scores.reach(self.position, tokens)
        if self.told is not None:
            tokens = self.told.reach(self.position, tokens)
        if self.finish is not None or self.parking or tokens < 1:
            return None
        job = self.job
        return Need(self.position, tokens, decoding, job.priority, job.request_id, self.waited, self.beside)

    def is_scoring(self, need: Need) -> bool:
        """Whether all logits of its next slice are to be read, where that is what it needs."""
        return self._reads(need.position, need.position + need.tokens)

    def _reads(self, start: int, end: int) -> bool:
        """Whether logits of positions `[start, end)` are to be read, of the prompt or of what nobody has drawn."""
        scores, told = self.scores, self.told
        return (scores is not None and scores.wants(start, end)) or (told is not None and told.wants(start, end))

    @property
    def wants(self) -> bool:
        """Whether more cells are to be asked for now."""
        last = len(self.job.tokens) + max(0, self.job.max_new_tokens - 1)  # what is sampled last is never decoded
        needed = self.finish is None and not self.parking and self.limit < last
        return needed and not self.asked and self.limit - max(self.position, self._ahead) <= ASK_AHEAD

    def grant(self, limit: int) -> None:
        """There are cells up to `limit`."""
        self.limit, self.asked = limit, False

    def park(self) -> None:
        """It has no sequence any more."""
        self.seq_id, self.position, self.parking = -1, 0, False
        self.grant(0)

    def resume(self, seq_id: int, keep: int, limit: int) -> None:
        """Go on in a sequence that holds the first `keep` tokens."""
        self.seq_id, self.position, self.reuses = seq_id, keep, keep > 0
        self.waited = self.beside = 0
        self.returning = True
        self.grant(limit)

    def replay(self, drawn: Drawn, vocabulary: Vocabulary, now: float) -> None:
        """Stand where the reply stood in its earlier life, and hand out nothing of it again: text that was held back
        then still is. Raises `SamplerFailed`."""
        draws = drawn.draws
        self.sampler.replay(drawn.token_ids, draws.sampler)
        for token in drawn.token_ids:
            if self.finish is None:
                self._take_in(token, vocabulary, now)
        if self.told is not None:
            self.told.found += drawn.logprobs or ()
        if draws.stop_token is not None and self.finish is None:
            self.sampled(draws.stop_token, vocabulary, now)
        if self.sampler.is_over:
            if self.finish is None:
                self._end("stop")
            self.finish = "stop"  # see `follow`
        self._budget.stand(self._assembler.kind, draws.thinking)
        if drawn.end_thinking:
            self.end_thinking()
        self._taken, self._fresh = len(self._pieces), []
        self._stand_at(draws.held or self._total - 1, now)

    def _stand_at(self, held: int, now: float) -> None:
        """Its sequence had come to `held` tokens. A reply that was over is over when all of these are there again: the
        next one of its session begins with them, and its prompt may be scored."""
        self._prefilled = now
        self._row = self._total - held
        self.reached, self.returning = max(self.position, held), True
        self._retraced = held if self.job.retrace else 0
        if self.finish is not None and self.position < held:
            self._ended, self.finish = (held, self.finish), None

    def slice(self, count: int) -> Slice:
        """The next `count` tokens; the logits of the last are wanted when nothing is left after it."""
        prompt, start, end = self.job.tokens, self.position, self.position + count
        tokens = prompt[start:end]
        if end > len(prompt):
            tokens += self.tokens[max(0, start - len(prompt)) : end - len(prompt)]
        return Slice(self.seq_id, start, tokens, end == self._total, self._reads(start, end))

    def decoded(self, count: int) -> None:
        """`count` tokens of the last slice are in."""
        self.position += count
        new = max(0, self.position - self.reached) if self.generating else 0  # not computed again
        self.reached = max(self.reached, self.position)
        self._decodes += new > 0
        self._prefill_tokens += count - new
        self._maybe_over()

    def _maybe_over(self) -> None:
        if self._ended is not None and self.position >= self._ended[0]:
            self.finish = self._ended[1]

    def draw(
        self, draw: Callable[[], int], logits: Callable[[], bytes], vocabulary: Vocabulary, clock: Callable[[], float]
    ) -> None:
        """Take in what comes after the last slice: a token that `draw` draws from `logits` and those that follow from
        it, or what is written to close its thinking."""
        written = self._budget.due(self._assembler.is_whole)
        if written:
            self.sampler.accept(written)
            self._row = self._come(written, lambda token: self._add(token, vocabulary, clock(), drawn=False))
        else:
            self.sampled(draw(), vocabulary, clock())
            self._budget.drew(self._assembler.kind)
            self.follow(vocabulary, clock())
        self._budget.wrote(self._assembler.kind)
        if self.told is None or not self.told.waiting:
            return
        if self.finish is not None:
            self._ended, self.finish = (self._total - 1, self.finish), None
        if written:
            self.told.read_end(logits(), vocabulary)
            self._maybe_over()

    def _come(self, tokens: Sequence[int], take: Callable[[int], None]) -> int:
        """Take in tokens until it is over, and say how many there were."""
        before = len(self.tokens)
        for token in tokens:
            if self.finish is None:
                take(token)
        return len(self.tokens) - before

    def sampled(self, token: int, vocabulary: Vocabulary, now: float, *, drawn: bool = True) -> None:
        """Take in the token `drawn` after the last slice, or forced; it ends the request or is the next to be
        decoded."""
        if vocabulary.is_end(token) or token in self._stops:
            self._end("stop")
            self._last_drawn = token
            if self._assembler.matched is None:
                self._stop_token = token
                self._stop_name = self._named(token, vocabulary)
            self._prefilled = now if self._prefilled is None else self._prefilled
            return
        self._add(token, vocabulary, now, drawn=drawn)

    def _add(self, token: int, vocabulary: Vocabulary, now: float, *, drawn: bool) -> None:
        """One more token of the reply."""
        if self.told is not None and drawn:
            self.told.drew(token, self.sampler, vocabulary)
        elif self.told is not None:
            self.told.came(token)
        self._take_in(token, vocabulary, now)

    def _take_in(self, token: int, vocabulary: Vocabulary, now: float) -> None:
        """What a token means for text and end of the reply."""
        if self._prefilled is None:
            self._prefilled = now
        self.tokens.append(token)
        self._fresh.append(token)
        special = self.job.report.special or token in self._shown
        self._take(self._assembler.feed(vocabulary.token_bytes(token, special=special)))
        if self._assembler.matched is not None:
            self.finish = "stop"
        elif len(self.tokens) >= self.job.max_new_tokens:
            self._end("length")

    def end_thinking(self) -> None:
        """Close the block of thinking that is open, with the next token; no effect where there is none."""
        self._budget.end()

    def follow(self, vocabulary: Vocabulary, now: float) -> None:
        """After a draw: what the structure leaves no choice about, and its end."""
        forced = [] if self.finish is not None else self.sampler.forced()
        added = self._come(forced, lambda token: self.sampled(token, vocabulary, now, drawn=False))
        self._row = 1 + added
        if self.sampler.is_over and added == len(forced):
            if self.finish is None:
                self._end("stop")
            self.finish = "stop"  # also where it has just as many tokens as it may have

    def _named(self, token: int, vocabulary: Vocabulary) -> str | None:
        """The stop sequence that names this token."""
        name = vocabulary.token_bytes(token, special=True).decode(errors="replace")
        return name if name in self.job.stop_sequences else None

    @property
    def computed(self) -> int:
        """Tokens of the prompt that were computed, and those of the reply."""
        return self._prefill_tokens + len(self.tokens)

    def prompt_done(self, now: float) -> None:
        """The prompt is in, and it was all that was wanted: nothing is drawn."""
        self._prefilled = now
        self._end("length")

    def cancel(self, vocabulary: Vocabulary, now: float) -> None:
        """It is over with what it has. Tokens that could not be told of yet are none of it, and none of them was."""
        if self.told is not None and (count := self.told.waiting):
            self.told.forget_waiting()
            tokens, fresh = self.tokens[:-count], self._fresh[:-count]
            self.tokens, self._pieces, self._ended, self._assembler = [], [], None, _assembler(self.job)
            self._come(tokens, lambda token: self._take_in(token, vocabulary, now))
            self._fresh = fresh
        self._end("cancelled")

    def _end(self, reason: FinishReason) -> None:
        """What was held back is due now: text, or a stop sequence that a longer one kept undecided."""
        self._take(self._assembler.finish())
        self.finish = "stop" if self._assembler.matched is not None and reason == "length" else reason

    def _take(self, new: str | list[Piece]) -> None:
        if isinstance(new, list):
            self._pieces += new
        elif new:
            self._pieces.append(Piece("text", new))

    @property
    def is_telling(self) -> bool:
        """Whether what is new is to be handed out now: to a stream at once, else where much of it would be lost. Not
        while tokens of it wait to be told of."""
        if self.told is not None and self.told.waiting:
            return False
        return self.job.stream or len(self._fresh) >= TOKENS_UNSEEN

    def take_texts(self, now: float) -> list[Text]:
        """What is new since the last call, segment by segment; none while a character, a marker or a stop sequence is
        incomplete. The new tokens come with the last."""
        pieces, self._taken = self._pieces[self._taken :], len(self._pieces)
        if not pieces:
            return []
        fresh, self._fresh = self._fresh, []
        logprobs = None if self.told is None else self.told.found[len(self.tokens) - len(fresh) :]
        *before, last = joined(pieces)
        texts = [Text(self.job.request_id, one.text, [], kind=one.kind, closed=one.closed) for one in before]
        draws = self._draws(now)
        return [*texts, Text(self.job.request_id, last.text, fresh, logprobs, last.kind, last.closed, draws)]

    def _draws(self, now: float) -> Draws:
        """Where the reply stands, for another life."""
        thinking, (prefill_seconds, decode_seconds) = self._budget.standing, self._seconds(now)
        return Draws(
            self.sampler.used, thinking, self._last_drawn, self.position, self._prefill_tokens, self._decodes,
            prefill_seconds, decode_seconds,
        )  # fmt: skip

    def _seconds(self, now: float) -> tuple[float, float]:
        """How long it took until its first token, and since then. What is computed again after an earlier life
        counts as the latter."""
        before, prefilled = self._earlier, now if self._prefilled is None else self._prefilled
        reading, replying = prefilled - self._began, now - prefilled
        if self.job.drawn is None:
            reading += self.job.lost_seconds
        else:
            replying += self.job.lost_seconds
        return before.prefill_seconds + reading, before.decode_seconds + replying

    def finished(self, first_held: int, now: float) -> Finished:
        """The closing outcome; `finish` is set. `first_held` is the sequence's lowest position."""
        assert self.finish is not None
        prefill_seconds, decode_seconds = self._seconds(now)
        return Finished(
            request_id=self.job.request_id, reason=self.finish,
            stop_sequence=self._assembler.matched or self._stop_name, stop_token_id=self._stop_token,
            text=text_of(self._pieces), thinking=thinking_of(self._pieces), calls=calls_of(self._pieces),
            token_ids=self.tokens, held=self.position, first_held=first_held,
            captured_to=self.captures.captured_to, prefill_tokens=self._prefill_tokens,
            prefill_seconds=prefill_seconds, decode_seconds=decode_seconds, decodes=self._decodes,
            logprobs=None if self.told is None else self.told.found,
            prompt_logprobs=None if self.scores is None else self.scores.found,
        )  # fmt: skip


def _assembler(job: Generate) -> TextAssembler | SegmentAssembler:
    stops = job.stop_sequences
    return TextAssembler(stops) if job.markers is None else SegmentAssembler(stops, job.markers)


def begin(job: Generate, backend: Backend, facts: ModelFacts, clock: Callable[[], float]) -> Running:
    """A request at its beginning, or where its reply stood in an earlier life. Raises `ErllamaError`."""
    sampler = backend.sampler(job.sampling, job.tokens)
    running = Running(job, sampler, facts, clock())
    if job.drawn is not None:
        try:
            running.replay(job.drawn, backend.vocabulary, clock())
        except ErllamaError:
            sampler.close()
            raise
    return running
