"""Turns: the tokens of a reply and of all that precedes it, found by what the reply says in its conversation. Pure.

A turn is a row without cells (reason `"turn"`). It is found by keys that its caller makes of the conversation
(`chat.turn_keys`); here they are 32 bytes that mean nothing. A turn whose prompt continues another one extends that
row, so a long conversation takes as many tokens as it has, and not as many for each of its replies:

    key = SHA-256(tag ‖ fingerprint ‖ found by ‖ parent ‖ tokens of the span)

The key says all of it, so a row that extends another can only follow those tokens. Two replies that say the same by
other tokens are two rows, and the later one is found. No key of cells is one of these, and none extends the other, so
look-ups of prompts never meet a turn.
"""

from __future__ import annotations

from hashlib import sha256

import msgspec

from erllama_py.cache.book import Book
from erllama_py.cache.index import Index
from erllama_py.cache.keys import TOKEN_BYTES, Identity
from erllama_py.tiers.messages import RowMeta

TAG = b"erllama turn v1\0"


class Turn(msgspec.Struct, frozen=True):
    """A turn that was found: `place` is that of its key among those that were asked for; `tokens` are packed."""

    place: int
    key: bytes
    tier: str
    tokens: bytes


class NewTurn(msgspec.Struct, frozen=True, kw_only=True):
    """A turn to keep: packed `tokens`, found by each of `found_by`. `after` is what finds the turn that its prompt
    continues; `seconds` is what computing the rest took."""

    identity: Identity
    found_by: tuple[bytes, ...]
    tokens: bytes
    after: bytes | None
    build: str
    seconds: float


def find_turn(index: Index, found_by: tuple[bytes, ...]) -> Turn | None:
    """The turn of the first of these keys that has one, the latest of them; whole, in whatever tier."""
    for place, key in enumerate(found_by):
        metas = [(meta, tier, book) for tier, book in index.books.items() for meta in book.turns(key)]
        for meta, tier, book in sorted(metas, key=lambda one: -one[0].created_at):
            if (tokens := book.turn_tokens(meta)) is not None:
                return Turn(place, meta.key, tier, tokens)
    return None


def turn_rows(new: NewTurn, book: Book | None, now: float) -> list[RowMeta]:
    """The rows of a turn, one for each key that it is found by. They extend its parent where `book` has that."""
    parent, start = sha256(TAG + new.identity.fingerprint).digest(), 0
    before = None if book is None else _before(new, book)
    if before is not None:
        parent, start = before.key, before.end
    span = new.tokens[TOKEN_BYTES * start :]
    return [
        RowMeta(
            key=sha256(TAG + new.identity.fingerprint + found_by + parent + span).digest(), parent=parent, start=start,
            end=len(new.tokens) // TOKEN_BYTES, tokens=span, fingerprint=new.identity.fingerprint,
            quant_bits=new.identity.quant_bits, ctx_params_hash=found_by, build=new.build, payload_bytes=0,
            logits_bytes=0, reason="turn", created_at=now, prefill_seconds=new.seconds,
        )
        for found_by in new.found_by
    ]  # fmt: skip


def _before(new: NewTurn, book: Book) -> RowMeta | None:
    """The turn that a new one continues, if it is in this tier: one that says as much by other tokens is another."""
    for meta in () if new.after is None else book.turns(new.after):
        tokens = book.turn_tokens(meta)
        if tokens is not None and len(tokens) < len(new.tokens) and new.tokens.startswith(tokens):
            return meta
    return None
