"""Ranges of a sequence copied out and put back, on every backend and kind of memory: going on from restored ranges
is going on from the live sequence, to the last bit, and what is no such range is refused without harm."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.backends import MEMORY, Subject, make_subject, write_on
from helpers.structures import regex
from helpers.tiny_gguf import KINDS, WINDOW

from erllama_py.engine.backend import Backend, BackendFailure, CannotCapture, DecodeStatus, Slice
from erllama_py.options.sampling import Sampling

PROMPT = [(7 * i + i * i) % 250 for i in range(330)]
ENDS = (64, 128, 192, 256, 301)  # on the grid, and one where a prompt might diverge from another
Row = tuple[int, int, memoryview]


def fresh(size: int) -> memoryview:
    """A buffer somewhat larger than was asked for, as blocks that are used again are."""
    return memoryview(bytearray(size + 100))


def decode(backend: Backend, seq_id: int, start: int, end: int) -> bytes:
    """Prefill a part of the prompt in one slice; its logits."""
    assert backend.decode([Slice(seq_id, start, PROMPT[start:end], True)]) is DecodeStatus.DONE
    return backend.logits(0)


def numbers(logits: bytes) -> list[float]:
    """What the bytes stand for."""
    return [number for (number,) in struct.iter_unpack("<f", logits)]


def capture(backend: Backend, seq_id: int, start: int, end: int) -> memoryview:
    payload = backend.capture(seq_id, start, end, fresh)
    assert payload is not None
    return payload.toreadonly()


def record(backend: Backend, seq_id: int = 0) -> tuple[list[Row], dict[int, bytes], list[int]]:
    """Prefill the prompt, capturing up to each end: the rows, the logits at each end, and 12 tokens after it all."""
    rows, logits, start = list[Row](), dict[int, bytes](), 0
    for end in ENDS:
        logits[end] = decode(backend, seq_id, start, end)
        rows.append((start, end, capture(backend, seq_id, start, end)))
        start = end
    logits[len(PROMPT)] = decode(backend, seq_id, start, len(PROMPT))
    return rows, logits, write_on(backend, seq_id, len(PROMPT), 12)


def put_back(backend: Backend, seq_id: int, rows: list[Row]) -> None:
    for start, end, payload in rows:
        assert backend.restore(seq_id, start, end, payload)
        assert backend.positions(seq_id)[1] == end - 1


@pytest.fixture
def wide(subject: Subject) -> Iterator[Backend]:
    """Another backend of the same model with a wider context and more sequences."""
    backend = subject[2](n_ctx=1024, n_seq_max=6)
    backend.load(lambda _done: True)
    yield backend
    backend.close()


# --- exactness -----------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("depth", range(1, len(ENDS) + 1))
def test_a_chain_of_ranges_goes_on_like_the_live_sequence(backend: Backend, wide: Backend, depth: int) -> None:
    """From each boundary, in another sequence and in another and wider context: bit-equal logits, the same tokens."""
    rows, logits, reply = record(backend)
    assert backend.remove(0, 0, -1)
    for target, seq_id in ((backend, 1), (wide, 5)):
        put_back(target, seq_id, rows[:depth])
        position = rows[depth - 1][1]
        for end in (*ENDS[depth:], len(PROMPT)):
            assert decode(target, seq_id, position, end) == logits[end]
            position = end
        assert write_on(target, seq_id, position, 12) == reply


@pytest.mark.parametrize("flash_attn", [False, True])
@pytest.mark.parametrize("past_grid", [0, 20])
def test_ranges_wider_than_a_window_are_exact_too(subject: Subject, flash_attn: bool, past_grid: int) -> None:
    """Each brings the window at its end; there may be a gap to what the one before it brought.

    The cells of a window come to lie elsewhere in its ring, and a sum over them is cut into vectors elsewhere. Past the
    grid of micro-batches that shows in the last bits with some builds: by 4e-6 with AVX-512 without flash attention.
    """
    backend = subject[2](n_ctx=1024, flash_attn=flash_attn)
    backend.load(lambda _done: True)
    middle, end = 2 * WINDOW + 9, 4 * WINDOW + past_grid
    decode(backend, 0, 0, middle)
    rows = [(0, middle, capture(backend, 0, 0, middle))]
    decode(backend, 0, middle, end)
    rows.append((middle, end, capture(backend, 0, middle, end)))
    logits = decode(backend, 0, end, len(PROMPT))
    reply = write_on(backend, 0, len(PROMPT), 12)
    assert backend.remove(0, 0, -1)
    put_back(backend, 3, rows)
    again = decode(backend, 3, end, len(PROMPT))
    if past_grid:
        assert numbers(again) == pytest.approx(numbers(logits), abs=1e-4)
    else:
        assert again == logits
    assert write_on(backend, 3, len(PROMPT), 12) == reply
    backend.close()


def test_a_restored_sequence_can_be_captured_from(backend: Backend, wide: Backend) -> None:
    """Ranges taken from it are worth as much as those of the sequence that was computed."""
    rows, logits, _ = record(backend)
    start, end, _ = rows[-1]
    put_back(wide, 0, rows[:-1])
    decode(wide, 0, start, end)
    again = capture(wide, 0, start, end)
    assert len(again) == len(rows[-1][2])
    assert backend.remove(0, 0, -1)
    put_back(backend, 2, [*rows[:-1], (start, end, again)])
    assert decode(backend, 2, end, len(PROMPT)) == logits[len(PROMPT)]


def test_another_live_sequence_never_notices(backend: Backend) -> None:
    """Captures from it and restores beside it leave its logits as they would have been."""
    rows, _, _ = record(backend)
    assert backend.remove(0, 0, -1)
    decode(backend, 1, 0, 64)
    expected = decode(backend, 1, 64, 100)
    assert backend.remove(1, 0, -1)
    decode(backend, 1, 0, 64)
    capture(backend, 1, 0, 64)
    put_back(backend, 2, rows[:3])
    assert not backend.restore(3, 0, 64, rows[1][2])
    assert decode(backend, 1, 64, 100) == expected


# --- what can be captured ------------------------------------------------------------------------------------


def test_where_there_is_no_buffer_nothing_is_done(backend: Backend) -> None:
    """The size is asked for once, the answer is None, and the sequence is as it was."""
    decode(backend, 0, 0, 64)
    asked: list[int] = []
    assert backend.capture(0, 0, 64, lambda size: asked.append(size)) is None
    assert len(asked) == 1
    assert backend.positions(0)[1] == 63
    payload = capture(backend, 0, 0, 64)
    assert len(payload) == asked[0]


@pytest.mark.parametrize(("start", "end"), [(0, 65), (64, 64), (10, 5), (-1, 64), (70, 80)])
def test_what_the_sequence_does_not_hold_cannot_be_captured(backend: Backend, start: int, end: int) -> None:
    """Beyond its end, nothing at all, the wrong way round, before its beginning."""
    decode(backend, 0, 0, 64)
    with pytest.raises(CannotCapture):
        backend.capture(0, start, end, fresh)
    with pytest.raises(CannotCapture):
        backend.capture(1, 0, 1, fresh)  # an empty one


def test_a_state_is_only_to_be_had_where_the_sequence_stands(subject: Subject, backend: Backend) -> None:
    """Attention's cells can be captured later, a recurrent state cannot."""
    decode(backend, 0, 0, 60)
    if subject[1] in ("full", "window"):
        capture(backend, 0, 0, 40)
    else:
        with pytest.raises(CannotCapture):
            backend.capture(0, 0, 40, fresh)


def test_a_window_that_has_moved_on_is_gone(subject: Subject) -> None:
    """It can neither be captured nor be gone back to; full attention can both."""
    backend = subject[2](n_ctx=2048, n_seq_max=1)
    backend.load(lambda _done: True)
    tokens = [i % 250 for i in range(1400)]
    for start in range(0, len(tokens), 200):
        backend.decode([Slice(0, start, tokens[start : start + 200], False)])
    if subject[1] == "full":
        capture(backend, 0, 0, 200)
        assert backend.remove(0, 200, -1)
    else:
        with pytest.raises(CannotCapture):
            backend.capture(0, 0, 200, fresh)
        assert not backend.remove(0, 200, -1)
        assert backend.positions(0)[1] == len(tokens) - 1
    backend.close()


def test_a_restored_window_is_not_cut_back_into_a_gap(subject: Subject, backend: Backend) -> None:
    """Between the windows of two restored ranges cells are missing that an earlier position looks back to."""
    if subject[1] != "window":
        pytest.skip("only a window has gaps")
    rows, position = list[Row](), 0
    for end in (2 * WINDOW, 5 * WINDOW):
        decode(backend, 0, position, end)
        rows.append((position, end, capture(backend, 0, position, end)))
        position = end
    assert backend.remove(0, 0, -1)
    put_back(backend, 1, rows)
    assert not backend.remove(1, 3 * WINDOW, -1)
    with pytest.raises(CannotCapture):
        backend.capture(1, 0, 3 * WINDOW, fresh)
    assert backend.remove(1, 5 * WINDOW, -1)  # nothing is beyond its end
    assert backend.remove(1, 0, -1)
    decode(backend, 1, 0, WINDOW)
    assert backend.positions(1) == (0, WINDOW - 1)


def test_sequences_that_requests_cannot_have_are_refused(backend: Backend) -> None:
    """The one that ranges pass through is not theirs."""
    for call in (
        lambda: backend.positions(4),
        lambda: backend.remove(4, 0, -1),
        lambda: backend.capture(4, 0, 1, fresh),
        lambda: backend.decode([Slice(4, 0, [1], True)]),
    ):
        with pytest.raises((BackendFailure, CannotCapture)):
            call()


# --- what is refused -----------------------------------------------------------------------------------------


def spoiled(payload: memoryview) -> Iterator[bytes]:
    data = bytes(payload)
    yield b""
    yield data[:7]
    yield data[:20]
    yield data[: len(data) // 2]
    yield data[:-1]
    yield data + b"\0"
    yield data + data
    yield bytes(len(data))
    yield b"\xff" * len(data)
    yield random.Random(1).randbytes(len(data))
    for word in range(2, 9):
        for value in (-1, 0, 2, 1 << 30):
            yield data[: 4 * word] + struct.pack("<i", value) + data[4 * word + 4 :]


def test_what_is_no_such_range_is_refused(backend: Backend) -> None:
    """Cut, extended, empty, random, or with a count or position changed: false, and the sequence is as it was."""
    rows, logits, _ = record(backend)
    put_back(backend, 1, rows[:1])
    original = bytes(rows[1][2])
    for data in spoiled(rows[1][2]):
        if data == original or (data[12:] == original[12:] and len(data) == len(original)):
            continue  # nothing was changed, or only what llama.cpp passes over
        accepted = backend.restore(1, 64, 128, memoryview(data))
        if accepted and backend.positions(1)[1] == 127:
            # What was changed is one of the numbers, or says nothing to a restore (whose cells they were).
            assert backend.remove(1, 0, -1)
            put_back(backend, 1, rows[:1])
        assert backend.positions(1)[1] == 63
    for start, end in ((0, 64), (64, 127), (64, 129), (63, 127), (65, 129)):
        assert not backend.restore(1, start, end, rows[1][2])
    for seq_id in (0, 1):
        assert backend.remove(seq_id, 0, -1)
    put_back(backend, 1, rows)
    assert decode(backend, 1, ENDS[-1], len(PROMPT)) == logits[len(PROMPT)]


def test_ranges_of_another_model_are_refused(subject: Subject, backend: Backend, models: Path) -> None:
    """Of another shape, that is: which model made numbers of the same shape shows in the key that they are found
    under."""
    name, memory, _ = subject
    decode(backend, 0, 0, 64)
    for kind in KINDS:
        if MEMORY[kind] == memory:
            continue
        other = make_subject(name, kind, models)
        other.load(lambda _done: True)
        decode(other, 0, 0, 64)
        assert not backend.restore(1, 0, 64, capture(other, 0, 0, 64))
        other.close()
        assert backend.positions(1) == (-1, -1)
        assert backend.positions(0)[1] == 63


def test_any_byte_of_the_header_may_be_wrong(backend: Backend) -> None:
    """Whatever it says then, the process lives, and no cell is lost."""
    rows, _, _ = record(backend)
    assert backend.remove(0, 0, -1)
    dice = random.Random(2)
    for _ in range(300):
        data = bytearray(rows[0][2])
        for _ in range(dice.randrange(1, 4)):
            data[dice.randrange(min(len(data), 8 + 64 * 12 + 60))] = dice.randrange(256)
        backend.restore(0, 0, 64, memoryview(data))
        assert backend.remove(0, 0, -1)
        assert backend.positions(0) == (-1, -1)
    put_back(backend, 0, rows)


def test_cells_can_all_be_used_after_many_captures_and_restores(subject: Subject) -> None:
    """Up to the last one; and a restore that finds too few is refused."""
    backend = subject[2](n_ctx=512)
    facts = backend.load(lambda _done: True)
    rows, _, _ = record(backend)
    assert backend.remove(0, 0, -1)
    for _ in range(5):
        for seq_id in range(1, 4):
            put_back(backend, seq_id, rows[:2])
            assert not backend.restore(seq_id, 128, 192, rows[0][2])
            assert backend.remove(seq_id, 0, -1)
    for start in range(0, facts.n_ctx, 64):
        assert backend.decode([Slice(0, start, [5] * 64, True)]) is DecodeStatus.DONE
        capture(backend, 0, start, start + 64)
    if subject[1] == "full":
        assert not backend.restore(1, 0, 64, rows[0][2])
        assert backend.positions(1) == (-1, -1)
        assert backend.decode([Slice(1, 0, [1], False)]) is DecodeStatus.NO_CELLS
    backend.close()


# --- kept logits ---------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("grammar", [None, regex("[a-z ]+")])
def test_a_draw_from_kept_logits_is_the_draw_that_the_live_ones_give(backend: Backend, grammar: str | None) -> None:
    """Over many seeds, with penalties and grammars, for draw after draw."""
    decode(backend, 0, 0, 100)
    kept = backend.logits(0)
    assert len(kept) == 4 * backend.vocabulary.n_vocab
    for seed in range(200):
        sampling = Sampling(
            grammar=grammar,
            repetition_penalty=1.0 if seed % 2 else 1.3,
            temperature=(0.0, 0.8, 1.0, 3.0)[seed % 4],
            top_k=(40, 0)[seed % 3 == 0],
            seed=seed,
        )
        one, other = backend.sampler(sampling, PROMPT[:100]), backend.sampler(sampling, PROMPT[:100])
        assert [one.sample(0) for _ in range(3)] == [other.sample_from(kept) for _ in range(3)]
        one.close()
        other.close()


def test_logits_are_of_the_slice_that_is_asked_for(backend: Backend) -> None:
    """A copy, which later decodes do not change."""
    assert backend.decode([Slice(0, 0, PROMPT[:9], True), Slice(1, 0, PROMPT[:5], True)]) is DecodeStatus.DONE
    first, second = backend.logits(0), backend.logits(1)
    assert first != second
    decode(backend, 2, 0, 30)
    with pytest.raises(BackendFailure):
        backend.logits(1)


# --- what a load finds out -----------------------------------------------------------------------------------


def test_the_size_of_a_state_is_measured_by_the_load(subject: Subject) -> None:
    """Where there is a recurrent state, each captured range carries it; the load leaves no cell taken."""
    backend = subject[2]()
    facts = backend.load(lambda _done: True)
    assert all(backend.positions(seq_id) == (-1, -1) for seq_id in range(facts.n_seq_max))
    sizes: list[int] = []
    for end in (1, 2, 3):
        decode(backend, 0, end - 1, end)
        sizes.append(len(capture(backend, 0, end - 1, end)))
    assert len(set(sizes)) == 1
    if subject[1] in ("recurrent", "hybrid"):
        assert 0 < facts.state_bytes < sizes[0]
        assert subject[:2] != ("llama", "recurrent") or facts.state_bytes == sizes[0] - 8  # but for a preamble
    else:
        assert facts.state_bytes == 0
    backend.close()


def test_an_abort_before_the_load_is_for_the_decodes_after_it(subject: Subject) -> None:
    """The load does not stumble over it."""
    backend = subject[2]()
    backend.abort(True)
    facts = backend.load(lambda _done: True)
    assert (facts.state_bytes > 0) == (subject[1] in ("recurrent", "hybrid"))
    assert backend.decode([Slice(0, 0, PROMPT, True)]) is DecodeStatus.ABORTED
    backend.close()
