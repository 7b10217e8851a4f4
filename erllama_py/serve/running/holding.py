"""A note beside the lock of each directory that a server holds: where the server is asked about it.

`erllama cache` reads it for a directory that it cannot open. It counts only where it names the process that has the
lock: one that was killed leaves it behind. Blocks.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

import erllama_py as erllama

MOST_BYTES = 4096


class Holder(msgspec.Struct, frozen=True, kw_only=True):
    """Who holds a directory: a process, the server in it, and what the server calls the tier."""

    pid: int
    server: str
    tier: str


class Notes:
    """The notes of one server; it has written none yet."""

    def __init__(self) -> None:
        self._paths: dict[str, Path] = {}

    def write(self, server: str, tiers: Mapping[str, erllama.TierSpec]) -> None:
        """Once the tiers run; those that have a note keep it. What cannot be written is left out: then a command has to
        be told the server."""
        for tier, spec in tiers.items():
            if tier in self._paths:
                continue
            path = self._paths[tier] = Path(str(spec.root)) / erllama.CacheDirectory.HOLDER
            note = Holder(pid=os.getpid(), server=server, tier=tier)
            with suppress(OSError):
                descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
                with open(descriptor, "wb") as file:
                    file.write(msgspec.json.encode(note))

    def remove(self) -> None:
        """Those of this process."""
        for path in self._paths.values():
            if (note := read_note(path.parent)) is not None and note.pid == os.getpid():
                with suppress(OSError):
                    path.unlink()


@contextmanager
def notes() -> Iterator[Notes]:
    """The notes of a server, removed at the end."""
    made = Notes()
    try:
        yield made
    finally:
        made.remove()


def read_note(root: Path) -> Holder | None:
    """What the note in a directory says; None without one that can be read.

    One that another user has written is none: the API key of whoever reads it goes to the server that it names.
    """
    try:
        descriptor = os.open(root / erllama.CacheDirectory.HOLDER, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with open(descriptor, "rb") as file:
            if os.fstat(descriptor).st_uid != os.geteuid():
                return None
            return msgspec.json.decode(file.read(MOST_BYTES), type=Holder)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return None
