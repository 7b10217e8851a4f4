"""Stubs whose decodes wait as long as a test says, in its own process or, by a file, in another one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from erllama_py.engine.backend import DecodeStatus, Slice
from erllama_py.engine.stub import StubBackend

Put = Callable[[object, str, object], object]
SOME = 5  # decodes that are done beside a file: a prompt, and the first tokens of a reply


def hold_decodes(put: Put, held: Callable[[str], bool]) -> None:
    """Have the stubs of a model wait while it is `held`, by its id; an abort lets a decode go, undone. `put` sets an
    attribute, as `setattr` does."""
    decode = StubBackend.decode

    def waits(backend: StubBackend, slices: Sequence[Slice]) -> DecodeStatus:
        while held(backend._model_id):
            if backend._abort.wait(0.001):
                return DecodeStatus.ABORTED
        return decode(backend, slices)

    put(StubBackend, "decode", waits)


def hold_by(file: Path, put: Put) -> None:
    """Have all stubs wait while the file is there, after `SOME` decodes."""
    left = SOME

    def held(_: str) -> bool:
        nonlocal left
        if not file.exists():
            left = SOME
        elif left == 0:
            return True
        else:
            left -= 1
        return False

    hold_decodes(put, held)
