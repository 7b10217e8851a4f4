"""The root of all errors, and what is common to them."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, dataclass_transform

# Each error of this library by the name of its class, for those that come from another process.
KINDS: dict[str, type[ErllamaError]] = {}


@dataclass_transform(eq_default=False)
@dataclass(eq=False)
class ErllamaError(Exception):
    """The root of all errors of this library."""

    text = ""  # `describe`, with the fields filled in

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        dataclass(eq=False)(cls)
        KINDS.setdefault(cls.__name__, cls)

    def __post_init__(self) -> None:
        # `args` holds the fields in order, so that errors can be pickled and copied.
        self.args = tuple(getattr(self, field.name) for field in fields(self))

    def __str__(self) -> str:
        return str(self.describe())  # a field may be no text, where a backend has filled it

    def describe(self) -> str:
        """One sentence with the facts."""
        return self.text.format_map(vars(self)) if self.text else type(self).__name__


KINDS[ErllamaError.__name__] = ErllamaError
