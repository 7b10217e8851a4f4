"""Which row of one tier extends which. Owns the order of the rows that extend one place. Pure.

A place is where a row ends: its key and its position there. So a crafted row whose parent ends elsewhere extends
nothing, and no rows can extend each other in a circle, which nothing could remove: positions only grow.
"""

from __future__ import annotations

from collections.abc import Iterator

from erllama_py.cache.keys import TOKEN_BYTES
from erllama_py.cache.orders import Child, Siblings
from erllama_py.tiers.messages import RowMeta


class Links:
    """See the module. Rows that are pending count as those that are there."""

    def __init__(self) -> None:
        self._children: dict[bytes, Child | Siblings] = {}  # by place

    def __repr__(self) -> str:
        return f"<Links of {len(self._children)} places>"

    def __bool__(self) -> bool:
        return bool(self._children)

    def link(self, meta: RowMeta) -> None:
        """A row extends its parent's place."""
        place, one = _place(meta.parent, meta.start), Child(meta.tokens, meta.key, meta.end)
        children = self._children.get(place)
        if isinstance(children, Siblings):
            children.add(one)
        elif children is None:
            self._children[place] = one
        else:
            siblings = self._children[place] = Siblings()
            siblings.add(children)
            siblings.add(one)

    def unlink(self, meta: RowMeta) -> bool:
        """It does no longer; whether it was the last one there."""
        place = _place(meta.parent, meta.start)
        children = self._children[place]
        if isinstance(children, Siblings):
            children.remove(Child(meta.tokens, meta.key, meta.end))
            if children:
                return False
        del self._children[place]
        return True

    def is_extended(self, key: bytes, end: int) -> bool:
        """Whether any row extends the one with this key, which ends there."""
        return _place(key, end) in self._children

    def siblings(self, meta: RowMeta) -> int:
        """How many rows extend what this one extends, this one included if it is here."""
        return len(self._children.get(_place(meta.parent, meta.start), ()))

    def children(self, key: bytes, end: int) -> Iterator[bytes]:
        """The keys of the rows that extend the one with this key, which ends there."""
        return (child.key for child in self._children.get(_place(key, end), ()))

    def furthest(self, key: bytes, end: int) -> int:
        """Where the longest of them ends; 0 if there is none."""
        children = self._children.get(_place(key, end))
        return 0 if children is None else children.furthest

    def nearest(self, key: bytes, start: int, tokens: bytes) -> Iterator[tuple[int, Child]]:
        """What each row that extends `key`, which ends at `start`, has in common with packed `tokens` from there on,
        and the row; most in common first."""
        children = self._children.get(_place(key, start))
        return iter(()) if children is None else children.nearest(_rest(children, start, tokens))

    def on_path(self, key: bytes, start: int, tokens: bytes) -> Iterator[Child | None]:
        """The rows that extend `key`, which ends at `start`, and are wholly part of packed `tokens`; None for a look
        in vain."""
        children = self._children.get(_place(key, start))
        return iter(()) if children is None else children.on_path(_rest(children, start, tokens))

    def shed(self, most: int) -> None:
        """Free this many rows; what is left is not used any more."""
        while most > 0 and self._children:
            place, children = next(reversed(self._children.items()))
            if isinstance(children, Siblings) and len(children) > most:
                children.shed(most)
                return
            most -= len(children)
            del self._children[place]


def _place(key: bytes, end: int) -> bytes:
    return key + end.to_bytes(8, "little")


def _rest(children: Child | Siblings, start: int, tokens: bytes) -> bytes:
    """Tokens from `start` on; cut where the longest row ends, so that no long prompt is copied for a short one."""
    return tokens[TOKEN_BYTES * start : TOKEN_BYTES * children.furthest]
