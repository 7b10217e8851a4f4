"""What was found out once, in a folder of small JSON files. Blocks; whatever fails here, nothing is remembered.

An entry is believed only for the very `key` that it was stored with: a name may come with another one each time, so
that an entry that is out of date is replaced, and does not stay.
"""

from __future__ import annotations

import hashlib
import itertools
import os
from contextlib import suppress
from pathlib import Path

import msgspec

_MOST_BYTES = 64 << 10
_numbers = itertools.count(1)  # of temporary files: no two of a process are the same


class Found(msgspec.Struct, frozen=True):
    """What is stored: for which `key`, and what was wrong; None where nothing was."""

    key: str
    problem: str | None = None


def digest(*parts: object) -> str:
    """A name for these facts. Pure."""
    text = msgspec.json.encode([str(part).encode(errors="surrogateescape").hex() for part in parts])
    return hashlib.sha256(text).hexdigest()[:32]


def recall(folder: Path, name: str, key: str) -> Found | None:
    """What was found, if it was of this very key. A torn or foreign entry counts as none."""
    try:
        # Not waited for, where it is a pipe; not followed, where it is a link.
        descriptor = os.open(folder / f"{name}.json", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:
            found = msgspec.json.decode(file.read(_MOST_BYTES) or b"", type=Found)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return None
    return found if found.key == key else None


def store(folder: Path, name: str, found: Found) -> None:
    """Remember, whole or not at all."""
    temporary = folder / f"{name}.{os.getpid()}-{next(_numbers)}.tmp"
    with suppress(OSError):
        os.makedirs(folder, mode=0o700, exist_ok=True)
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with open(descriptor, "wb") as file:
                file.write(msgspec.json.encode(found))
            os.replace(temporary, folder / f"{name}.json")
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary)
            raise
