"""What one load of a model has done since it began, over all restarts of its actor and engine. Read without a message.

Written on the event loop by its actors, its companion's and its embedders', where something ends; what engines compute
is written by their threads, each into a `Work` of its own. Numbers only grow.
"""

from __future__ import annotations

from collections import Counter
from functools import reduce

from erllama_py.engine.work import Work
from erllama_py.results import CacheHitKind, Completion, FinishReason


class Tally:
    """See the module."""

    def __init__(self) -> None:
        self.requests = 0
        self.finished: Counter[FinishReason] = Counter()
        self.hits: Counter[CacheHitKind] = Counter()
        self.failed = self.refused = 0
        self.continued = 0
        self.prompt_tokens = self.reused_tokens = 0
        self.restored_bytes = 0
        self.saved_rows = self.saved_bytes = self.skipped_rows = self.lost_rows = 0
        self.embeds = self.embeds_failed = self.embed_tokens = 0
        self.loads, self.load_seconds = 0, 0.0
        self._past = Work()  # of engines that have ended
        self._works: list[Work] = []

    def __repr__(self) -> str:
        return f"<Tally of {self.requests} requests, {self.work.decodes} decodes>"

    # --- engines ---------------------------------------------------------------------------------------------

    def begin_engine(self) -> Work:
        """What a new engine writes into."""
        work = Work()
        self._works.append(work)
        return work

    def end_engine(self, work: Work) -> None:
        """That engine's thread has ended: nothing is written into this any more."""
        self._works.remove(work)
        self._past = self._past.plus(work)

    @property
    def work(self) -> Work:
        """Of all engines together."""
        return reduce(Work.plus, self._works, self._past)

    # --- what the actor tells --------------------------------------------------------------------------------

    def loaded(self, seconds: float) -> None:
        """A load is done."""
        self.loads += 1
        self.load_seconds += seconds

    def completed(self, completion: Completion, began: bool) -> None:
        """A request was answered; `began`: it had a sequence."""
        self.finished[completion.finish_reason] += 1
        self.prompt_tokens += completion.prompt_tokens
        if began:
            self.hits[completion.cache_hit_kind] += 1
            self.reused_tokens += completion.cache_delta.read
            self.restored_bytes += completion.stats.restored_bytes

    def saved(self, nbytes: int | None) -> None:
        """A range was copied out and handed to the cache; None where there was nothing to copy it into."""
        if nbytes is None:
            self.skipped_rows += 1
        else:
            self.saved_rows += 1
            self.saved_bytes += nbytes

    def embedded(self, tokens: int | None) -> None:
        """A call for embeddings was answered; None where it failed."""
        if tokens is None:
            self.embeds_failed += 1
        else:
            self.embeds += 1
            self.embed_tokens += tokens
