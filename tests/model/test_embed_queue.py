"""What goes into the decodes of an embedder: everything once, within its sizes, and every call in its turn."""

from __future__ import annotations

from collections import Counter

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from erllama_py.engine.embedding import EmbedderFacts
from erllama_py.model.embed_queue import EmbedQueue, Piece

FACTS = EmbedderFacts(width=4, n_batch=8, n_seq_max=3, longest=8, splits=False, n_ctx=0)
SPLITS = msgspec.structs.replace(FACTS, longest=30, splits=True, n_ctx=38)


def calls(longest: int) -> st.SearchStrategy[list[list[int]]]:
    """Lengths of the inputs of some calls."""
    return st.lists(st.lists(st.integers(1, longest), min_size=1, max_size=12), min_size=1, max_size=6)


def queue_of(facts: EmbedderFacts, lengths: list[list[int]]) -> EmbedQueue:
    queue = EmbedQueue(facts)
    for call, inputs in enumerate(lengths):
        queue.add(call, [[7] * length for length in inputs])
    return queue


def all_pieces(queue: EmbedQueue, facts: EmbedderFacts) -> list[list[Piece]]:
    """The decodes until nothing waits; each is within the sizes of the embedder."""
    decodes = []
    while pieces := queue.take():
        assert sum(piece.end - piece.start for piece in pieces) <= facts.n_batch
        ids = [piece.seq_id for piece in pieces]
        assert len(set(ids)) == len(ids) <= facts.n_seq_max
        assert set(ids) <= set(range(facts.n_seq_max))
        begins = [piece for piece in pieces if not piece.start and not piece.last]  # the context may be made anew
        assert not begins or not any(piece.start for piece in pieces)
        decodes.append(pieces)
    assert len(queue) == 0
    return decodes


@given(calls(8))
def test_an_encoder_gets_every_input_once_and_whole(lengths: list[list[int]]) -> None:
    """From its first token to its last, in one decode."""
    found = Counter(
        (piece.call, piece.which) for decode in all_pieces(queue_of(FACTS, lengths), FACTS) for piece in decode
    )
    assert found == Counter((call, index) for call, inputs in enumerate(lengths) for index in range(len(inputs)))


@given(calls(30))
def test_pieces_of_a_long_input_are_gapless_and_stay_in_one_sequence(lengths: list[list[int]]) -> None:
    """In order, the last is marked, and no other input is given the sequence meanwhile."""
    open_: dict[int, tuple[int, int]] = {}
    ends: dict[tuple[int, int], int] = {}
    for decode in all_pieces(queue_of(SPLITS, lengths), SPLITS):
        for piece in decode:
            key = piece.call, piece.which
            assert open_.get(piece.seq_id, key) == key
            assert piece.start == ends.get(key, 0) < piece.end
            ends[key] = piece.end
            length = lengths[piece.call][piece.which]
            assert piece.last == (piece.end == length)
            if piece.last:
                open_.pop(piece.seq_id, None)
            else:
                open_[piece.seq_id] = key
    assert ends == {(call, i): length for call, inputs in enumerate(lengths) for i, length in enumerate(inputs)}


def test_a_single_text_does_not_wait_for_a_crowd_of_another_call() -> None:
    """It is in the first decode that begins after it came."""
    queue = EmbedQueue(FACTS)
    queue.add(1, [[7, 7]] * 1000)
    queue.take()
    queue.add(2, [[7, 7]])
    assert 2 in {piece.call for piece in queue.take()}


def test_a_long_input_leaves_room_for_others_and_takes_all_where_there_are_none() -> None:
    """Half of each decode, as long as any wait."""
    queue = EmbedQueue(SPLITS)
    queue.add(1, [[7] * 30])
    assert [(piece.start, piece.end) for piece in queue.take()] == [(0, 8)]
    queue.add(2, [[7] * 3])
    assert [(piece.call, piece.start, piece.end) for piece in queue.take()] == [(1, 8, 12), (2, 0, 3)]
    assert [(piece.start, piece.end) for piece in queue.take()] == [(12, 20)]


def test_what_fits_goes_before_what_does_not_and_that_comes_first_in_the_next() -> None:
    """A call whose next input is too long for what is left of a decode keeps its turn."""
    queue = EmbedQueue(FACTS)
    queue.add(1, [[7] * 5, [7] * 5])
    queue.add(2, [[7] * 4])
    queue.add(3, [[7] * 3])
    assert [piece.call for piece in queue.take()] == [1, 3]
    assert [piece.call for piece in queue.take()] == [2]
    assert [piece.call for piece in queue.take()] == [1]


@given(calls(30), st.integers(0, 5), st.integers(0, 4))
def test_a_dropped_call_is_in_no_further_decode(lengths: list[list[int]], dropped: int, after: int) -> None:
    """Its sequence is reported where a part of it lies in one, and all others are computed."""
    queue, computed = queue_of(SPLITS, lengths), set[tuple[int, int]]()
    for _ in range(after):
        computed |= {(piece.call, piece.which) for piece in queue.take() if piece.last}
    queue.drop(dropped)
    assert queue.drop(dropped) is None
    for decode in all_pieces(queue, SPLITS):
        for piece in decode:
            assert piece.call != dropped
            computed |= {(piece.call, piece.which)} if piece.last else set()
    others = {(call, i) for call, inputs in enumerate(lengths) for i in range(len(inputs)) if call != dropped}
    assert others <= computed
