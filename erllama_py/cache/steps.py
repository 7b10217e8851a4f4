"""Work in steps: generators that yield how many they have taken since they yielded last. Pure.

A step is some 5 µs of work, like one row that is found, marked or counted. `Pace` runs them where a loop is to turn in
between, `run` where none is.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TypeVar

T = TypeVar("T")
Steps = Generator[int, None, T]

CHUNK = 64  # steps after which a generator yields
HASHED = 16384  # bytes of SHA-256 that take as long as a step


def run(steps: Steps[T]) -> T:
    """Do all of it at once."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            value: T = end.value
            return value
