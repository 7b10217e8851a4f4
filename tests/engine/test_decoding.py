"""What is left of a decode that fails: smaller batches where cells are short, one by one where a request is the
culprit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from helpers.engine import generate
from helpers.worker import Bench
from hypothesis import given
from hypothesis import strategies as st

from erllama_py.engine.backend import BackendFailure, DecodeStatus, MemoryKind, Slice
from erllama_py.engine.decoding import Decoder, Part, Result, still_counts
from erllama_py.engine.heartbeat import Heart
from erllama_py.engine.sequence import Running

Script = Callable[[Sequence[Slice]], DecodeStatus]


class Table:
    """Requests of ten tokens in the sequences from 0, a decoder, and what it has settled."""

    def __init__(self, count: int, script: Script, memory: MemoryKind = "full") -> None:
        bench = Bench(context_opts={"n_ctx": 256, "n_batch": 64, "n_seq_max": 4}, memory=memory)
        self.backend, whole = bench.backend, bench.recorder.decode
        self.tried: list[list[int]] = []  # the tokens of each slice, for each decode

        def decode(slices: Sequence[Slice]) -> DecodeStatus:
            self.tried.append([len(part.tokens) for part in slices])
            status = script(slices)
            return whole(slices) if status is DecodeStatus.DONE else status

        bench.backend.decode = decode  # type: ignore[method-assign]  # it stands before the stub's
        jobs = [generate(n, range(n, n + 10), seq_id=n) for n in range(count)]
        self.parts = [
            Part(Running(job, bench.backend.sampler(job.sampling, job.tokens), bench.facts, 0.0), 10) for job in jobs
        ]
        self.settled: list[list[int]] = []
        self.decoder = Decoder(bench.backend, bench.facts, self._settle, Heart())

    def _settle(self, parts: Sequence[Part], slices: Sequence[Slice]) -> None:
        self.settled.append([part.running.seq_id for part in parts])
        assert [len(one.tokens) for one in slices] == [part.tokens for part in parts]
        for part in parts:
            part.running.decoded(part.tokens)

    def decode(self) -> Result:
        return self.decoder.decode(self.parts)

    def numbers(self, parts: Sequence[Part]) -> list[int]:
        return [part.running.seq_id for part in parts]


def cells(table: Table, seq_id: int) -> bytes:
    """What a sequence holds of its ten tokens."""
    return bytes(table.backend.capture(seq_id, 0, 10, lambda size: memoryview(bytearray(size))) or b"")


def fails_with(*sequences: int) -> Script:
    """A context that cannot decode these sequences."""

    def script(slices: Sequence[Slice]) -> DecodeStatus:
        if {part.seq_id for part in slices} & set(sequences):
            raise BackendFailure("broken")
        return DecodeStatus.DONE

    return script


def room_for(tokens: int) -> Script:
    """A cache that takes so many tokens a decode."""
    return lambda slices: (
        DecodeStatus.DONE if sum(len(part.tokens) for part in slices) <= tokens else DecodeStatus.NO_CELLS
    )


def test_a_decode_that_succeeds_is_settled_once() -> None:
    """All parts together."""
    table = Table(3, fails_with())
    assert table.decode() == Result(whole=True)
    assert table.settled == [[0, 1, 2]]


@pytest.mark.parametrize(
    ("room", "tried", "settled"),
    [
        (20, [[10, 10, 10, 10], [10, 10]], [[0, 1]]),
        (10, [[10, 10, 10, 10], [10, 10], [10]], [[0]]),
        (2, [[10, 10, 10, 10], [10, 10], [10], [5], [2]], [[0]]),
    ],
)
def test_a_batch_that_finds_no_cells_gets_smaller(room: int, tried: Any, settled: Any) -> None:
    """Half of the requests, then half of the tokens; those left out have their turn in the next tick."""
    table = Table(4, room_for(room))
    assert table.decode() == Result(whole=False)
    assert (table.tried, table.settled) == (tried, settled)


def test_a_request_that_finds_no_cell_for_one_token_is_stuck() -> None:
    """No other is: they were not tried."""
    table = Table(2, room_for(0))
    result = table.decode()
    assert (result.whole, table.numbers(result.stuck), result.failed) == (False, [0], ())
    assert (table.tried, table.settled) == ([[10, 10], [10], [5], [2], [1]], [])


@pytest.mark.parametrize("culprits", [(1,), (0, 2)])
def test_the_culprit_is_found_by_trying_each_alone(culprits: tuple[int, ...]) -> None:
    """The others are decoded on the way."""
    table = Table(4, fails_with(*culprits))
    result = table.decode()
    assert [(part.running.seq_id, problem) for part, problem in result.failed] == [(n, "broken") for n in culprits]
    assert table.settled == [[n] for n in range(4) if n not in culprits]


@pytest.mark.parametrize("memory", ["full", "recurrent"])
def test_a_culprit_is_found_that_fails_only_after_its_beginning(memory: MemoryKind) -> None:
    """A recurrent state is lost with the decode that fails: each is computed up to where it was, and further, alone."""

    def script(slices: Sequence[Slice]) -> DecodeStatus:
        if any(part.seq_id == 1 and part.start + len(part.tokens) > 8 for part in slices):
            raise BackendFailure("broken")
        return DecodeStatus.DONE

    table = Table(3, script, memory)
    table.parts = [Part(part.running, 6) for part in table.parts]
    assert table.decode() == Result(whole=True)
    table.parts = [Part(part.running, 4) for part in table.parts]
    assert [part.running.seq_id for part, _ in table.decode().failed] == [1]
    assert [table.parts[n].running.position for n in (0, 2)] == [10, 10]
    again = 4 if memory == "full" else 10
    assert table.tried[2:] == [[again], [again], [again]]


@pytest.mark.parametrize("count", [1, 3])
def test_a_context_that_decodes_no_request_is_broken(count: int) -> None:
    """The failure goes up; a single request cannot be shown to be the culprit."""
    with pytest.raises(BackendFailure, match="broken"):
        Table(count, fails_with(0, 1, 2)).decode()


@pytest.mark.parametrize(("memory", "left"), [("full", 6), ("recurrent", 0)])
def test_what_an_aborted_decode_has_done_counts_where_it_can(memory: MemoryKind, left: int) -> None:
    """Whole micro-batches are in; a recurrent state may have been left half-way, and nothing of it counts."""

    def script(slices: Sequence[Slice]) -> DecodeStatus:
        (part,) = slices
        table.backend._cells.append(Slice(part.seq_id, part.start, part.tokens[:6], False))
        return DecodeStatus.ABORTED

    table = Table(1, script, memory)
    assert table.decode() == Result()
    assert table.parts[0].running.position == left
    assert table.backend.positions(0)[1] == left - 1


@pytest.mark.parametrize(("memory", "again"), [("full", [6, 4, 4]), ("recurrent", [6, 10, 10])])
def test_what_a_failed_decode_has_written_is_computed_again(memory: MemoryKind, again: list[int]) -> None:
    """Whole micro-batches of it may be in the cells: nobody knows what is in them."""

    def script(slices: Sequence[Slice]) -> DecodeStatus:
        if len(slices) > 1 and table.settled:
            for part in slices:
                table.backend._cells.append(Slice(part.seq_id, part.start, [9] * 3, False))
            raise BackendFailure("broken")
        return DecodeStatus.DONE

    table = Table(2, script, memory)
    table.parts = [Part(part.running, 6) for part in table.parts]
    table.decode()
    table.parts = [Part(part.running, 4) for part in table.parts]
    assert not table.decode().failed
    assert [tried[0] for tried in table.tried] == [again[0], 4, *again[1:]]
    assert [part.running.position for part in table.parts] == [10, 10]
    undisturbed = Table(2, fails_with(), memory)
    undisturbed.decode()
    assert [cells(table, n) for n in range(2)] == [cells(undisturbed, n) for n in range(2)]


def test_what_cannot_be_cut_back_is_computed_from_its_first_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """A window has moved on with the decode that failed."""

    def script(slices: Sequence[Slice]) -> DecodeStatus:
        if len(slices) > 1 and table.settled:
            raise BackendFailure("broken")
        return DecodeStatus.DONE

    table = Table(2, script)
    table.parts = [Part(part.running, 6) for part in table.parts]
    table.decode()
    remove = table.backend.remove
    monkeypatch.setattr(table.backend, "remove", lambda seq_id, start, end: not start and remove(seq_id, start, end))
    table.parts = [Part(part.running, 4) for part in table.parts]
    assert not table.decode().failed
    assert table.tried[2:] == [[10], [10]]


@given(
    before=st.integers(0, 50), last=st.integers(-1, 80), most=st.integers(0, 80), failed=st.booleans(),
    cuttable=st.booleans(),
)  # fmt: skip
def test_what_counts_after_a_decode_that_did_not_end(
    before: int, last: int, most: int, failed: bool, cuttable: bool
) -> None:
    """Never more than is there; nothing that a failed decode has written, and nothing of a state that was changed."""
    counts = still_counts(before, last, most, failed=failed, cuttable=cuttable)
    assert 0 <= counts <= last + 1
    if failed:
        assert counts in (0, before)
    else:
        assert counts <= most or not counts
    if not cuttable:
        assert counts == 0
    elif last + 1 >= before and failed:
        assert counts == before


def test_the_last_token_of_an_aborted_decode_is_decoded_again() -> None:
    """All of it is in, but its logits are lost."""

    def script(slices: Sequence[Slice]) -> DecodeStatus:
        (part,) = slices
        table.backend._cells.append(part)
        return DecodeStatus.ABORTED

    table = Table(1, script)
    table.decode()
    assert (table.parts[0].running.position, table.backend.positions(0)) == (9, (0, 8))


def test_a_drill_fails_the_next_decode() -> None:
    """Whoever takes part in it."""
    table = Table(2, fails_with())
    table.decoder.drill = "decode"
    with pytest.raises(BackendFailure, match="told to fail"):
        table.decode()
