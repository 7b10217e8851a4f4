"""When the cells of one request are to be copied out: pure bookkeeping over its `CapturePlan`.

Positions only grow. Each range starts where the last captured one ended, the first where the plan says, so that a
skipped or failed boundary makes the next range longer and never leaves a hole.
"""

from __future__ import annotations

from erllama_py.engine.backend import MemoryKind
from erllama_py.engine.jobs import CapturePlan, span_end
from erllama_py.options.model import SaveReason


class Captures:
    """What of a plan is still to be done, for a sequence whose prompt has `prompt_length` tokens."""

    def __init__(self, plan: CapturePlan | None, prompt_length: int, keep: int, memory: MemoryKind) -> None:
        self.captured_to = plan.captured_to if plan else 0
        begin = plan.begin if plan else None
        self.begin = self.captured_to if begin is None else begin  # where the next range begins
        self._settled_to = self.captured_to  # what was tried up to there is not tried again
        self._plan = plan
        self._memory = memory
        # With full attention a range can be copied as well later on: what follows it changes nothing of it.
        self.can_wait = memory == "full"
        self._stands_at_end = memory in ("recurrent", "hybrid")
        # A recurrent state is only ever the one at the sequence's end: earlier ones are gone.
        least = keep if self._stands_at_end else self.captured_to + 1
        self._ends = [end for end in plan.prompt_ends if end >= max(least, self.captured_to + 1)] if plan else []
        self._prompt_length = prompt_length
        self._reply_from = plan.reply_from if plan else 0
        self._next_continued = prompt_length + plan.interval if plan else 0
        # Of a reply that goes on, ranges may be saved already, or have been passed.
        passed = max(self.captured_to, keep - 1 if self._stands_at_end else 0)
        while plan is not None and self._next_continued <= passed:
            self._next_continued += plan.interval

    def due(self, position: int) -> tuple[int, SaveReason] | None:
        """The end of the range that can be copied now, for a sequence of `position` tokens."""
        if self._plan is None:
            return None
        if self._ends and self._ends[0] <= position:
            return self._ends[0], "cold"
        if not self._plan.prompt_only and position >= self._next_continued > self.captured_to:
            return self._next_continued, "continued"
        return None

    def last(self, position: int) -> tuple[int, SaveReason] | None:
        """The next of the ranges that are left when the request ends at `position`."""
        if self._plan is None or self._plan.prompt_only:
            return None
        if position < max(self._plan.min_tokens, self._settled_to + 1):
            return None
        return self._range_end(position), "finish"

    def rest(self, position: int) -> tuple[int, SaveReason] | None:
        """The next of the ranges that are left when it is parked at `position`."""
        if self._plan is None or self._plan.prompt_only or position <= self._settled_to:
            return None
        return self._range_end(position), "evict"

    def _range_end(self, position: int) -> int:
        """Where the first of the ranges that are left up to `position` ends."""
        end, reply_from = span_end(self._settled_to, position, self._memory), self._reply_from
        return reply_from if self.can_wait and self._settled_to < reply_from < end else end

    def settle(self, end: int, captured: bool) -> None:
        """The range up to `end` was copied, or cannot be: either way it is not tried again."""
        self._settled_to = end
        if captured:
            self.captured_to = end
        self.begin = self.captured_to  # what was to be taken in may have been too much for a buffer
        self._ends = [later for later in self._ends if later > end]
        while self._plan is not None and self._next_continued <= end:
            self._next_continued += self._plan.interval

    def reach(self, position: int, n_ubatch: int) -> int | None:
        """How many tokens from `position` on may go into one decode, so that the next range can still be copied after
        it: None for any number.

        A recurrent state must stand at the range's end. A sliding window loses cells with each micro-batch that
        follows, so the decode ends in the micro-batch in which the range does; and on the grid of micro-batches, as
        every slice does: one that begins off that grid takes longer to compute (a twentieth, with Gemma 3).
        """
        if self._plan is not None and position >= self._prompt_length:
            return None if self.can_wait else max(1, self._next_continued - position)  # several are rare
        if self._plan is None or self.can_wait:
            return None
        if not self._ends or self._ends[0] <= position:
            return self._prompt_length - position  # a reply that goes on has more, with ranges of its own
        ahead = self._ends[0] - position
        if self._stands_at_end:
            return ahead
        last = position + -(-ahead // n_ubatch) * n_ubatch
        return last // n_ubatch * n_ubatch - position
