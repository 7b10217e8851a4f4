"""The longest saved prefix of a prompt: one walk down the prefix tree of rows. Pure.

The prompt's running SHA-256 is copied at each place where a row could end, in ascending order: those are the ends of
the rows that extend what was reached already. A row is reached when its key is the prompt's key there, its parent
is reached, and its tokens are the prompt's. So everything is found that lies on the prompt's path, at whatever lengths,
and nothing that does not match it token for token.
"""

from __future__ import annotations

import heapq
from typing import Literal

import msgspec

from erllama_py.cache.index import Entry, Index
from erllama_py.cache.keys import TOKEN_BYTES, Identity, prefix_keys
from erllama_py.cache.policy import is_worth, token_seconds
from erllama_py.options.tiers import KINDS
from erllama_py.tiers.messages import RowMeta

# Of rows that give equally much when cut back, at most this many are compared for the one that is read fastest: it is a
# matter of milliseconds, and there may be thousands.
EQUALS = 16


class Located(msgspec.Struct, frozen=True):
    """A row, and the tier to read it from, where it takes `nbytes`."""

    meta: RowMeta
    tier: str
    nbytes: int


class Miss(msgspec.Struct, frozen=True):
    """Why no more was found. `position` is the first token that is not found, or that differs.

    `"empty"`: no row of this model that a chain leads to; `"other_parameters"`: only such as were made with other
    settings; `"diverges"`: what is saved goes on with another token; `"ends"`: what is saved ends there;
    `"saving"`: the next row is pending; `"evicted"`, `"bad"`: the next row was there. `"diverges"` is exact: no
    saved row that extends what was found has more in common with the prompt.
    """

    reason: Literal["empty", "other_parameters", "diverges", "ends", "saving", "evicted", "bad"]
    position: int


class Hit(msgspec.Struct, frozen=True, kw_only=True):
    """What there is for a prompt. Lengths are in tokens.

    `chain` are the rows to restore, from position 0 without a gap; the last one is to be cut back to `length` where
    that is before its end. `reached` are those and all others on the prompt's path, one for each end, in their order.
    Up to `saved_to`, a row's end, everything is stored or pending in the tier that was asked
    for: new rows continue there.
    """

    chain: tuple[Located, ...]
    reached: tuple[Located, ...] = ()
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
        chain=tuple(chain), reached=tuple(row for row in path.best.values() if row is not None), length=length,
        saved_to=max(path.saved), exact=length == n_tokens,
        miss=None if length == n_tokens else _miss(index, identity, path, tokens, length, n_tokens),
    )  # fmt: skip


def path_keys(index: Index, identity: Identity, tokens: bytes) -> list[tuple[int, bytes]]:
    """Where rows on the prompt's path end, stored and pending ones, and their keys; ascending."""
    path = _follow(index, identity, tokens, len(tokens) // TOKEN_BYTES, None)
    return sorted((end, key) for end, key in path.keys.items() if end)


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
    waiting = sorted({end for end in index.ends_after(path.keys[0]) if end <= n_tokens})
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


def _reach(index: Index, path: _Path, row: Entry, end: int, tokens: bytes, tier: str | None) -> bool:
    """Take a row with the right key in, if the prompt leads to it; whether it does."""

    def leads_to(meta: RowMeta) -> bool:
        return meta.end == end and path.keys.get(meta.start) == meta.parent and _matches(meta, tokens, end)

    if not any(leads_to(meta) for meta in row.metas()):
        return False
    path.keys[end] = row.key
    copies = [
        Located(copy.meta, name, copy.nbytes)
        for name, copy in row.copies.items()
        if copy.meta.start in path.best and leads_to(copy.meta)
    ]
    if copies:
        path.best[end] = min(copies, key=lambda one: _slowness(index, one))
    if tier is not None:
        copy, pending = row.copies.get(tier), row.reserved.get(tier)
        metas = (copy.meta if copy is not None else None, pending)
        if any(meta is not None and meta.start in path.saved and leads_to(meta) for meta in metas):
            path.saved.add(end)
    return True


def _matches(meta: RowMeta, tokens: bytes, end: int) -> bool:
    """Whether a row has the prompt's tokens up to `end`, which is not after its own."""
    return meta.tokens[: TOKEN_BYTES * (end - meta.start)] == tokens[TOKEN_BYTES * meta.start : TOKEN_BYTES * end]


def _slowness(index: Index, row: Located) -> tuple[int, int]:
    return KINDS[index.books[row.tier].kind].speed, row.nbytes


def _partial(index: Index, path: _Path, tokens: bytes, length: int) -> tuple[Located | None, int]:
    """The row that gives most when it is cut back, and where to cut it: it extends the path beyond `length`, by enough
    to be worth reading."""
    found: Located | None = None
    longest = length
    for start in path.best:
        if max(index.ends_after(path.keys[start]), default=0) <= longest:
            continue
        compared = 0
        for common, _, row in index.nearest(path.keys[start], start, tokens):
            end = start + common
            if end < longest or compared >= EQUALS:
                break
            for tier, copy in row.copies.items():
                one = Located(copy.meta, tier, copy.nbytes)
                if one.meta.parent != path.keys[start] or not _matches(one.meta, tokens, end):
                    continue
                compared += 1
                if not is_worth(end - length, token_seconds((one.meta,)), one.nbytes):
                    continue
                better = found is not None and _slowness(index, one) < _slowness(index, found)
                if end > longest or better:
                    found, longest = one, end
    return found, longest


def _miss(index: Index, identity: Identity, path: _Path, tokens: bytes, length: int, n_tokens: int) -> Miss:
    reached = max(path.keys)
    if reached > length:
        return Miss("saving", length)
    if reached == length:
        ends = sorted(end for end in index.losses.ends_after(path.keys[reached]) if end <= n_tokens)
        for key in prefix_keys(identity, tokens, ends):
            if (why := index.losses.why(key)) is not None:
                return Miss(why, length)
    position = _parting(index, path, tokens, reached)
    if position is not None and position < n_tokens:
        return Miss("diverges", position)
    if length or position is not None:  # also where the prompt ends inside of a row
        return Miss("ends", length)
    return Miss("other_parameters" if index.has_others(identity) else "empty", 0)


def _parting(index: Index, path: _Path, tokens: bytes, reached: int) -> int | None:
    """Where the row that matches furthest, beyond what was reached, goes on with another token; None if none does."""
    furthest: int | None = None
    for start, key in path.keys.items():
        if max(index.ends_after(key), default=0) <= reached:
            continue
        for common, mine, _ in index.nearest(key, start, tokens):
            position = start + common
            if position < (reached if furthest is None else furthest):
                break
            if len(mine) > TOKEN_BYTES * common:  # not a row that was reached
                furthest = position
                break
    return furthest
