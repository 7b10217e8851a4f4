"""How many cells sequences take: a count of blocks against one that gives every cell a name."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from erllama_py.scheduler.cells import Piece, Pieces, count, cut, grown, written

N_SEQUENCES = 4


class NamedCells:
    """Sequences as sets of cells with names, beside the same sequences in pieces. What is shared has one name."""

    def __init__(self) -> None:
        self.named: list[list[int]] = [[] for _ in range(N_SEQUENCES)]
        self.pieces: list[Pieces] = [()] * N_SEQUENCES
        self.at_work = [False] * N_SEQUENCES
        self.names, self.blocks = itertools.count(), itertools.count(1)

    def begin(self, seq_id: int, source: int, keep: int, more: int) -> None:
        """A request begins with `keep` cells of a sequence, maybe its own, and is given some more."""
        keep = min(keep, len(self.named[source]))
        self.named[seq_id] = self.named[source][:keep] + self.fresh(more)
        self.pieces[seq_id] = written(self.pieces[source], keep, keep + more, next(self.blocks))
        self.at_work[seq_id] = True

    def grow(self, seq_id: int, more: int) -> None:
        """A request is given more cells."""
        if self.at_work[seq_id]:
            self.named[seq_id] = self.named[seq_id] + self.fresh(more)
            self.pieces[seq_id] = grown(self.pieces[seq_id], len(self.named[seq_id]))

    def rest(self, seq_id: int, length: int) -> None:
        """It is over, and keeps what it has used; 0 drops all."""
        self.named[seq_id] = self.named[seq_id][:length]
        self.pieces[seq_id] = cut(self.pieces[seq_id], length)
        self.at_work[seq_id] = False

    def fresh(self, n: int) -> list[int]:
        return list(itertools.islice(self.names, n))


sequences, lengths = st.integers(0, N_SEQUENCES - 1), st.integers(0, 12)
begins = st.tuples(st.just("begin"), sequences, sequences, lengths, lengths)
grows = st.tuples(st.just("grow"), sequences, lengths)
rests = st.tuples(st.just("rest"), sequences, lengths)


@given(st.lists(begins | grows | rests, max_size=40))
def test_cells_are_counted_as_if_each_had_a_name(steps: list[tuple[str, int]]) -> None:
    """However often beginnings are shared, cut and extended, and whichever goes first."""
    cells = NamedCells()
    for name, *arguments in steps:
        getattr(cells, name)(*arguments)
        assert count(cells.pieces) == len(set().union(*cells.named))
        assert [count([pieces]) for pieces in cells.pieces] == [len(names) for names in cells.named]


@st.composite
def piece_rows(draw: st.DrawFn) -> Pieces:
    """One sequence, as those of a machine are: blocks ascend, pieces may be empty."""
    ends = sorted(draw(st.lists(st.integers(0, 40), max_size=5)))
    return tuple(Piece(block, end) for block, end in enumerate(ends))


@given(piece_rows(), st.integers(0, 50), st.integers(0, 50))
def test_to_cut_twice_is_to_cut_at_the_shorter(pieces: Pieces, left: int, right: int) -> None:
    """And nothing is added by a cut beyond the end."""
    assert count([cut(pieces, left)]) == min(left, count([pieces]))
    assert count([cut(cut(pieces, left), right)]) == count([cut(pieces, min(left, right))])


@given(piece_rows(), st.integers(0, 50))
def test_a_beginning_beside_its_sequence_takes_no_cells(pieces: Pieces, length: int) -> None:
    """It is the same cells."""
    assert count([pieces, cut(pieces, length)]) == count([pieces])


def test_what_two_write_after_a_shared_beginning_is_counted_for_each() -> None:
    """A prompt of 100, two replies of 20 and 30."""
    first = written((), 0, 120, 1)
    second = written(first, 100, 130, 2)
    assert (first, second) == ((Piece(1, 120),), (Piece(1, 100), Piece(2, 130)))
    assert count([first, second]) == 150


def test_a_beginning_stays_for_as_long_as_one_shares_it() -> None:
    """The request that wrote it may be gone; the rest of the block goes with it."""
    first = written((), 0, 120, 1)
    second = written(first, 100, 130, 2)
    assert count([second]) == 130
    assert count([cut(first, 50), second]) == 130


def test_a_request_that_writes_after_a_cut_has_a_block_of_its_own() -> None:
    """Else its new cells would be taken for those that another still shares."""
    first = written((), 0, 100, 1)
    second = written(first, 80, 80, 2)
    again = written(first, 50, 100, 3)
    assert count([second, again]) == 80 + 50


def test_what_is_granted_and_not_yet_written_is_the_writers_own() -> None:
    """An empty piece too: the cells that it grows by belong to no other."""
    base = written((), 0, 100, 1)
    left, right = written(base, 100, 100, 2), written(base, 100, 100, 3)
    assert count([base, left, right]) == 100
    assert count([base, grown(left, 110), grown(right, 120)]) == 130


@pytest.mark.parametrize("sequences", [[], [()], [(), ()]])
def test_nothing_takes_nothing(sequences: list[Pieces]) -> None:
    """No sequences, or empty ones."""
    assert count(sequences) == 0
