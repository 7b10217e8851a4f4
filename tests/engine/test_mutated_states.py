"""States changed at random, with whatever checksums: the process lives, what is no state is refused, and sound rows are
restored to the last bit afterwards. `ERLLAMA_MUTATIONS` says how many."""

from __future__ import annotations

import random

import numpy
import pytest
from helpers.backends import Subject
from helpers.crafted_rows import sections_of
from helpers.mutations import mutated, rounds

from erllama_py.engine.backend import Backend, DecodeStatus, RestoreStatus, Slice

PROMPT = [(7 * i + i * i) % 250 for i in range(150)]
END = 100
CASES = 8  # of llama.cpp: kinds of memory, each without and with flash attention
BETWEEN = 50  # mutations between two looks at a sound row


def restored_logits(backend: Backend, data: bytes) -> bytes:
    """What the rest of the prompt comes to over a sound row."""
    assert backend.restore(2, 0, END, memoryview(data)) is RestoreStatus.DONE
    assert backend.decode([Slice(2, END, PROMPT[END:], True)]) is DecodeStatus.DONE
    logits = backend.logits(0)
    assert backend.remove(2, 0, -1)
    return logits


@pytest.mark.parametrize("flash_attn", [False, True])
def test_no_mutation_of_a_state_does_harm(subject: Subject, flash_attn: bool) -> None:
    """One that is taken has other numbers, and nothing else; no sequence but its own holds anything of it."""
    backend, dice = subject[2](flash_attn=flash_attn), random.Random(5)
    backend.load(lambda _done: True)
    assert backend.decode([Slice(0, 0, PROMPT[:END], True)]) is DecodeStatus.DONE
    captured = backend.capture(0, 0, END, lambda size: memoryview(bytearray(size)))
    assert captured is not None
    data = bytes(captured)
    assert backend.remove(0, 0, -1)
    expected = restored_logits(backend, data)
    for _ in range(rounds(1600) // CASES // BETWEEN):
        for _ in range(BETWEEN):
            changed = mutated(data, dice, early=8 + 8 + 12 * END + 40)
            status = backend.restore(1, 0, END, memoryview(changed))
            assert status is not RestoreStatus.UNABLE
            if status:
                assert len(changed) == len(data)
                if subject[0] == "llama":
                    same_but_numbers(data, changed, subject)
                assert backend.remove(1, 0, -1)
            assert backend.positions(1) == (-1, -1)
        assert restored_logits(backend, data) == expected
    backend.close()


def same_but_numbers(data: bytes, changed: bytes, subject: Subject) -> None:
    """The two states say the same of themselves."""
    one, other = sections_of(data, subject[1]), sections_of(changed, subject[1])
    assert one is not None
    assert other is not None
    for left, right in zip(one, other, strict=True):
        assert left.form == right.form
        assert set(numpy.unique(left.positions)) == set(numpy.unique(right.positions))
