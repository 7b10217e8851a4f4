"""The files of a batch of the command line, what its journal says, and what it comes to."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import msgspec


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """What a batch came to, and what `--json` prints."""

    status: str
    total: int
    completed: int
    failed: int
    output: str | None = None
    errors: str | None = None
    """The file of the lines that failed; None where none has."""
    problems: tuple[str, ...] = ()
    """Why the file is no batch."""


class Files(msgspec.Struct, frozen=True):
    """The input, and what lies beside the output."""

    input: Path
    output: Path

    @property
    def errors(self) -> Path:
        """The lines that failed."""
        return self.output.with_name(f"{self.output.stem}.errors{self.output.suffix}")

    @property
    def journal(self) -> Path:
        """How far it is, until it is over."""
        return self.output.with_name(f"{self.output.name}.journal")

    @property
    def index(self) -> Path:
        """Where each line of the input lies, until it is over."""
        return self.output.with_name(f"{self.output.name}.index")

    def written(self) -> tuple[Path, ...]:
        """All that is made of it."""
        return self.output, self.errors, self.journal, self.index


class There(msgspec.Struct, frozen=True, kw_only=True):
    """What the journal of a batch at a server says: which one it is, and where."""

    server: str
    digest: str
    """Of the input."""
    file: str
    """The input, by its id there."""
    batch: str | None = None
    """None where only the file is there so far."""
    fetched: Summary | None = None
    """What it came to, once the answers are here; what it left at the server is to be deleted."""
    left: tuple[str, ...] = ()
    """That, by the ids of its files."""


Show = Callable[[int, int, int, str], None]
"""Told how many lines went well and failed, of how many; and what holds them up, mostly nothing."""


def digest_of(path: Path) -> str:
    """By which a file is known again. Raises `OSError`."""
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
