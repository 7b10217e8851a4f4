"""How likely tokens are by the logits of a backend alone: what scores are held against."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy

from erllama_py.engine.backend import DecodeStatus, Slice
from helpers.backends import make_subject
from helpers.tiny_gguf import Kind


def log_softmax(logits: bytes) -> Any:
    """In 64 bits, by its definition."""
    wide = numpy.frombuffer(logits, "f4").astype("f8")
    return wide - numpy.log(numpy.exp(wide - wide.max()).sum()) - wide.max()


class ByLogits:
    """A backend of its own, which computes each prefix anew, in one sequence."""

    def __init__(self, name: str, kind: Kind, folder: Path) -> None:
        self._backend = make_subject(name, kind, folder)
        self._backend.inspect()
        self._backend.load(lambda _: True)

    def score(self, prompt: Sequence[int], tokens: Sequence[int]) -> list[float]:
        """The log-probability of each of `tokens`, after the prompt and those before it."""
        found = []
        for place, token in enumerate(tokens):
            before = [*prompt, *tokens[:place]]
            assert self._backend.decode([Slice(0, 0, before, True)]) is DecodeStatus.DONE
            found.append(float(log_softmax(self._backend.logits(0))[token]))
            assert self._backend.remove(0, 0, -1)
        return found

    def close(self) -> None:
        """Free it."""
        self._backend.close()
