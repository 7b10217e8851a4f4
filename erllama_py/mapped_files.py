"""Which processes have files mapped into their memory: the bytes of such a file are not free when it is removed."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path

PROCESSES = Path("/proc")


def mapped_by(files: Collection[str]) -> list[int]:
    """The ids of the processes that have one of these real paths mapped, as far as this system tells: Linux does, of
    the user's own processes. It blocks, some milliseconds."""
    ends = tuple(f" {file}" for file in files)
    found = []
    with suppress(OSError):
        for process in PROCESSES.iterdir():
            if process.name.isdigit() and any(line.endswith(ends) for line in _maps(process)):
                found.append(int(process.name))
    return sorted(found)


def _maps(process: Path) -> Iterator[str]:
    """The lines of what a process has mapped; none where it is not ours, or has ended."""
    with suppress(OSError), (process / "maps").open(errors="replace") as lines:
        yield from (line.rstrip("\n") for line in lines)
