"""What the tokens of other sequences leave of one, on every backend."""

from __future__ import annotations

from helpers.backends import Subject, complete, write_on
from helpers.tiny_gguf import WINDOW

from erllama_py.cache.keys import pack_tokens
from erllama_py.engine.backend import Slice
from erllama_py.scheduler.cells import Slot

PROMPT = [ord(letter) for letter in "Once upon a time there was a user who"]


def test_what_others_decode_leaves_a_sequence_the_window_of_its_next_token(subject: Subject) -> None:
    """Their tokens may take cells of it that lie further back, so that is all that is certain."""
    backend = subject[2](n_ctx=1024)
    backend.load(lambda _done: True)
    prompt = (PROMPT * 8)[: 3 * WINDOW]
    expected = complete(backend, 1, prompt)
    assert backend.remove(1, 0, -1)
    held = Slot(0, pack_tokens(prompt[:-1]))
    backend.decode([Slice(0, 0, prompt[:-1], False)])
    for other in (1, 2, 3):
        complete(backend, other, [other] * 3 * WINDOW)
    first, last = backend.positions(0)
    assert last == held.length - 1
    if subject[1] == "window":
        assert 0 < first <= held.beside_others(WINDOW).first
    backend.decode([Slice(0, len(prompt) - 1, prompt[-1:], True)])
    assert write_on(backend, 0, len(prompt), 8) == expected
    backend.close()
