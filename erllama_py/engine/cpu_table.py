"""Which engines decode now, in one page that all processes of an application see: who has the CPUs.

Each engine has a cell, written by its own process alone, in one store; whoever reads takes the whole page and compares
it with what it saw last. So nobody waits for a lock, which a process that was stopped could hold, and all come to the
same shares. A process has a row of cells, given to it by the one that began it, which empties them when it has died.
"""

from __future__ import annotations

import mmap
import os

from erllama_py.cpus import ThreadChoice

BYTES = 4096
_CELLS = BYTES // 8
OWN_CELLS = 64  # of the process that made it
ROW_CELLS = 4  # of each other: a model's engine, its companion's, and those that end meanwhile
ROWS = (_CELLS - OWN_CELLS) // ROW_CELLS

# From the lowest bit on: whether it decodes, whether its number of threads is fixed, then the numbers.
_FIXED, _MOST, _CPUS, _GROUP = 1, 2, 18, 34
_FIELD = (1 << 16) - 1


def packed(choice: ThreadChoice) -> int:
    """A cell of an engine that decodes."""
    return (
        1 | choice.is_fixed << _FIXED | min(choice.most, _FIELD) << _MOST | min(choice.cpus, _FIELD) << _CPUS
        | (choice.group & _FIELD) << _GROUP
    )  # fmt: skip


def unpacked(cell: int) -> ThreadChoice:
    """What a cell says of its engine."""
    most, fixed = cell >> _MOST & _FIELD, bool(cell >> _FIXED & 1)
    return ThreadChoice(
        few=most,
        many=most,
        fixed_few=fixed,
        fixed_many=fixed,
        cpus=cell >> _CPUS & _FIELD,
        group=cell >> _GROUP & _FIELD,
    )


class CpuTable:
    """The page as one process sees it, and its own row of cells."""

    def __init__(self, page: bytearray | mmap.mmap | None = None, first: int = 0, count: int = OWN_CELLS) -> None:
        self._page = bytearray(BYTES) if page is None else page
        self._cells = memoryview(self._page).cast("Q")
        self.first, self.count = first, count

    def __repr__(self) -> str:
        return f"<CpuTable of cells {self.first} to {self.first + self.count - 1}>"

    def write(self, place: int, cell: int) -> None:
        """One of this process's cells; 0 for an engine that does not decode."""
        assert 0 <= place < self.count
        self._cells[self.first + place] = cell

    def read(self) -> bytes:
        """The page as it is now: equal pages say the same."""
        return self._cells.tobytes()

    def moved_to(self, page: bytearray | mmap.mmap) -> CpuTable:
        """The same, in another page. This one is not to be used any more."""
        page[:BYTES] = self.read()
        self._cells.release()
        if isinstance(self._page, mmap.mmap):
            self._page.close()  # it holds a descriptor of its own
        return CpuTable(page, self.first, self.count)

    def empty(self, row: int) -> None:
        """No engine of that row decodes any more: its process has ended."""
        begin = OWN_CELLS + row * ROW_CELLS
        for number in range(begin, begin + ROW_CELLS):
            self._cells[number] = 0


def cells_of(page: bytes) -> list[int]:
    """The number of each cell of an engine that decodes."""
    found = memoryview(page).cast("Q")
    return [number for number in range(_CELLS) if found[number]]


def choices_of(page: bytes) -> dict[int, ThreadChoice]:
    """What decodes, by the number of its cell."""
    found = memoryview(page).cast("Q")
    return {number: unpacked(found[number]) for number in cells_of(page)}


def new_page() -> tuple[int, mmap.mmap]:
    """A page in memory without a name, which others can map by the descriptor. Raises `OSError`."""
    fd = os.memfd_create("erllama-cpus", os.MFD_CLOEXEC)
    try:
        os.ftruncate(fd, BYTES)
        return fd, mmap.mmap(fd, BYTES)
    except BaseException:
        os.close(fd)
        raise


def open_row(fd: int, row: int) -> CpuTable:
    """The table of a process that was given a row, from the page's descriptor. Raises `OSError`."""
    return CpuTable(mmap.mmap(fd, BYTES), OWN_CELLS + row * ROW_CELLS, ROW_CELLS)
