"""What is known of the directory of a tier that is looked at from outside, and of rows that are removed on request."""

from __future__ import annotations

from typing import Literal

from erllama_py.results.plain import Result

FileProblemKind = Literal[
    "foreign", "version", "torn", "flipped", "renamed", "unreadable", "orphan", "aside", "temp", "unknown"
]


class FileProblem(Result, frozen=True, kw_only=True):
    """A file in a tier's directory that is no row that can be served."""

    name: str
    """Its path below the directory."""
    kind: FileProblemKind
    """`foreign`: under a row's name, and no row; `version`: a row in another version of the format; `torn`: shorter or
    longer than it says; `flipped`: a checksum does not hold; `renamed`: another row than its name says; `unreadable`:
    the device gives an error; `orphan`: the row that it extends is gone; `aside`: it was bad, and a tier has set it
    aside; `temp`: of a writer that was killed; `unknown`: written by somebody else."""
    problem: str
    """The same in words, with the facts."""
    nbytes: int
    """What it takes of the quota."""


class RowsRemoved(Result, frozen=True, kw_only=True):
    """What came of a removal."""

    rows: int
    """Rows that are gone, those that extended others among them."""
    nbytes: int
    """The bytes that they took of the quota."""
    left: int
    """Rows that are still there: they are in use, or their files cannot be removed."""
