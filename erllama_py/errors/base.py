"""The root of every error of this library, and how each is found by its name."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

# Each error of this library by the name of its class, for those that come from another process.
KINDS: dict[str, type[ErllamaError]] = {}


@dataclass(eq=False)
class ErllamaError(Exception):
    """The root of all errors of this library."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        KINDS.setdefault(cls.__name__, cls)

    def __post_init__(self) -> None:
        # `args` holds the fields in order, so that errors can be pickled and copied.
        self.args = tuple(getattr(self, field.name) for field in fields(self))

    def __str__(self) -> str:
        return str(self.describe())  # a field may be no text, where a backend has filled it

    def describe(self) -> str:
        """One sentence with the facts."""
        return type(self).__name__


KINDS[ErllamaError.__name__] = ErllamaError
