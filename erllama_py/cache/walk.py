"""The longest saved prefix of a prompt: one walk down the prefix tree of rows. Pure.

The prompt's running SHA-256 is copied at each place where a row could end, in ascending order: those are the ends of
the rows that go on from what was reached already. A row is reached when its key is the prompt's key there, its parent
is reached, and its tokens are the prompt's. So everything is found that lies on the prompt's path, at whatever lengths,
and nothing that does not match it token for token.
"""

from __future__ import annotations

import heapq
from typing import Literal

import msgspec

from erllama_py.cache.index import HEAD_TOKENS, SPEED, Index, Row
from erllama_py.cache.keys import TOKEN_BYTES, Identity, prefix_keys
from erllama_py.tiers.messages import RowMeta

# Rows that are compared with a prompt to say where it parts from what is saved: enough to be right where few chats
# share a beginning, few enough to take microseconds where thousands do.
COMPARED = 64


class Located(msgspec.Struct, frozen=True):
    """A row, and the tier to read it from, where it takes `nbytes`."""

    meta: RowMeta
    tier: str
    nbytes: int


class Miss(msgspec.Struct, frozen=True):
    """Why there is no more. `position` is the first token that is not found, or that differs.

    `"empty"`: no row of this model; `"other_parameters"`: only such as were made with other settings; `"diverges"`:
    what is saved goes on with another token; `"ends"`: what is saved ends there; `"saving"`: the next row is on its
    way; `"evicted"`, `"bad"`: the next row was there.
    """

    reason: Literal["empty", "other_parameters", "diverges", "ends", "saving", "evicted", "bad"]
    position: int


class Hit(msgspec.Struct, frozen=True, kw_only=True):
    """What there is for a prompt. Lengths are in tokens.

    `chain` are the rows to restore, from position 0 without a gap; the last one is to be cut back to `length` where
    that is before its end. Up to `saved_to`, a row's end, everything is stored or on its way in the tier that was asked
    for: new rows continue there.
    """

    chain: tuple[Located, ...]
    length: int
    saved_to: int
    exact: bool
    miss: Miss | None


def walk(index: Index, identity: Identity, tokens: bytes, *, cuttable: bool, tier: str | None = None) -> Hit:
    """What `index` has for packed `tokens`. `tier` is where new rows will go; None: nowhere.

    Where sequences are `cuttable`, a row that matches for a part of its span can be the last one.
    """
    n_tokens = len(tokens) // TOKEN_BYTES
    path = _follow(index, identity, tokens, n_tokens, tier)
    length = max(path.best)
    chain = path.chain_to(length)
    if cuttable and length < n_tokens:
        part, longer = _partial(index, path, tokens, length)
        if part is not None:
            chain, length = [*path.chain_to(part.meta.start), part], longer
    return Hit(
        chain=tuple(chain),
        length=length,
        saved_to=max(path.saved),
        exact=length == n_tokens,
        miss=None if length == n_tokens else _miss(index, identity, path, tokens, length, n_tokens),
    )


class _Path:
    """What was reached: keys by position, the best row that ends there (None at 0), and what is saved up to there."""

    def __init__(self, root: bytes) -> None:
        self.keys: dict[int, bytes] = {0: root}
        self.best: dict[int, Located | None] = {0: None}
        self.saved: set[int] = {0}

    def chain_to(self, position: int) -> list[Located]:
        """The rows up to there, from position 0."""
        chain = []
        while (row := self.best[position]) is not None:
            chain.append(row)
            position = row.meta.start
        return chain[::-1]


def _follow(index: Index, identity: Identity, tokens: bytes, n_tokens: int, tier: str | None) -> _Path:
    hasher, done = identity.hasher(), 0
    path = _Path(identity.root)
    view = memoryview(tokens)
    waiting = sorted(end for end in index.ends_after(path.keys[0]) if end <= n_tokens)
    known = set(waiting)
    while waiting:
        end = heapq.heappop(waiting)
        hasher.update(view[TOKEN_BYTES * done : TOKEN_BYTES * end])
        done = end
        key = hasher.copy().digest()
        row = index.get(key)
        if row is None or not _reach(index, path, row, end, tokens, tier):
            continue
        for later in index.ends_after(key):
            if later <= n_tokens and later not in known:
                known.add(later)
                heapq.heappush(waiting, later)
    return path


def _reach(index: Index, path: _Path, row: Row, end: int, tokens: bytes, tier: str | None) -> bool:
    """Take a row with the right key in, if the prompt leads to it; whether it does."""
    for meta in row.metas():
        if meta.end == end and path.keys.get(meta.start) == meta.parent and _matches(meta, tokens):
            path.keys[end] = row.key
            break
    else:
        return False
    copies = [
        Located(copy.meta, name, copy.nbytes)
        for name, copy in row.copies.items()
        if copy.meta.start in path.best and path.keys[copy.meta.start] == copy.meta.parent
    ]
    if copies:
        path.best[end] = min(copies, key=lambda one: (SPEED[index.books[one.tier].kind], one.nbytes))
    if tier is not None:
        copy = row.copies.get(tier)
        mine = copy.meta if copy is not None else row.reserved.get(tier)
        if mine is not None and mine.start in path.saved:
            path.saved.add(end)
    return True


def _matches(meta: RowMeta, tokens: bytes) -> bool:
    return tokens[TOKEN_BYTES * meta.start : TOKEN_BYTES * meta.end] == meta.tokens


def _partial(index: Index, path: _Path, tokens: bytes, length: int) -> tuple[Located | None, int]:
    """The row that gives most when it is cut back: it goes on from the path and matches beyond `length`."""
    found: Located | None = None
    least = length + HEAD_TOKENS
    for start in path.best:
        head = tokens[TOKEN_BYTES * start : TOKEN_BYTES * (start + HEAD_TOKENS)]
        if len(head) < TOKEN_BYTES * HEAD_TOKENS:
            continue
        for row in index.beginning_with(path.keys[start], head):
            for name, copy in row.copies.items():
                if copy.meta.parent != path.keys[start]:
                    continue
                rest = tokens[TOKEN_BYTES * start : TOKEN_BYTES * start + len(copy.meta.tokens)]
                end = start + common_tokens(copy.meta.tokens, rest)
                better = found is None or end > least or copy.nbytes < found.nbytes
                if end >= least and better:
                    found, least = Located(copy.meta, name, copy.nbytes), end
    return found, least


def common_tokens(left: bytes, right: bytes) -> int:
    """How many tokens two packed lists begin with alike."""
    low, high = 0, min(len(left), len(right))
    if left[:high] == right[:high]:
        return high // TOKEN_BYTES
    # The first difference lies in [low, high): slices are compared in C.
    while high - low > 1:
        middle = (low + high) // 2
        if left[low:middle] == right[low:middle]:
            low = middle
        else:
            high = middle
    return low // TOKEN_BYTES


def _miss(index: Index, identity: Identity, path: _Path, tokens: bytes, length: int, n_tokens: int) -> Miss:
    reached = max(path.keys)
    if reached > length:
        return Miss("saving", length)
    for key, end, why in index.lost_after(path.keys[reached]):
        if reached == length and end <= n_tokens and prefix_keys(identity, tokens, (end,))[0] == key:
            return Miss(why, length)
    after = index.some_after(path.keys[reached], COMPARED)
    if after:
        start = TOKEN_BYTES * reached
        common = max(
            common_tokens(meta.tokens, tokens[start : start + len(meta.tokens)])
            for row in after
            for meta in row.metas()
        )
        position = max(length, reached + common)
        return Miss("diverges" if position < n_tokens else "ends", position)
    if reached:
        return Miss("ends", length)
    return Miss("other_parameters" if index.knows(identity.fingerprint) else "empty", 0)
