"""One request on the engine thread: what it still has to decode, what it has sampled, when it is over.

`Running` is driven by the thread and touches no context itself: `slice` says what to decode next,
`decoded` and `sampled` take in what came of it. Its states: prefilling → generating → finished.
"""

from __future__ import annotations

from erllama_py.chat.assemble import TextAssembler
from erllama_py.engine.backend import ModelFacts, Sampler, Slice, Vocabulary
from erllama_py.engine.captures import Captures
from erllama_py.engine.jobs import Finished, FinishReason, Generate, Text
from erllama_py.engine.tick_plan import Need


class Running:
    """The state of one `Generate` job. Times are in seconds of the thread's clock."""

    def __init__(self, job: Generate, sampler: Sampler, facts: ModelFacts, now: float) -> None:
        self.job = job
        self.sampler = sampler
        self.captures = Captures(job.saves, len(job.tokens), job.keep, facts.memory)
        self._n_ubatch = facts.n_ubatch
        self.position = job.keep  # tokens of this request that are in the sequence's cells
        self.tokens: list[int] = []  # sampled so far, the end token left out
        self.finish: FinishReason | None = None
        self._assembler = TextAssembler(job.stop_sequences)
        self._pieces: list[str] = []
        self._told = 0  # pieces that `take_text` has handed out
        self._fresh: list[int] = []  # token ids since the last `Text`
        self._began = now
        self._prefilled: float | None = None
        self._decodes = 0

    @property
    def generating(self) -> bool:
        return self._prefilled is not None

    def need(self) -> Need:
        if self.generating:
            return Need(self.position, 1, True)
        tokens = len(self.job.tokens) - self.position
        reach = self.captures.reach(self.position, self._n_ubatch)
        return Need(self.position, tokens if reach is None else min(tokens, reach), False)

    def slice(self, count: int) -> Slice:
        """The next `count` tokens; the logits of the last are wanted once the prompt is complete."""
        if self.generating:
            return Slice(self.job.seq_id, self.position, (self.tokens[-1],), True)
        end = self.position + count
        return Slice(self.job.seq_id, self.position, self.job.tokens[self.position : end], end == len(self.job.tokens))

    def decoded(self, count: int) -> None:
        """`count` tokens of the last slice are in."""
        self.position += count
        if self.generating:
            self._decodes += 1

    def sampled(self, token: int, vocabulary: Vocabulary, now: float) -> None:
        """Take in the token drawn after the last slice; it ends the request or is the next to be decoded."""
        if self._prefilled is None:
            self._prefilled = now
        if vocabulary.is_end(token):
            self._end("stop")
            return
        self.tokens.append(token)
        self._fresh.append(token)
        self._pieces.append(self._assembler.feed(vocabulary.token_bytes(token, special=False)))
        if self._assembler.matched is not None:
            self.finish = "stop"
        elif len(self.tokens) >= self.job.max_new_tokens:
            self._end("length")

    def prompt_done(self, now: float) -> None:
        """The prompt is in, and it was all that was wanted: nothing is drawn."""
        self._prefilled = now
        self._end("length")

    def cancel(self) -> None:
        self._end("cancelled")

    def _end(self, reason: FinishReason) -> None:
        """What was held back is due now: text, or a stop sequence that a longer one kept undecided."""
        self._pieces.append(self._assembler.finish())
        self.finish = "stop" if self._assembler.matched is not None and reason == "length" else reason

    def take_text(self) -> Text | None:
        """What is new since the last call; `None` while a character or a stop sequence is incomplete."""
        text = "".join(self._pieces[self._told :])
        if not text:
            return None
        self._told = len(self._pieces)
        fresh, self._fresh = self._fresh, []
        return Text(self.job.request_id, text, fresh)

    def finished(self, first_held: int, now: float) -> Finished:
        """The closing outcome; `finish` is set. `first_held` is the sequence's lowest position."""
        assert self.finish is not None
        prefilled = now if self._prefilled is None else self._prefilled
        in_prompt = min(self.position, len(self.job.tokens))
        return Finished(
            request_id=self.job.request_id,
            reason=self.finish,
            stop_sequence=self._assembler.matched,
            text="".join(self._pieces),
            token_ids=self.tokens,
            held=self.position,
            first_held=first_held,
            captured_to=self.captures.captured_to,
            prefill_tokens=max(0, in_prompt - self.job.keep),
            prefill_seconds=prefilled - self._began,
            decode_seconds=now - prefilled,
            decodes=self._decodes,
        )
