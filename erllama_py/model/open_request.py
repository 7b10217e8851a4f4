"""A request that is not answered yet: its reply, its stream, and its text and tokens so far.

A request that is cancelled, by its caller or by its deadline, is answered by the engine, which knows best what it had.
Where the engine does not report it within `SETTLE_SECONDS`, because a decode takes long or hangs, the caller gets what
has come so far. What the engine reports later is dropped for the caller: only the state machine gets it, and frees the
cells.
"""

from __future__ import annotations

import time

from erllama_py.actors import Reply
from erllama_py.chat.segments import Piece, calls_of, text_of, thinking_of
from erllama_py.engine.jobs import Finished
from erllama_py.results import (
    CallText,
    Completion,
    EngineEvent,
    FinishReason,
    TextDelta,
    ThinkingDelta,
    ThinkingEnd,
    TokenLogprob,
)
from erllama_py.scheduler.messages import Outline, Submit

SETTLE_SECONDS = 0.25  # more than a tick of a healthy engine


class OpenRequest:
    """See the module. Times are in seconds of the monotonic clock."""

    def __init__(self, submit: Submit, reply: Reply[Completion]) -> None:
        self.reply = reply
        self.early: FinishReason | None = None  # why it ends early, if it does
        self._submit = submit
        self._pieces: list[Piece] = []
        self._tokens: list[int] = []
        self._logprobs: list[TokenLogprob] = []
        self._first_at: float | None = None

    def emit(self, event: EngineEvent) -> None:
        """The next event of its stream."""
        if self._submit.feed is None:
            return
        match event:
            case TextDelta() | ThinkingDelta() | CallText():
                self._first_at = self._first_at or time.monotonic()
                self._pieces.append(_piece(event))
                self._tokens += event.token_ids
                self._logprobs += event.logprobs or ()
            case ThinkingEnd():
                self._pieces.append(Piece("thinking", "", closed=True))
        self._submit.feed(event)

    def end(self, why: FinishReason) -> None:
        """It is to end with what it has; the first reason is the one that counts."""
        self.early = self.early or why

    def so_far(self, outline: Outline, started_at: float | None, now: float) -> Finished:
        """What the engine would report, but for how many tokens lie in the cells: only the engine knows that."""
        began = now if started_at is None else started_at + outline.lookup_seconds + outline.restore_seconds
        first = self._first_at or now
        return Finished(
            request_id=self._submit.request.id, reason="cancelled", stop_sequence=None, text=text_of(self._pieces),
            thinking=thinking_of(self._pieces), calls=calls_of(self._pieces), token_ids=self._tokens, held=0,
            first_held=-1, captured_to=0, prefill_tokens=0, prefill_seconds=max(0.0, first - began),
            decode_seconds=now - first, decodes=max(0, len(self._tokens) - 1), logprobs=self._logprobs,
        )  # fmt: skip


def _piece(event: TextDelta | ThinkingDelta | CallText) -> Piece:
    match event:
        case TextDelta():
            return Piece("text", event.text)
        case ThinkingDelta():
            return Piece("thinking", event.text)
    return Piece("call", event.text, event.closed)
