"""The longest saved prefix of a prompt: one walk down the prefix tree of rows. Pure.

The rows that extend what was reached are found by their tokens, in whose order they stand. Where they end, in ascending
order, the prompt's running SHA-256 is copied. A row is reached when its key is the prompt's key there, its parent is
reached, and its tokens are the prompt's. So everything is found that lies on the prompt's path, at whatever lengths,
and nothing that does not match it token for token.

It is done in steps (`steps`): a prompt can have tens of thousands of rows on its path, or beside it.
"""

from __future__ import annotations

import heapq
from typing import Literal

import msgspec

from erllama_py.cache.index import Entry, Index
from erllama_py.cache.keys import TOKEN_BYTES, Identity
from erllama_py.cache.policy import is_worth, token_seconds
from erllama_py.cache.steps import CHUNK, HASHED, Steps, run
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
    for: new rows continue there. `saved` are all such ends, ascending, each with
    where its row begins; 0 is one.
    """

    chain: tuple[Located, ...]
    reached: tuple[Located, ...] = ()
    length: int
    saved_to: int
    saved: tuple[tuple[int, int], ...] = ()
    exact: bool
    miss: Miss | None


def walk(index: Index, identity: Identity, tokens: bytes, *, cuttable: bool, tier: str | None = None) -> Hit:
    """What `index` has for packed `tokens`. `tier` is where new rows will go; None: nowhere.

    Where sequences are `cuttable`, a row that matches for a part of its span can be the last one.
    """
    return run(walk_steps(index, identity, tokens, cuttable=cuttable, tier=tier))[0]


def walk_steps(
    index: Index, identity: Identity, tokens: bytes, *, cuttable: bool, tier: str | None = None
) -> Steps[tuple[Hit, Path]]:
    """The same in steps, and the path. The index must not change between two of them."""
    n_tokens = len(tokens) // TOKEN_BYTES
    path = yield from _follow(index, identity, tokens, n_tokens, tier)
    length = max(path.best)
    chain = path.chain_to(length)
    yield len(chain) // 8
    if cuttable and length < n_tokens:
        part, longer = yield from _partial(index, path, tokens, length)
        if part is not None:
            chain, length = [*path.chain_to(part.meta.start), part], longer
    miss = None if length == n_tokens else (yield from _miss(index, identity, path, tokens, length, n_tokens))
    hit = Hit(
        chain=tuple(chain), reached=tuple(row for row in path.best.values() if row is not None), length=length,
        saved_to=max(path.saved), saved=tuple(sorted(path.saved.items())), exact=length == n_tokens, miss=miss,
    )  # fmt: skip
    yield len(hit.reached) // 8
    return hit, path


class Path:
    """What was reached: keys by position, the best row that ends there (None at 0), and what is saved up to
    there, with where its row begins."""

    def __init__(self, root: bytes) -> None:
        self.keys: dict[int, bytes] = {0: root}
        self.best: dict[int, Located | None] = {0: None}
        self.saved: dict[int, int] = {0: 0}

    def chain_to(self, position: int) -> list[Located]:
        """The rows up to there, from position 0."""
        chain = []
        while (row := self.best[position]) is not None:
            chain.append(row)
            position = row.meta.start
        return chain[::-1]

    def ends(self) -> list[tuple[int, bytes]]:
        """Where rows end, stored and pending ones, and their keys; ascending."""
        return [(end, key) for end, key in self.keys.items() if end]


def _follow(index: Index, identity: Identity, tokens: bytes, n_tokens: int, tier: str | None) -> Steps[Path]:
    """Down the tree. Only where a row ends whose tokens are the prompt's is the prompt's key made."""
    hasher, done = identity.hasher(), 0
    path = Path(identity.root)
    view = memoryview(tokens)
    waiting, known, steps = [0], {0}, 0
    while waiting:
        end = heapq.heappop(waiting)
        hasher.update(view[TOKEN_BYTES * done : TOKEN_BYTES * end])
        steps += 1 + (end - done) * TOKEN_BYTES // HASHED
        done = end
        key = hasher.copy().digest()
        if end and ((row := index.get(key)) is None or not _reach(index, path, row, end, tokens, tier)):
            continue
        for child in index.on_path(key, end, tokens):
            steps += 1
            if child is not None and child.end not in known:
                known.add(child.end)
                heapq.heappush(waiting, child.end)
            if steps >= CHUNK:
                yield steps
                steps = 0
    yield steps
    return path


def _reach(index: Index, path: Path, row: Entry, end: int, tokens: bytes, tier: str | None) -> bool:
    """Take a row with the right key in, if the prompt leads to it; whether it does."""
    best: Located | None = None
    reached = False
    for name, copy in row.copies.items():
        if not _leads_to(path, copy.meta, end, tokens):
            continue
        reached = True
        if copy.meta.start in path.best:
            one = Located(copy.meta, name, copy.nbytes)
            if best is None or _slowness(index, one) < _slowness(index, best):
                best = one
        if name == tier and copy.meta.start in path.saved:
            path.saved[end] = copy.meta.start
    for name, meta in row.reserved.items():
        if not _leads_to(path, meta, end, tokens):
            continue
        reached = True
        if name == tier and meta.start in path.saved:
            path.saved[end] = meta.start
    if reached:
        path.keys[end] = row.key
    if best is not None:
        path.best[end] = best
    return reached


def _leads_to(path: Path, meta: RowMeta, end: int, tokens: bytes) -> bool:
    return meta.end == end and path.keys.get(meta.start) == meta.parent and _matches(meta, tokens, end)


def _matches(meta: RowMeta, tokens: bytes, end: int) -> bool:
    """Whether a row has the prompt's tokens up to `end`, which is not after its own."""
    return meta.tokens[: TOKEN_BYTES * (end - meta.start)] == tokens[TOKEN_BYTES * meta.start : TOKEN_BYTES * end]


def _slowness(index: Index, row: Located) -> tuple[int, int]:
    return KINDS[index.books[row.tier].kind].speed, row.nbytes


def _partial(index: Index, path: Path, tokens: bytes, length: int) -> Steps[tuple[Located | None, int]]:
    """The row that gives most when it is cut back, and where to cut it: it extends the path beyond `length`, by enough
    to be worth reading."""
    found: Located | None = None
    longest, steps = length, 0
    for start in path.best:
        steps += 1
        if steps >= CHUNK:
            yield steps
            steps = 0
        if index.furthest(path.keys[start], start) <= longest:
            continue
        compared = 0
        for common, _, row in index.nearest(path.keys[start], start, tokens):
            steps += 1
            end = start + common
            if end < longest or compared >= EQUALS:
                break
            compared += 1
            for tier, copy in row.copies.items():
                one = Located(copy.meta, tier, copy.nbytes)
                if one.meta.parent != path.keys[start] or not _matches(one.meta, tokens, end):
                    continue
                if not is_worth(end - length, token_seconds((one.meta,)), one.nbytes):
                    continue
                better = found is not None and _slowness(index, one) < _slowness(index, found)
                if end > longest or better:
                    found, longest = one, end
    yield steps
    return found, longest


def _miss(index: Index, identity: Identity, path: Path, tokens: bytes, length: int, n_tokens: int) -> Steps[Miss]:
    reached = max(path.keys)
    if reached > length:
        return Miss("saving", length)
    if reached == length:
        ends = sorted(end for end in index.losses.ends_after(path.keys[reached]) if end <= n_tokens)
        yield len(ends) // 8
        hasher, done = identity.hasher(), 0
        view = memoryview(tokens)
        for end in ends:
            hasher.update(view[TOKEN_BYTES * done : TOKEN_BYTES * end])
            if (why := index.losses.why(hasher.copy().digest())) is not None:
                return Miss(why, length)
            yield 1 + (end - done) * TOKEN_BYTES // HASHED
            done = end
    position = yield from _parting(index, path, tokens, reached)
    if position is not None and position < n_tokens:
        return Miss("diverges", position)
    if length or position is not None:  # also where the prompt ends inside of a row
        return Miss("ends", length)
    return Miss("other_parameters" if index.has_others(identity) else "empty", 0)


def _parting(index: Index, path: Path, tokens: bytes, reached: int) -> Steps[int | None]:
    """Where the row that matches furthest, beyond what was reached, goes on with another token; None if none does."""
    furthest: int | None = None
    steps = 0
    for start, key in path.keys.items():
        steps += 1
        if steps >= CHUNK:
            yield steps
            steps = 0
        if index.furthest(key, start) <= reached:
            continue
        for common, mine, _ in index.nearest(key, start, tokens):
            steps += 1
            position = start + common
            if position < (reached if furthest is None else furthest):
                break
            if len(mine) > TOKEN_BYTES * common:  # not a row that was reached
                furthest = position
                break
            if steps >= CHUNK:
                yield steps
                steps = 0
    yield steps
    return furthest
