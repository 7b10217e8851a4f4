"""Cells that two sequences hold in common, on both backends: each goes on as if it had computed them itself, neither
notices what becomes of the other, and they are counted once.

Numbers are compared to the last bit where llama.cpp gives the same ones: flash attention with one thread, which takes
cells in order and passes over those of other sequences; the same number of rows in each decode; and prefixes that
end on the grid of micro-batches, so that each position was computed among the same rows.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.backends import GREEDY, MEMORY, complete, make_subject
from helpers.tiny_gguf import KINDS, Kind

from erllama_py.engine.backend import Backend, BackendFailure, DecodeStatus, Slice

PROMPT = [(7 * i + i * i) % 250 for i in range(256)]
LENGTH = len(PROMPT)
SHORTER = 128  # on the grid of micro-batches (64), as is LENGTH
ONE = [(11 * i + 3) % 250 for i in range(40)]
OTHER = [(13 * i + 5) % 250 for i in range(40)]

Make = Callable[..., Backend]


@pytest.fixture(scope="module", params=["llama", "stub"])
def make(request: pytest.FixtureRequest, models: Path) -> Make:
    """A function that makes a loaded backend with full attention."""

    def loaded(kind: Kind = "dense", **context: int) -> Backend:
        sizes: dict[str, Any] = {"n_ctx": 1024, "flash_attn": True, **context}
        backend = make_subject(request.param, kind, models, **sizes)
        backend.load(lambda _done: True)
        return backend

    return loaded


@pytest.fixture
def backend(make: Make) -> Iterator[Backend]:
    """Sequence 0 holds the prompt."""
    loaded = make()
    decode(loaded, Slice(0, 0, PROMPT, False))
    yield loaded
    loaded.close()


@pytest.fixture
def fresh(make: Make) -> Iterator[Backend]:
    """Another backend of the same model, empty."""
    loaded = make()
    yield loaded
    loaded.close()


def decode(backend: Backend, *slices: Slice) -> list[bytes]:
    """One decode; the logits of those slices that have any."""
    assert backend.decode(slices) is DecodeStatus.DONE
    return [backend.logits(index) for index, part in enumerate(slices) if part.logits]


def go_on(backend: Backend, start: dict[int, int], tokens: dict[int, list[int]]) -> list[list[bytes]]:
    """Decode one token of each sequence at a time, side by side: the logits of each decode."""
    count = min(map(len, tokens.values()))
    return [
        decode(backend, *(Slice(seq_id, start[seq_id] + i, row[i : i + 1], True) for seq_id, row in tokens.items()))
        for i in range(count)
    ]


def capture(backend: Backend, seq_id: int, start: int, end: int) -> memoryview:
    payload = backend.capture(seq_id, start, end, lambda size: memoryview(bytearray(size)))
    assert payload is not None
    return payload


# --- exactness -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [SHORTER, LENGTH])
def test_a_fork_goes_on_like_a_sequence_computed_alone(backend: Backend, fresh: Backend, length: int) -> None:
    """Token by token and then in one slice, from the end of the source and from its middle: the same bits."""
    decode(fresh, Slice(0, 0, PROMPT[:length], False))
    assert backend.share(0, 1, length)
    assert backend.positions(1) == (0, length - 1)
    assert go_on(backend, {1: length}, {1: ONE}) == go_on(fresh, {0: length}, {0: ONE})
    position = length + len(ONE)
    assert decode(backend, Slice(1, position, OTHER, True)) == decode(fresh, Slice(0, position, OTHER, True))


def test_source_and_forks_side_by_side_with_the_same_tokens_give_the_same_logits(backend: Backend) -> None:
    """Three rows of one decode that read the same cells and then cells of their own."""
    for seq_id in (1, 2):
        assert backend.share(0, seq_id, LENGTH)
    for logits in go_on(backend, dict.fromkeys(range(3), LENGTH), dict.fromkeys(range(3), ONE)):
        assert logits[0] == logits[1] == logits[2]


def test_forks_side_by_side_are_as_good_as_copies(backend: Backend, make: Make) -> None:
    """Sequences that part at different places and say different things: as with cells of their own."""
    copies = make()
    decode(copies, Slice(0, 0, PROMPT, False))
    start, tokens = {0: LENGTH, 1: LENGTH, 2: SHORTER, 3: SHORTER}, {0: ONE, 1: OTHER, 2: ONE, 3: OTHER}
    for seq_id in (1, 2, 3):
        assert backend.share(0, seq_id, start[seq_id])
        assert copies.restore(seq_id, 0, start[seq_id], capture(copies, 0, 0, start[seq_id]))
    assert go_on(backend, start, tokens) == go_on(copies, start, tokens)
    copies.close()


def test_a_fork_beside_others_says_what_it_says_alone(backend: Backend, fresh: Backend) -> None:
    """Among more rows the last bits may differ, the tokens do not."""
    ends = {0: LENGTH, 1: LENGTH, 2: SHORTER, 3: SHORTER - 51}
    rest = {seq_id: ONE[seq_id : 7 * (seq_id + 1)] for seq_id in ends}
    alone = {}
    for seq_id, end in ends.items():
        alone[seq_id] = complete(fresh, seq_id, PROMPT[:end] + rest[seq_id], count=12)
        assert fresh.remove(seq_id, 0, -1)
    for seq_id in (1, 2, 3):
        assert backend.share(0, seq_id, ends[seq_id])
    said = {seq_id: list[int]() for seq_id in ends}
    sampler = backend.sampler(GREEDY, [])
    parts = [Slice(seq_id, end, rest[seq_id], True) for seq_id, end in ends.items()]
    for _ in range(12):
        decode(backend, *parts)
        for index, part in enumerate(parts):
            said[part.seq_id].append(sampler.sample(index))
        parts = [Slice(part.seq_id, part.start + len(part.tokens), said[part.seq_id][-1:], True) for part in parts]
    assert said == alone


def test_a_range_of_a_fork_is_captured_like_one_of_its_source(backend: Backend, make: Make) -> None:
    """Over the end of what is shared too; put back in another context it goes on with the same bits."""
    end = LENGTH + len(ONE)
    assert backend.share(0, 1, LENGTH)
    decode(backend, Slice(1, LENGTH, ONE, False))
    rows = [(start, stop, capture(backend, 1, start, stop)) for start, stop in ((0, SHORTER), (SHORTER, end))]
    assert rows[0][2] == capture(backend, 0, 0, SHORTER)
    elsewhere = make(n_seq_max=2)
    for start, stop, payload in rows:
        assert elsewhere.restore(1, start, stop, payload)
    assert go_on(elsewhere, {1: end}, {1: OTHER}) == go_on(backend, {1: end}, {1: OTHER})
    elsewhere.close()


def test_a_row_is_restored_after_shared_cells(backend: Backend, fresh: Backend) -> None:
    """What the cache holds beyond the common beginning goes into the fork alone."""
    payload = capture(backend, 0, SHORTER, LENGTH)
    decode(fresh, Slice(0, 0, PROMPT[:SHORTER], False))
    assert fresh.share(0, 1, SHORTER)
    assert fresh.restore(1, SHORTER, LENGTH, payload)
    assert (fresh.positions(0), fresh.positions(1)) == ((0, SHORTER - 1), (0, LENGTH - 1))
    assert go_on(fresh, {1: LENGTH}, {1: ONE}) == go_on(backend, {0: LENGTH}, {0: ONE})


# --- what becomes of the other -------------------------------------------------------------------------------


@pytest.mark.parametrize(("cut", "kept"), [(0, 1), (1, 0)])
def test_cutting_one_back_leaves_the_other_whole(backend: Backend, fresh: Backend, cut: int, kept: int) -> None:
    """Into what they share; each then goes on with tokens of its own over the same positions."""
    assert backend.share(0, 1, LENGTH)
    assert backend.remove(cut, SHORTER, -1)
    assert (backend.positions(cut), backend.positions(kept)) == ((0, SHORTER - 1), (0, LENGTH - 1))
    decode(backend, Slice(cut, SHORTER, OTHER, False))
    decode(fresh, Slice(0, 0, PROMPT, False))
    assert go_on(backend, {kept: LENGTH}, {kept: ONE}) == go_on(fresh, {0: LENGTH}, {0: ONE})
    assert fresh.remove(0, SHORTER, -1)
    decode(fresh, Slice(0, SHORTER, OTHER, False))
    position = SHORTER + len(OTHER)
    assert go_on(backend, {cut: position}, {cut: ONE}) == go_on(fresh, {0: position}, {0: ONE})


def test_a_fork_outlives_its_source(backend: Backend, fresh: Backend) -> None:
    """The source is dropped and its sequence used again; the same for a fork of the fork."""
    assert backend.share(0, 1, LENGTH)
    assert backend.remove(0, 0, -1)
    assert backend.positions(0) == (-1, -1)
    decode(backend, Slice(0, 0, OTHER, False))
    assert backend.share(1, 2, LENGTH)
    assert backend.remove(1, 0, -1)
    decode(fresh, Slice(0, 0, PROMPT, False))
    assert go_on(backend, {2: LENGTH}, {2: ONE}) == go_on(fresh, {0: LENGTH}, {0: ONE})


def test_what_the_fork_held_before_is_gone(backend: Backend) -> None:
    """More cells than it gets, and of another prompt."""
    decode(backend, Slice(1, 0, OTHER * 10, False))
    assert backend.share(0, 1, SHORTER)
    assert backend.share(0, 2, SHORTER)
    assert backend.positions(1) == (0, SHORTER - 1)
    first, second = decode(backend, Slice(1, SHORTER, ONE[:1], True), Slice(2, SHORTER, ONE[:1], True))
    assert first == second


# --- cells ---------------------------------------------------------------------------------------------------


def test_shared_cells_count_once(make: Make) -> None:
    """Beside the source all cells but its own are free, however many forks it has, and not one more."""
    backend = make(n_ctx=256, n_seq_max=4)
    decode(backend, Slice(0, 0, PROMPT[:250], False))
    for seq_id in (1, 2, 3):
        assert backend.share(0, seq_id, 250)
    decode(backend, *(Slice(seq_id, 250, ONE[:1], True) for seq_id in range(4)))
    assert backend.decode([Slice(1, 251, ONE[1:4], True)]) is DecodeStatus.NO_CELLS
    decode(backend, Slice(1, 251, ONE[1:3], True))
    assert backend.decode([Slice(2, 251, ONE[1:2], True)]) is DecodeStatus.NO_CELLS
    backend.close()


def test_a_cell_is_free_when_its_last_sequence_lets_go_of_it(make: Make) -> None:
    """By cutting back, by being dropped, by becoming the fork of another."""
    backend = make(n_ctx=256)
    decode(backend, Slice(0, 0, PROMPT, False))
    full = [Slice(3, 0, ONE[:1], False)]
    for seq_id in (1, 2):
        assert backend.share(0, seq_id, LENGTH)
    assert backend.remove(0, 0, -1)
    assert backend.remove(1, LENGTH - 1, -1)
    assert backend.decode(full) is DecodeStatus.NO_CELLS
    assert backend.share(1, 2, LENGTH - 1)
    decode(backend, *full)
    assert backend.decode([Slice(3, 1, ONE[:1], False)]) is DecodeStatus.NO_CELLS
    backend.close()


@pytest.mark.slow
def test_cells_are_never_lost_or_counted_twice_on_a_long_walk(make: Make) -> None:
    """Shares, cuts and decodes at random beside a plain account of which sequence holds which cell: the same
    answers."""
    backend, dice, n_cells = make(n_ctx=256, n_batch=64), random.Random(4), 256
    held: list[list[int]] = [[] for _ in range(4)]  # the cells of each sequence, numbered as they are first written
    written = full = 0
    for _ in range(1500):
        seq_id, source = dice.sample(range(4), 2)
        match dice.choice(["decode", "decode", "decode", "share", "cut"]):
            case "decode":
                count, start = dice.randrange(1, 65), len(held[seq_id])
                room = len(set().union(*held)) + count <= n_cells
                status = backend.decode([Slice(seq_id, start, [start % 250] * count, False)])
                assert (status is DecodeStatus.DONE) == room
                if room:
                    held[seq_id] += range(written, written + count)
                    written += count
                full += not room
            case "share" if held[source]:
                length = dice.randrange(len(held[source])) + 1
                assert backend.share(source, seq_id, length)
                held[seq_id] = held[source][:length]
            case _:
                length = dice.randrange(len(held[seq_id]) + 1)
                assert backend.remove(seq_id, length, -1)
                del held[seq_id][length:]
        assert [backend.positions(i)[1] + 1 for i in range(4)] == [len(cells) for cells in held]
    assert full > 100
    backend.close()


# --- what is refused -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [kind for kind in KINDS if MEMORY[kind] != "full"])
def test_only_full_attention_shares(make: Make, kind: Kind) -> None:
    """A window, a recurrent state and both together refuse, and both sequences are as they were."""
    backend = make(kind)
    decode(backend, Slice(0, 0, ONE, False), Slice(1, 0, OTHER[:9], False))
    before = [backend.positions(seq_id) for seq_id in (0, 1)]
    assert not backend.share(0, 1, 20)
    assert [backend.positions(seq_id) for seq_id in (0, 1)] == before
    backend.close()


@pytest.mark.parametrize(
    ("source", "seq_id", "length"),
    [(4, 1, 1), (-1, 1, 1), (0, 4, 1), (0, -1, 1), (0, 0, 1), (0, 1, LENGTH + 1), (0, 1, 0), (0, 1, -1), (2, 1, 1)],
)
def test_what_cannot_be_meant_is_a_failure(backend: Backend, source: int, seq_id: int, length: int) -> None:
    """Sequences that there are not, one and the same, more than the source holds, nothing, less than nothing."""
    with pytest.raises(BackendFailure):
        backend.share(source, seq_id, length)
