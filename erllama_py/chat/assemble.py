"""From the bytes of tokens to text: whole characters, up to a stop sequence.

One assembler follows one reply; the engine's thread feeds it each token, at about a microsecond a token.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence

from erllama_py.chat.stop_strings import StopMatcher

_Decoder = codecs.getincrementaldecoder("utf-8")


class TextAssembler:
    """A character that spans tokens comes out whole, bytes that are no UTF-8 as U+FFFD.

    `matched` is the stop sequence that ended the text. It can be found as late as in `finish`, when a longer
    one that began before it was still possible until then.
    """

    def __init__(self, stop_sequences: Sequence[str]) -> None:
        self._decode = _Decoder("replace").decode
        self._matcher = StopMatcher(stop_sequences)

    @property
    def matched(self) -> str | None:
        return self._matcher.matched

    def feed(self, data: bytes) -> str:
        """The text that is due after `data`; empty for ever after a match."""
        return self._matcher.feed(self._decode(data))

    def finish(self) -> str:
        """What was held back: a torn character becomes U+FFFD, the beginning of a stop sequence is text."""
        return self._matcher.feed(self._decode(b"", True)) + self._matcher.flush()
