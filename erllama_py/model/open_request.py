"""A request that an actor has not answered yet: its reply, and what has come of it.

A request that is cancelled, by its caller or by its deadline, is answered by the engine, which knows best what it had.
Where the engine does not report it within `SETTLE_SECONDS`, because a decode takes long or hangs, the caller gets what
has come so far. What the engine reports later is dropped for the caller: only the state machine gets it, and frees the
cells.
"""

from __future__ import annotations

import time

from erllama_py.actors import Reply
from erllama_py.engine.drawn import Draws
from erllama_py.engine.jobs import Finished
from erllama_py.results import Completion, EngineEvent, FinishReason
from erllama_py.scheduler.messages import Outline, Submit
from erllama_py.scheduler.transcript import Transcript

SETTLE_SECONDS = 0.25  # more than a tick of a healthy engine


class OpenRequest:
    """See the module. Times are in seconds of the monotonic clock."""

    def __init__(self, submit: Submit, reply: Reply[Completion]) -> None:
        self.reply = reply
        self.early: FinishReason | None = None  # why it ends early, if it does
        self._id = submit.request.id
        self._transcript = submit.transcript or Transcript(submit.feed)

    def emit(self, event: EngineEvent, draws: Draws | None) -> None:
        """The next event, unless nobody waits for it any more: another actor may have the request by now."""
        if not self.reply.abandoned:
            self._transcript.take(event, draws, time.monotonic())

    @property
    def is_away(self) -> bool:
        """Whether it is to go on in another life, and what this one answers counts for nothing."""
        return self._transcript.is_away

    def end(self, why: FinishReason) -> None:
        """It is to end with what it has; the first reason is the one that counts."""
        self.early = self.early or why

    def so_far(self, outline: Outline, started_at: float | None, now: float) -> Finished:
        """What the engine would report."""
        return self._transcript.so_far(self._id, began_at(outline, started_at, now), now)


def began_at(outline: Outline, started_at: float | None, now: float) -> float:
    """When the engine began with a request; now, if it has not."""
    return now if started_at is None else started_at + outline.lookup_seconds + outline.restore_seconds
