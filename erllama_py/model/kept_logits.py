"""The logits at the ends of recent prompts, so that a prompt that comes again needs no decode at all."""

from __future__ import annotations

from collections import OrderedDict

# The last 170 prompts of a model with 49,152 tokens in its vocabulary, the last 32 of one with 262,144.
KEPT_LOGITS_BYTES = 32 << 20


class KeptLogits:
    """Logits by the key of their prompt; the least recently used go first when `budget` bytes are full."""

    def __init__(self, budget: int = KEPT_LOGITS_BYTES) -> None:
        self._budget = budget
        self._kept: OrderedDict[bytes, bytes] = OrderedDict()
        self._bytes = 0

    def __repr__(self) -> str:
        return f"<KeptLogits of {len(self._kept)} prompts, {self._bytes >> 10} KiB>"

    def get(self, key: bytes) -> bytes | None:
        """The logits at the end of a prompt, if they are still there."""
        logits = self._kept.get(key)
        if logits is not None:
            self._kept.move_to_end(key)
        return logits

    def put(self, key: bytes, logits: bytes) -> None:
        """Remember them, if they fit at all."""
        self._bytes -= len(self._kept.pop(key, b""))
        if len(logits) > self._budget:
            return
        self._kept[key] = logits
        self._bytes += len(logits)
        while self._bytes > self._budget:
            _, oldest = self._kept.popitem(last=False)
            self._bytes -= len(oldest)
