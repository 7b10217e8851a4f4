"""What one sequence of the context holds, and how much of it a new prompt may keep. Pure.

Tokens are packed as they are hashed, so that two prompts are compared by the byte. The laws: what is kept is a common
prefix of the held tokens and the prompt; the prompt's last token is computed unless its logits are known; a memory is
never cut where it cannot be.
"""

from __future__ import annotations

import msgspec

from erllama_py.cache.keys import TOKEN_BYTES, Identity, common_prefix
from erllama_py.engine.backend import MemoryKind
from erllama_py.scheduler.books import Pieces
from erllama_py.scheduler.messages import SessionKey, session_key


class Slot(msgspec.Struct, frozen=True):
    """The tokens in a sequence's cells, from position 0; `first_held` is the lowest position still there.

    `identity` says whose cells they are: those of one tenant are not lent to another. Up to `captured_to` they were
    copied out to be saved. While a request is at work in it (`request_id`), `held` is what it has of the beginning, and
    `pieces` are the cells that it may use.
    """

    seq_id: int
    held: bytes = b""
    first_held: int = 0
    identity: Identity | None = None
    captured_to: int = 0
    pieces: Pieces = ()
    request_id: int | None = None
    session_id: str | None = None
    used_at: float = 0.0

    @property
    def length(self) -> int:
        """In tokens."""
        return len(self.held) // TOKEN_BYTES

    @property
    def session(self) -> SessionKey | None:
        """The session that it is held for."""
        return session_key(self.identity, self.session_id)

    @property
    def is_free(self) -> bool:
        """Whether nobody is in it and it holds nothing."""
        return self.request_id is None and not self.held

    @property
    def is_kept(self) -> bool:
        """Whether it holds something and nobody is at work in it."""
        return self.request_id is None and bool(self.held)


class Reuse(msgspec.Struct, frozen=True):
    """How many tokens of the prompt to keep, and why not more (`None` when all but the last are kept)."""

    keep: int
    miss_reason: str | None


def reusable(slot: Slot, prompt: bytes, memory: MemoryKind, n_swa: int, *, with_logits: bool = False) -> Reuse:
    """How much of `slot` a `prompt` may keep: all of it only `with_logits`, those at its end.

    Full attention can be cut back anywhere. A sliding window can be cut back only to where the window
    before the cut is still whole. A recurrent state cannot be cut back at all: it is kept when the prompt
    goes on where it stands, else dropped.
    """
    if not slot.held:
        return Reuse(0, "nothing is live")
    length = len(prompt) // TOKEN_BYTES
    common = common_prefix(slot.held, prompt)
    most = length if with_logits else length - 1
    keep = min(common, most)
    parted = None
    if keep < most:
        ends = common == slot.length
        parted = f"{'what is live ends' if ends else 'the prompt parts from the live sequence'} at token {common}"
    if keep == 0:
        return Reuse(0, parted)
    if keep < slot.length:
        if memory in ("recurrent", "hybrid"):
            return Reuse(0, "a recurrent state cannot be cut back, and the prompt does not go on where it stands")
        if memory == "window" and slot.first_held > max(0, keep - n_swa):
            return Reuse(0, "the sliding window before the common prefix's end is gone")
    return Reuse(keep, parted)
