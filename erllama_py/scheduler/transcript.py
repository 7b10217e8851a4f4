"""What has come of one request so far, over all lives of its model's actor: its text, its tokens, what was drawn.

Made by the caller's side, and filled by the actor that has the request. When that crashes, the next one goes on from
here: see `handle.going_on`. Its stream hears of each event once, whatever is computed again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from erllama_py.chat.segments import Piece, calls_of, text_of, thinking_of
from erllama_py.engine.drawn import NOTHING_USED, Drawn, Draws
from erllama_py.engine.jobs import Finished
from erllama_py.results import (
    CallText,
    EngineEvent,
    Progress,
    TextDelta,
    ThinkingDelta,
    ThinkingEnd,
    TokenLogprob,
)


class Transcript:
    """See the module. `feed` gets the events of a stream. Times are in seconds of the monotonic clock."""

    __slots__ = (
        "_feed", "_logprobs", "_moved", "_pieces", "_read_now", "_told", "draws", "end_thinking", "first_at",
        "is_away", "lives", "read", "token_ids",
    )  # fmt: skip

    def __init__(self, feed: Callable[[EngineEvent], Any] | None = None) -> None:
        self._feed = feed
        self._pieces: list[Piece] = []
        self._logprobs: list[TokenLogprob] = []
        self._moved: Callable[[], None] | None = None
        self.token_ids: list[int] = []
        self.draws: Draws | None = None  # where the reply stands after these
        self.end_thinking = False  # the block that it is in is to be closed
        self.read = 0  # most tokens of the prompt that were in
        self.first_at: float | None = None  # when the first text came
        self.lives = 0  # actors that have had it
        self.is_away = False  # it was withdrawn from the last of them, whose answer is none
        self._read_now, self._told = 0, False  # of this life

    def __repr__(self) -> str:
        return f"<Transcript of {len(self.token_ids)} tokens in {self.lives} lives>"

    def begins(self, moved: Callable[[], None] | None = None) -> None:
        """An actor has it now. `moved` is called where it has come further, and could leave that actor."""
        self.lives += 1
        self.is_away = False
        self._moved = moved
        self._read_now, self._told = 0, False

    def take(self, event: EngineEvent, draws: Draws | None, now: float) -> None:
        """The next event, and where the reply stands after it, if it says so."""
        match event:
            case Progress(done):
                self._read_now = done
                # Of another life only what is new: the prompt is read once more, but nobody is told twice.
                if self.lives > 1 and (self.draws is not None or done <= self.read):
                    return
                self.read = max(self.read, done)
            case TextDelta() | ThinkingDelta() | CallText():
                self.first_at = self.first_at or now
                self._pieces.append(_piece(event))
                self.token_ids += event.token_ids
                self._logprobs += event.logprobs or ()
            case ThinkingEnd():
                self._pieces.append(Piece("thinking", "", closed=True))
                self.end_thinking = False
        self.draws, self._told = draws or self.draws, self._told or draws is not None
        if self._feed is not None:
            self._feed(event)
        # Of events that came together the last has the draws: in between, another life would lack what follows.
        if self._moved is not None and (draws is not None or isinstance(event, Progress)):
            self._moved()

    @property
    def is_thinking(self) -> bool | None:
        """Whether the reply is in a block of thinking, as far as it has come; None where nothing has."""
        if not self._pieces:
            return None
        last = self._pieces[-1]
        return last.kind == "thinking" and not last.closed

    @property
    def computed(self) -> int:
        """Tokens of the prompt that were computed, in all lives, and those of the reply."""
        return len(self.token_ids) + (0 if self.draws is None else self.draws.prefill_tokens)

    def untold(self, kept: int) -> int:
        """Tokens of the prompt that the last life has computed beyond those `kept`, if it has told nothing more."""
        return 0 if self._told else max(0, self._read_now - kept)

    def drawn(self, *, logprobs: bool) -> Drawn | None:
        """What another life goes on from; None where nothing of the reply has come."""
        if self.draws is None:
            return None
        return Drawn(
            token_ids=[*self.token_ids], draws=self.draws, logprobs=[*self._logprobs] if logprobs else None,
            end_thinking=self.end_thinking,
        )  # fmt: skip

    def so_far(self, request_id: int, began: float, now: float) -> Finished:
        """What the engine would report of a request that it began with then, but for how many tokens lie in the cells:
        only the engine knows that."""
        first, draws = self.first_at or now, self.draws or NOTHING_USED
        return Finished(
            request_id=request_id, reason="cancelled", stop_sequence=None, text=text_of(self._pieces),
            thinking=thinking_of(self._pieces), calls=calls_of(self._pieces), token_ids=[*self.token_ids], held=0,
            first_held=-1, captured_to=0, prefill_tokens=draws.prefill_tokens, decodes=draws.decodes,
            prefill_seconds=max(0.0, first - began), decode_seconds=now - first, logprobs=[*self._logprobs],
        )  # fmt: skip


def _piece(event: TextDelta | ThinkingDelta | CallText) -> Piece:
    match event:
        case TextDelta():
            return Piece("text", event.text)
        case ThinkingDelta():
            return Piece("thinking", event.text)
    return Piece("call", event.text, event.closed)
