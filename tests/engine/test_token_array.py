"""Token ids as arrays: the same ids as in lists, on both backends, and nothing that the garbage collector looks at."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
from helpers.backends import make_subject

from erllama_py.engine.token_array import PIECE, Gathered, as_array, in_pieces


def test_lists_and_arrays_hold_the_same_ids_however_many_there_are() -> None:
    """Also where the last piece is not full."""
    for count in (0, 1, PIECE, 2 * PIECE + 3):
        tokens = [i % 50_000 for i in range(count)]
        assert in_pieces(as_array(tokens)) == tokens


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["llama", "stub"])
def test_a_vocabulary_gives_the_same_ids_as_an_array(backend: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Also of a text that is long: the time is linear in its length."""
    one = make_subject(backend, "dense", Path(tmp_path_factory.getbasetemp()))
    one.load(lambda _done: True)
    for text in ("", "the cat <|im_end|>", "the cat sits. " * 100_000):
        for special in (False, True) if len(text) < 1000 else (False,):
            array = one.vocabulary.token_array(text, add_special=True, parse_special=special)
            assert in_pieces(array) == one.vocabulary.tokenize(text, add_special=True, parse_special=special)
            assert not gc.is_tracked(array)
    one.close()


def test_arrays_are_gathered_in_their_order() -> None:
    """Of millions of short ones, few are there at a time."""
    gathered, wanted = Gathered(), list[int]()
    for length in (0, 1, 300, 2, 0, PIECE, 256, 257, *[1] * 10):
        tokens = [len(wanted) + i for i in range(length)]
        wanted += tokens
        gathered.add(as_array(tokens))
    assert gathered.count == len(wanted)
    assert gathered.array().tolist() == wanted
    assert Gathered().array().tolist() == []

    many = Gathered()
    for _ in range(3 * PIECE):
        many.add(as_array([1]))
    assert len(many._arrays) == 3
