"""From the bytes of tokens to text: whole characters, up to a stop sequence."""

from __future__ import annotations

import codecs
from collections.abc import Sequence

from erllama_py.chat.stop_strings import StopMatcher

_decoder = codecs.getincrementaldecoder("utf-8")


class TextAssembler:
    """Fed with each token's bytes; a character that spans tokens comes out whole. `matched`: the stop sequence met."""

    def __init__(self, stop_sequences: Sequence[str]) -> None:
        self._decode = _decoder("replace").decode
        self._matcher = StopMatcher(stop_sequences)

    @property
    def matched(self) -> str | None:
        return self._matcher.matched

    def feed(self, data: bytes) -> str:
        """Text that is due after `data`."""
        return self._matcher.feed(self._decode(data))

    def finish(self) -> str:
        """What was held back: a torn character becomes U+FFFD, a beginning of a stop sequence is text."""
        return self._matcher.feed(self._decode(b"", True)) + self._matcher.flush()
