"""CPUs shared by the engines of several processes: whatever they do and however they end, all come to the same."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys

import pytest
from helpers.project import TOP
from hypothesis import given
from hypothesis import strategies as st

from erllama_py.cpus import ThreadChoice
from erllama_py.engine import cpu_table
from erllama_py.engine.compute_threads import CpuShare, Seat, share_out
from erllama_py.engine.cpu_table import BYTES, OWN_CELLS, ROW_CELLS, ROWS, CpuTable, choices_of, packed, unpacked
from erllama_py.options.model import MAX_THREADS
from erllama_py.options.process import MOST_CPU

CPUS = 8


def choice(most: int, fixed: bool = False, cpus: int = CPUS, group: int = 0) -> ThreadChoice:
    """What an engine could use."""
    return ThreadChoice(few=most, many=most, fixed_few=fixed, fixed_many=fixed, cpus=cpus, group=group)


@given(
    st.builds(
        choice, st.integers(1, MAX_THREADS), st.booleans(), st.integers(1, MOST_CPU), st.integers(0, (1 << 16) - 1)
    )
)
def test_a_cell_says_all_that_shares_depend_on(one: ThreadChoice) -> None:
    """Packed into one number, which is written in one store."""
    assert 0 < packed(one) < 1 << 64
    assert unpacked(packed(one)) == one


class Family:
    """A parent and its children, each with a share of its own over one page, all in this process."""

    def __init__(self) -> None:
        self.parent = CpuShare()
        self.children: dict[int, CpuShare] = {}
        self.seats: list[tuple[CpuShare, Seat]] = []

    def child(self) -> CpuShare:
        lent = self.parent.lend()
        assert lent is not None
        fd, row = lent
        self.children[row] = share = CpuShare()
        share.join(fd, row)
        return share

    def dies(self, row: int) -> None:
        """Without a word: the parent clears its row."""
        gone = self.children.pop(row)
        self.seats = [(share, seat) for share, seat in self.seats if share is not gone]
        self.parent.take_back(row)

    def close(self) -> None:
        for row in [*self.children]:
            self.dies(row)
        assert self.parent._fd is None

    def granted(self) -> list[tuple[Seat, int]]:
        """What each gets at its next decode."""
        for _ in range(2):  # decodes: in the first, those that begin are not seen yet
            for share, seat in self.seats:
                share.take(seat)
        return [(seat, seat.granted) for _, seat in self.seats]


STEPS = st.lists(
    st.tuples(st.sampled_from(["child", "take", "take", "leave", "dies"]), st.integers(0, 99), st.integers(1, CPUS)),
    max_size=40,
)


@given(steps=STEPS)
def test_engines_at_work_do_not_have_more_threads_than_there_are_cpus(steps: list[tuple[str, int, int]]) -> None:
    """Of any number of processes, one thread each at least; idle ones and dead ones cost nothing."""
    family = Family()
    for what, number, most in steps:
        shares = [family.parent, *family.children.values()]
        if what == "child" and len(family.children) < ROWS:
            family.child()
        elif what == "take":
            share = shares[number % len(shares)]
            if sum(one is share for one, _ in family.seats) < ROW_CELLS:
                family.seats.append((share, Seat(choice(most))))
        elif what == "leave" and family.seats:
            share, seat = family.seats.pop(number % len(family.seats))
            share.leave(seat)
        elif what == "dies" and family.children:
            family.dies([*family.children][number % len(family.children)])
        granted = family.granted()
        assert sum(threads for _, threads in granted) <= max(CPUS, len(granted))
        assert all(1 <= threads <= seat.choice.most for seat, threads in granted)
        together = share_out([seat.choice for seat, _ in granted])
        assert sorted(threads for _, threads in granted) == sorted(together)
    family.close()


def test_an_engine_that_comes_while_others_decode_is_seen_at_their_next_decode() -> None:
    """And has its part at once."""
    family = Family()
    first, second = Seat(choice(CPUS)), Seat(choice(CPUS))
    one, other = family.child(), family.child()
    one.take(first)
    assert first.granted == CPUS
    other.take(second)
    assert second.granted == CPUS / 2
    one.take(first)
    assert first.granted == CPUS / 2
    other.leave(second)
    one.take(first)
    assert first.granted == CPUS
    family.close()


def test_engines_with_cpus_of_their_own_share_these_alone() -> None:
    """Two that were given the same, and one that was given none."""
    choices = [choice(4, cpus=4, group=7), choice(8), choice(4, cpus=4, group=7)]
    assert share_out(choices) == [2, 8, 2]


def test_there_are_more_engines_than_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    """The ones above share with nobody, and neither do children without a row."""
    share = CpuShare()
    seats = [Seat(choice(CPUS)) for _ in range(OWN_CELLS + 1)]
    for seat in seats:
        share.take(seat)
    assert [seat.granted for seat in seats] == [1] * OWN_CELLS + [CPUS]
    share.leave(seats[0])
    share.leave(seats[-1])
    share.take(seats[-1])
    assert seats[-1].granted == 1
    rows = [share.lend() for _ in range(ROWS + 1)]
    assert rows[-1] is None
    for lent in rows[:-1]:
        assert lent is not None
        share.take_back(lent[1])
    monkeypatch.setattr(os, "memfd_create", _refuses)
    assert CpuShare().lend() is None


def _refuses(*_: object) -> int:
    raise OSError


CHILD = """
import sys
sys.path.insert(0, sys.argv[1])
from erllama_py.cpus import ThreadChoice
from erllama_py.engine.compute_threads import PROCESS, Seat
PROCESS.join(int(sys.argv[2]), int(sys.argv[3]))
seat = Seat(ThreadChoice(few=8, many=8, cpus=8))
PROCESS.take(seat)
print(seat.granted, flush=True)
sys.stdin.read()
"""


@pytest.mark.slow
def test_a_child_that_is_killed_leaves_its_cpus() -> None:
    """A real one, in the middle of its work."""
    share, seat = CpuShare(), Seat(choice(CPUS))
    share.take(seat)
    lent = share.lend()
    assert lent is not None
    fd, row = lent
    command = [sys.executable, "-c", CHILD, str(TOP), str(fd), str(row)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=[fd], text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "4\n"
        share.take(seat)
        assert seat.granted == CPUS / 2
        child.kill()
        child.wait()
    share.take(seat)
    assert seat.granted == CPUS / 2
    share.take_back(row)
    share.take(seat)
    assert seat.granted == CPUS
    with pytest.raises(OSError, match="descriptor"):
        os.fstat(fd)


def test_a_page_reads_the_same_in_all_of_its_mappings() -> None:
    """And is as large as it was made."""
    fd, page = cpu_table.new_page()
    table = CpuTable().moved_to(page)
    table.write(3, packed(choice(2)))
    other = cpu_table.open_row(fd, 1)
    other.write(0, packed(choice(5)))
    assert isinstance(page, mmap.mmap)
    assert table.read() == other.read()
    assert list(choices_of(table.read())) == [3, OWN_CELLS + ROW_CELLS]
    assert len(table.read()) == BYTES
    table.empty(1)
    assert list(choices_of(other.read())) == [3]
    os.close(fd)
