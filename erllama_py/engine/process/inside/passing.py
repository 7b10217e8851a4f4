"""Which jobs may go to an engine while others wait for what is made for them. Pure.

Jobs about one request, or one sequence, keep their order. Jobs that take cells wait for each `Drop` before them, which
may free these cells. Nothing else that a job does is seen by another one.
"""

from __future__ import annotations

from collections.abc import Iterator

from erllama_py.engine.jobs import Capture, Drop, Fault, Fork, Generate, Grant, Job, Restore, Resume

Touched = tuple[str, int]
TAKES_CELLS = (Generate, Grant, Resume, Restore, Fork)


class Held:
    """Jobs that wait, as far as those after them have to know."""

    def __init__(self) -> None:
        self._touched: set[Touched] = set()
        self._drops = False

    def __repr__(self) -> str:
        return f"<Held: {sorted(self._touched)}>"

    def add(self, job: Job) -> None:
        """One more waits."""
        self._touched.update(touched(job))
        self._drops = self._drops or isinstance(job, Drop)

    def lets_pass(self, job: Job) -> bool:
        """Whether a job that came after all of them may go before them."""
        return self._touched.isdisjoint(touched(job)) and not (self._drops and isinstance(job, TAKES_CELLS))


def touched(job: Job) -> Iterator[Touched]:
    """The request and the sequences that a job is about."""
    if not isinstance(job, Drop | Fault):
        yield "request", job.request_id
    if isinstance(job, Generate | Resume | Fork | Restore | Capture | Drop):
        yield "sequence", job.seq_id
    if isinstance(job, Fork):
        yield "sequence", job.source
