"""Which rows a new one takes the place of. Pure.

A row of a recurrent state carries all of it. So where a row was saved over a longer span than is new
(`policy.row_start`), those within its span are of little use: they lie on its path, and its prompt alone would not have
left them. What others need stays, with what that extends: rows that are being read or saved, that are kept for a time,
or that a row beside the path extends. A reply that did not come back, with the tokens that opened it, is no such row:
it goes along.
"""

from __future__ import annotations

from typing import NamedTuple

from erllama_py.cache.book import Book, is_turn
from erllama_py.cache.index import Index
from erllama_py.cache.keys import TOKEN_BYTES
from erllama_py.tiers.messages import RowMeta

# Saved of a reply, or when its sequence was given up: not of a prompt.
OF_REPLIES = frozenset({"continued", "finish", "evict", "shutdown"})
# Tokens of a prompt that open a reply at most (see `chat.endings`). A prompt that goes on with so few is taken for
# one: then it is computed from where both part.
OPENING = 16
# Rows that are looked at for one that is stored. A turn leaves some five; what has more beside it stays.
MOST = 128


class Replaced(NamedTuple):
    """The keys of rows that go, children before parents; `later`: others are being read, and may go afterwards."""

    keys: tuple[bytes, ...] = ()
    later: bool = False


def replaced(index: Index, tier: str, new: RowMeta) -> Replaced:
    """The rows that `new`, which is stored in the tier, takes the place of."""
    book = index.books.get(tier)
    if book is None or new.key not in book.rows or not book.is_reachable(new):
        return Replaced()
    search = _Search(index, book, new)
    keys = search.victims()
    return Replaced(keys, search.met_read)


class _Search:
    """One answer, how many rows may still be looked at for it, and whether any of them was being read."""

    def __init__(self, index: Index, book: Book, new: RowMeta) -> None:
        self._index, self._book, self._new = index, book, new
        self._left, self.met_read = MOST, False

    def victims(self) -> tuple[bytes, ...]:
        gone: dict[bytes, None] = {}
        for meta in reversed(self._within()):
            beside = [key for key in self._children(meta) if key not in gone]
            thrown = self._thrown(beside) if self._may_go(meta.key) else None
            if thrown is not None:
                gone |= dict.fromkeys([*thrown, meta.key])
        return tuple(gone)

    def _within(self) -> list[RowMeta]:
        """The rows that begin where the new one does or later, on its path, and end before it does; by their starts."""
        new, found, places = self._new, list[RowMeta](), [(self._new.parent, self._new.start)]
        tokens = bytes(TOKEN_BYTES * new.start) + new.tokens  # in their places; those before it are not looked at
        while places and self._left > 0:
            for child in self._book.links.on_path(*places.pop(), tokens):
                self._left -= 1
                copy = None if child is None or child.end >= new.end else self._book.rows.get(child.key)
                if copy is not None and not is_turn(copy.meta):
                    found.append(copy.meta)
                    places.append((copy.meta.key, copy.meta.end))
        return found if self._left > 0 else []

    def _children(self, meta: RowMeta) -> list[bytes]:
        return list(self._book.links.children(meta.key, meta.end))

    def _may_go(self, key: bytes) -> bool:
        book = self._book
        self.met_read |= (is_read := self._index.is_pinned(key))
        held = key in book.pending or key in book.keeps or is_read
        return key in book.rows and not held and book.stuck_until(key) is None

    def _thrown(self, keys: list[bytes]) -> list[bytes] | None:
        """These rows and all that extends them, children first, if they are replies; None if any is to stay."""
        found, unseen = list[bytes](), list(keys)
        while unseen:
            key = unseen.pop()
            self._left -= 1
            meta = self._book.rows[key].meta if self._may_go(key) else None
            if self._left < 0 or meta is None or not _of_reply(meta):
                return None
            found.append(key)
            unseen += self._children(meta)
        return found[::-1]


def _of_reply(meta: RowMeta) -> bool:
    return meta.reason in OF_REPLIES or (meta.reason == "cold" and meta.end - meta.start <= OPENING)
