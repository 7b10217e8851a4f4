"""Sequences at rest whose first cells others take: what is told of them."""

from __future__ import annotations

from typing import Any

from helpers.engine import generate
from helpers.worker import bench, prompt

from erllama_py.engine.jobs import Finished, NotHeld
from erllama_py.engine.resting import Resting
from erllama_py.engine.stub_cells import StubCells
from erllama_py.options.model import StubOpts


class Firsts(StubCells):
    """Cells that tell as positions what a test says."""

    def __init__(self) -> None:
        super().__init__(StubOpts(), 64, 16, 4)
        self.firsts = {0: 10, 1: 20}

    def positions(self, seq_id: int) -> tuple[int, int]:
        first = self.firsts[seq_id]
        return first, max(first, 40)


def test_what_was_lost_is_told_once() -> None:
    """Of sequences that are in use again, or empty, nothing is."""
    cells: Any = Firsts()
    resting = Resting(cells, forgets=True)
    resting.left(0, 10)
    resting.left(1, 20)
    assert resting.forgot(set()) == []
    cells.firsts[0] = 15
    assert [(one.seq_id, one.first) for one in resting.forgot(set())] == [(0, 15)]
    assert resting.forgot({1}) == []
    cells.firsts |= {0: -1, 1: 30}
    assert resting.forgot(set()) == []
    cells.firsts[0] = 18
    assert resting.forgot(set()) == []


def test_other_memories_lose_nothing() -> None:
    """Their cells are not looked at."""
    cells: Any = Firsts()
    resting = Resting(cells, forgets=False)
    resting.left(3, 0)
    assert resting.forgot(set()) == []


def test_a_request_that_finds_less_than_it_should_says_so() -> None:
    """It is computed from its first token on."""
    many = bench()
    many.do(generate(1, prompt(1, 40), keep=30, max_new_tokens=2))
    many.run()
    assert many.of(NotHeld) == [NotHeld(1)]
    end = many.ended(1)
    assert isinstance(end, Finished)
    assert end.prefill_tokens == 40
