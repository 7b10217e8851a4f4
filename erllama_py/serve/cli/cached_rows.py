"""Rows of the cache as commands look at them: summed up, chosen, and followed from one to the next."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence

import msgspec

import erllama_py as erllama

LEAST_PREFIX = 4  # hex digits by which a row, or a model, is named
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
UNITS = {"": 1, "b": 1, "k": 1000, "m": 1000**2, "g": 1000**3, "t": 1000**4}
BINARY = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


class NotChosen(ValueError):
    """What was asked for names no row, or not one; its text is what is shown."""


class Group(msgspec.Struct, kw_only=True):
    """The rows of one model in one tier, summed up. Sizes are in bytes, times in unix seconds."""

    tier: str
    fingerprint: str
    model: str | None
    """The name of a loaded model that has this fingerprint."""
    build: str
    rows: int = 0
    tokens: int = 0
    nbytes: int = 0
    hits: int = 0
    created_at: float = 0.0
    """When the first was saved."""
    used_at: float = 0.0
    """When one was last read or saved."""


class Chain(msgspec.Struct, frozen=True, kw_only=True):
    """A row, all that it extends, and what extends it."""

    row: erllama.RowInfo
    before: tuple[erllama.RowInfo, ...]
    """From the beginning of the prompt up to it."""
    is_whole: bool
    """Whether they lead to the beginning: else the row cannot be found."""
    children: tuple[erllama.RowInfo, ...]
    """The rows that extend it."""
    below: int
    """How many extend it in total, those that extend its children among them."""
    below_bytes: int
    """What these take."""


def grouped(rows: Iterable[erllama.RowInfo], models: Mapping[str, str]) -> list[Group]:
    """Rows by tier and model, the largest first; `models` are names by fingerprint."""
    groups: dict[tuple[str, str, str], Group] = {}
    for row in rows:
        key = (row.tier, row.fingerprint, row.build)
        if (group := groups.get(key)) is None:
            group = groups[key] = Group(
                tier=row.tier, fingerprint=row.fingerprint, model=models.get(row.fingerprint), build=row.build,
                created_at=row.created_at,
            )  # fmt: skip
        group.rows += 1
        group.tokens += row.end - row.start
        group.nbytes += row.nbytes
        group.hits += row.hits
        group.created_at = min(group.created_at, row.created_at)
        group.used_at = max(group.used_at, row.used_at)
    return sorted(groups.values(), key=lambda group: (-group.nbytes, group.tier, group.fingerprint, group.build))


def found(rows: Sequence[erllama.RowInfo], key: str) -> erllama.RowInfo:
    """The row whose key begins so. Raises `NotChosen`."""
    wanted = key.lower()
    if not re.fullmatch(rf"[0-9a-f]{{{LEAST_PREFIX},64}}", wanted):
        raise NotChosen(f"{key!r} is no key: {LEAST_PREFIX} to 64 hex digits")
    fitting = {row.key: row for row in rows if row.key.startswith(wanted)}
    if not fitting:
        raise NotChosen(f"there is no row {key}")
    if len(fitting) > 1:
        raise NotChosen(f"{len(fitting)} rows begin with {key}: give more of the key")
    return next(iter(fitting.values()))


def chain_of(rows: Sequence[erllama.RowInfo], row: erllama.RowInfo) -> Chain:
    """What a row extends, and what extends it, in its tier."""
    mine = [one for one in rows if one.tier == row.tier]
    by_key = {one.key: one for one in mine}
    before: list[erllama.RowInfo] = []
    first = row
    while first.start and (parent := by_key.get(first.parent)) is not None and parent.end == first.start:
        before.append(parent)
        first = parent
    below = extending(mine, [row.key])
    children = tuple(one for one in below if one.parent == row.key and one.start == row.end)
    return Chain(
        row=row, before=tuple(reversed(before)), is_whole=first.start == 0, children=children, below=len(below),
        below_bytes=sum(one.nbytes for one in below),
    )  # fmt: skip


def extending(rows: Sequence[erllama.RowInfo], keys: Iterable[str]) -> list[erllama.RowInfo]:
    """The rows of one tier that extend those with these keys, by whatever number of steps; without these."""
    children: dict[tuple[str, int], list[erllama.RowInfo]] = {}
    for row in rows:
        if row.start:
            children.setdefault((row.parent, row.start), []).append(row)
    given = set(keys)
    seen, open_ = set(given), [row for row in rows if row.key in given]
    below: list[erllama.RowInfo] = []
    while open_:
        row = open_.pop()
        for child in children.get((row.key, row.end), ()):
            if child.key not in seen:
                seen.add(child.key)
                below.append(child)
                open_.append(child)
    return below


def chosen(
    rows: Sequence[erllama.RowInfo], *, keys: Collection[str] = (), model: str | None = None,
    unused_since: float | None = None, models: Mapping[str, str],
) -> list[erllama.RowInfo]:  # fmt: skip
    """The rows that all of what is given names; all of them where nothing is. Raises `NotChosen`.

    `model` is a name among `models`, by fingerprint, or how a fingerprint begins. A row that is read less often than
    one that extends it counts as used when that was: it is needed there.
    """
    picked = list(rows)
    if keys:
        named = {found(rows, key).key for key in keys}
        picked = [row for row in picked if row.key in named]
    if model is not None:
        prints = _fingerprints(rows, model, models)
        picked = [row for row in picked if row.fingerprint in prints]
    if unused_since is not None:
        used = _last_uses(rows)
        picked = [row for row in picked if used[row.tier, row.key] < unused_since]
    return picked


def _fingerprints(rows: Sequence[erllama.RowInfo], model: str, models: Mapping[str, str]) -> set[str]:
    named = {fingerprint for fingerprint, name in models.items() if name == model}
    known = {row.fingerprint for row in rows}
    if not named and re.fullmatch(rf"[0-9a-fA-F]{{{LEAST_PREFIX},64}}", model):
        named = {one for one in known if one.startswith(model.lower())}
        if len(named) > 1:
            raise NotChosen(f"{len(named)} models have fingerprints that begin with {model}: give more of it")
    if not named & known:
        names = sorted({models.get(one, one[:12]) for one in known})
        raise NotChosen(f"there are no rows of {model!r}; there are some of {', '.join(names) or 'no model'}")
    return named


def _last_uses(rows: Sequence[erllama.RowInfo]) -> dict[tuple[str, str], float]:
    """When each row was last used, by itself or for one that extends it."""
    used = {(row.tier, row.key): max(row.used_at, row.created_at) for row in rows}
    # The longest prefixes first: a row's own children have told it what they know when it tells its parent.
    for row in sorted(rows, key=lambda row: -row.end):
        parent = (row.tier, row.parent)
        if row.start and parent in used:
            used[parent] = max(used[parent], used[row.tier, row.key])
    return used


def parse_age(text: str) -> float:
    """Seconds of `"30d"`, `"12h"`, `"90m"`, `"45s"`, `"2w"`. Raises `NotChosen`."""
    match = re.fullmatch(r"(\d{1,9}(?:\.\d+)?)([smhdw])", text.strip().lower(), re.ASCII)
    if match is None:
        raise NotChosen(f"{text!r} is no age, such as 30d, 12h or 90m")
    return float(match[1]) * SECONDS[match[2]]


def parse_size(text: str) -> int:
    """Bytes of `"20GiB"`, `"500MB"`, `"1048576"`. Raises `NotChosen`."""
    match = re.fullmatch(r"(\d{1,15}(?:\.\d+)?)\s*([kmgt]?)(i?b?)", text.strip().lower(), re.ASCII)
    if match is None or (not match[2] and match[3].startswith("i")):
        raise NotChosen(f"{text!r} is no size, such as 20GiB or 500MB")
    unit = BINARY[match[2]] if match[3].startswith("i") else UNITS[match[2]]
    return int(float(match[1]) * unit)
