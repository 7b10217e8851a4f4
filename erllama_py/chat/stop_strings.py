"""Finding stop sequences in text that comes in chunks.

The earliest occurrence by position wins; where two begin at the same place, the longest that has been seen
whole by then does not: the first that is complete ends the reply, because no more text is wanted once one is
there. Text is held back only while it could be the beginning of a stop sequence.
"""

from __future__ import annotations

from collections.abc import Sequence


class StopMatcher:
    """Feeds text through until a stop sequence is met; `matched` is that sequence then."""

    def __init__(self, stop_sequences: Sequence[str]) -> None:
        self.matched: str | None = None
        self._stops = tuple(stop_sequences)
        self._held = ""

    def feed(self, text: str) -> str:
        """What is safe to emit after `text` came in; empty for ever after a match."""
        if self.matched is not None:
            return ""
        if not self._stops:
            return text
        text = self._held + text
        found = min(((text.find(stop), stop) for stop in self._stops if stop in text), default=None)
        if found is not None:
            end, self.matched = found
            self._held = ""
            return text[:end]
        keep = self._partial(text)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def flush(self) -> str:
        """The text held back, at the end of the reply."""
        held, self._held = self._held, ""
        return held

    def _partial(self, text: str) -> int:
        """Length of the longest end of `text` that begins a stop sequence."""
        for length in range(min(len(text), max(map(len, self._stops)) - 1), 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self._stops):
                return length
        return 0
