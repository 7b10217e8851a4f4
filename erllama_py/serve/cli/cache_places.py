"""Where the cache lies that a command is about: a directory that nobody has open, or a tier of a running server.

A directory that a server holds is reached through that server: its note beside the lock says where, or `--server`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol
from urllib.parse import quote

import erllama_py as erllama
from erllama_py.serve.cli.cached_rows import LEAST_PREFIX
from erllama_py.serve.cli.ending import UsageError
from erllama_py.serve.cli.remote import Remote, reached
from erllama_py.serve.operations.cache import Report
from erllama_py.serve.operations.cache_rows import Checked, Freed
from erllama_py.serve.running.holding import read_note

Progress = Callable[[int, int], None]
KEYS_AT_ONCE = 5_000
GC_SECONDS = 120.0
KEY = re.compile(rf"[0-9a-f]{{{LEAST_PREFIX},64}}", re.IGNORECASE)
BESIDE = frozenset({"aside", "temp", "unknown"})  # files that have no name of a row


class Held(erllama.ErllamaError):
    """A directory that another process holds, and no server is known by which to look at it."""

    root: str
    holder: int | None

    def describe(self) -> str:
        """One sentence with the facts."""
        process = "a process" if self.holder is None else f"the process {self.holder}"
        return f"{self.root} is open in {process}, which says no address: name the server by --server, or end it"


class Place(Protocol):
    """Rows of one tier, wherever they are. All methods block."""

    name: str
    """What people call it."""

    def models(self) -> dict[str, str]:
        """Names of models by the fingerprint of their rows, as far as they are known."""

    def rows(self, progress: Progress | None) -> list[erllama.RowInfo]:
        """All rows."""

    def unsound(self) -> list[erllama.FileProblem]:
        """Files of rows that are none, by their headers, as far as they are known."""

    def verify(self, progress: Progress | None) -> list[erllama.FileProblem]:
        """What is wrong, every row read whole."""

    def remove(self, keys: Sequence[str]) -> erllama.RowsRemoved:
        """Remove rows, and all that extend them."""

    def gc(self, quota: int | None) -> erllama.RowsRemoved:
        """Remove what is of no use, and what is beyond a quota."""


class Offline:
    """A directory that nobody else has open."""

    def __init__(self, directory: erllama.CacheDirectory) -> None:
        self._directory, self.name = directory, directory.root

    def models(self) -> dict[str, str]:
        """See `Place`. A row says nothing of its model but the fingerprint."""
        return {}

    def rows(self, progress: Progress | None) -> list[erllama.RowInfo]:
        """See `Place`."""
        return self._directory.rows(progress)

    def unsound(self) -> list[erllama.FileProblem]:
        """See `Place`."""
        return [one for one in self._directory.problems() if one.kind not in BESIDE]

    def verify(self, progress: Progress | None) -> list[erllama.FileProblem]:
        """See `Place`."""
        return self._directory.verify(progress)

    def remove(self, keys: Sequence[str]) -> erllama.RowsRemoved:
        """See `Place`."""
        return self._directory.remove(keys)

    def gc(self, quota: int | None) -> erllama.RowsRemoved:
        """See `Place`."""
        return self._directory.gc(quota)


class Served:
    """A tier of a running server."""

    def __init__(self, remote: Remote, tier: str) -> None:
        self._remote, self._tier = remote, tier
        self.name = f"{tier} of {remote.name}"

    def models(self) -> dict[str, str]:
        """See `Place`: those that are loaded."""
        return report(self._remote).models

    def rows(self, progress: Progress | None) -> list[erllama.RowInfo]:
        """See `Place`."""
        lines = self._remote.lines("GET", f"/erllama/cache/rows?tier={quote(self._tier, safe='')}")
        return [self._remote.shaped(line, erllama.RowInfo) for line in lines]

    def unsound(self) -> list[erllama.FileProblem]:
        """See `Place`. A server has set them aside when it began."""
        return []

    def verify(self, progress: Progress | None) -> list[erllama.FileProblem]:
        """See `Place`. A bad row is out of the cache by then, its file set aside."""
        problems: list[erllama.FileProblem] = []
        for line in self._remote.lines("POST", "/erllama/cache/verify", {"tier": self._tier}, timeout=GC_SECONDS):
            told = self._remote.shaped(line, Checked)
            problems += told.bad
            if progress is not None:
                progress(told.done, told.total)
        return problems

    def remove(self, keys: Sequence[str]) -> erllama.RowsRemoved:
        """See `Place`."""
        done: list[erllama.RowsRemoved] = []
        for start in range(0, len(keys), KEYS_AT_ONCE):
            body = {"tier": self._tier, "keys": list(keys[start : start + KEYS_AT_ONCE])}
            done.append(self._remote.shaped(self._remote.post("/erllama/cache/remove", body), erllama.RowsRemoved))
        rows, nbytes, left = (sum(getattr(one, name) for one in done) for name in ("rows", "nbytes", "left"))
        return erllama.RowsRemoved(rows=rows, nbytes=nbytes, left=left)

    def gc(self, quota: int | None) -> erllama.RowsRemoved:
        """See `Place`. Of all tiers of the server."""
        if quota is not None:
            raise UsageError("--quota: a server keeps its tiers within the quota of its configuration")
        answer = self._remote.json("POST", "/erllama/cache/gc", timeout=GC_SECONDS)
        return erllama.RowsRemoved(rows=0, nbytes=self._remote.shaped(answer, Freed).freed, left=0)


@contextmanager
def opened(
    directory: Path | None, *, server: str | None, key: str | None, tier: str | None, said: Callable[[str], None]
) -> Iterator[Place]:
    """What a command line means. `said` gets a line where that is a server that nobody named.

    Raises `UsageError`, `Held`, and what opening a directory and asking a server raise.
    """
    if directory is None:
        if server is None and tier is None:
            raise UsageError("name the directory of a tier, or a --server")
        with reached(server, key) as remote:
            yield Served(remote, _tier_of(remote, tier))
        return
    root = directory.expanduser().absolute()
    try:
        held = erllama.CacheDirectory(root)
    except erllama.TierLocked as locked:
        with _through_server(root, locked, server, key, tier, said) as place:
            yield place
        return
    with held:
        yield Offline(held)


def without_directory(
    directory: Path | None, keys: Sequence[str], *, named: bool
) -> tuple[Path | None, tuple[str, ...]]:
    """The directory and the keys of a command line: where a server is `named` the directory may be left out, so that
    the first word is a key. What is a path, or is there, is a directory."""
    if directory is None or not named or not KEY.fullmatch(str(directory)) or directory.exists():
        return directory, tuple(keys)
    return None, (str(directory), *keys)


@contextmanager
def _through_server(
    root: Path, locked: erllama.TierLocked, server: str | None, key: str | None, tier: str | None,
    said: Callable[[str], None],
) -> Iterator[Place]:  # fmt: skip
    note = read_note(root)
    if note is not None and note.pid != locked.holder:
        note = None  # of a server that was killed
    if note is None and server is None:
        raise Held(str(root), locked.holder)
    address = server or (note.server if note is not None else None)
    if server is None:
        said(f"{root} is held by the server at {address}")
    with reached(address, key) as remote:
        yield Served(remote, tier or (note.tier if note is not None else _tier_of(remote, None)))


def report(remote: Remote) -> Report:
    """What a server says of its cache."""
    return remote.shaped(remote.get("/erllama/cache"), Report)


def _tier_of(remote: Remote, tier: str | None) -> str:
    """The tier that is meant: the only one that lies in a directory, unless it is named."""
    tiers = report(remote).tiers
    names = [one.name for one in tiers]
    if tier is not None:
        if tier not in names:
            raise UsageError(f"--tier: the server has no {tier!r}; it has {', '.join(names)}")
        return tier
    of_files = [one.name for one in tiers if one.kind != "ram"]
    if len(of_files) != 1:
        raise UsageError(f"--tier says which tier is meant: the server has {', '.join(names) or 'none'}")
    return of_files[0]
