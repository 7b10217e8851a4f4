"""Which ranges of sequences are copied out between decodes, how many in one tick, and which beginnings are shared.

How a range is copied is in `cells`, when a request has completed one in `captures`. For the engine's thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from erllama_py.engine.cells import Cells
from erllama_py.engine.jobs import Fork, Outcome
from erllama_py.engine.sequence import Running
from erllama_py.options.model import SaveReason

# Ranges copied out for one sequence in one tick, some milliseconds for large models: whatever else is due follows in
# the next ticks, so that no stream stalls for longer. One that generates is itself such a stream.
CAPTURES_PER_TICK = 2
CAPTURES_BETWEEN_TOKENS = 1


class Copies:
    """See the module. `tell` takes what came of a copy; `flush` hands over what was told before, which does not wait
    for the copy that follows."""

    def __init__(self, cells: Cells, tell: Callable[[Outcome], object], flush: Callable[[], object]) -> None:
        self._cells, self._tell, self._flush = cells, tell, flush
        self.forks: list[Fork] = []  # that wait for their source to come far enough

    def __repr__(self) -> str:
        return f"<Copies, {len(self.forks)} forks wait>"

    # --- out of sequences ----------------------------------------------------------------------------------------

    def due(self, running: Running) -> None:
        """Copy out ranges that a request has completed."""
        if running.copies_wait:
            return
        can_wait = running.captures.can_wait and running.generating
        for done in range(CAPTURES_BETWEEN_TOKENS if can_wait else CAPTURES_PER_TICK):
            due = running.captures.due(running.position)
            if due is None:
                return
            if not done:
                self._flush()  # a token that was drawn in this tick does not wait for the copy
            self._copy(running, *due)

    def before_park(self, running: Running) -> bool:
        """Copy out one more range of a request that is to leave its sequence; whether that was the last."""
        captures, held = running.captures, running.position
        if due := captures.due(held) or captures.rest(held):
            self._copy(running, *due)
        return not (captures.due(held) or captures.rest(held))

    def at_end(self, running: Running, others: bool) -> bool:
        """Copy out what is left of a request that is over; false where `others` are to go on in between."""
        captures, position, copied = running.captures, running.position, 0
        while position and (due := captures.due(position) or captures.last(position)):
            if copied == CAPTURES_PER_TICK and others:
                return False
            if not copied:
                self._flush()  # its text does not wait for the copies
            self._copy(running, *due)
            copied += 1
        return True

    def _up_to(self, running: Running, length: int) -> None:
        """Copy out all ranges that are due and end there at most: no more than one decode has computed, as a rule."""
        while (due := running.captures.due(min(running.position, length))) is not None:
            self._flush()
            self._copy(running, *due)

    def _copy(self, running: Running, end: int, reason: SaveReason) -> None:
        job = running.job
        start, generated = running.captures.begin, running.tokens[: max(0, end - len(job.tokens))]
        if not self._cells.worth(start, end):  # the next end is that of a longer range, which may be
            running.captures.settle(end, captured=False)
            self._tell(self._cells.left(job.request_id, start, end, reason))
            return
        copied = self._cells.capture(job.request_id, running.seq_id, start, end, reason, generated)
        running.captures.settle(end, copied.payload is not None)
        self._tell(copied)

    # --- into others ---------------------------------------------------------------------------------------------

    def forget_forks(self, seq_id: int) -> None:
        """Nothing may be shared any more into a sequence that was given up or is in use."""
        self.forks = [fork for fork in self.forks if fork.seq_id != seq_id]

    def do_forks(self, running: Iterable[Running]) -> None:
        """Share beginnings that are computed by now; what is to be saved of them is copied out before, and so only
        once."""
        at_work = {one.seq_id: one for one in running} if self.forks else {}
        for fork in list(self.forks):
            source = at_work.get(fork.source)
            if source is not None and source.position < fork.length:
                continue
            if source is not None:
                self._up_to(source, fork.length)
            self.forks.remove(fork)
            self._tell(self._cells.fork(fork))
