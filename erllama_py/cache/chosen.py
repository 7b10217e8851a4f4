"""Rows that somebody wants removed, with all rows that extend them: pure decisions over the index, in portions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from erllama_py.cache.book import Book
from erllama_py.cache.eviction import PORTION, Portions
from erllama_py.cache.index import Index

# Rows that are looked at before the event loop turns, be any of them chosen or not.
LOOKED_AT = 512


def chosen(index: Index, tier: str, keys: Iterable[bytes]) -> Portions:
    """The rows of a tier that have these keys and those that extend them, children before parents. Each portion must
    be out of the index before the next one is asked for.

    A row that is read or being saved stays, and with it all that it extends: a row without its parent is of no use.
    """
    portion: list[bytes] = []
    stays: set[bytes] = set()
    looked = 0
    for key in _children_first(index, tier, keys):
        looked += 1
        if (book := index.books.get(tier)) is None:
            return
        if key in stays or index.is_pinned(key) or key in book.pending:
            copy = book.rows.get(key)
            if (meta := book.pending.get(key) if copy is None else copy.meta) is not None:
                stays.add(meta.parent)
        elif key in book.rows or key in book.refused:
            portion.append(key)
        if len(portion) == PORTION or looked >= LOOKED_AT:
            yield tier, tuple(portion)
            portion, looked = [], 0
    if portion:
        yield tier, tuple(portion)


def _children_first(index: Index, tier: str, keys: Iterable[bytes]) -> Iterator[bytes]:
    """Each once. What is gone when its turn comes may be among them."""
    seen: set[bytes] = set()
    for root in keys:
        path = [(root, _children(index.books.get(tier), root))] if root not in seen else []
        seen.add(root)
        while path:
            key, children = path[-1]
            child = next((one for one in children if one not in seen), None)
            if child is None:
                path.pop()
                yield key
            else:
                seen.add(child)
                path.append((child, _children(index.books.get(tier), child)))


def _children(book: Book | None, key: bytes) -> Iterator[bytes]:
    copy = None if book is None else book.rows.get(key)
    if book is None or copy is None:
        return iter(())
    return iter(list(book.links.children(key, copy.meta.end)))
