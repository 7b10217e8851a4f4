"""How something ended: three frozen dataclasses that every part of the kit uses.

Owns nothing. `Returned` and `Stopped` are good endings, `Raised` is a failure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Returned:
    """It came to its own end."""

    value: Any = None

    def __str__(self) -> str:
        return "returned"


@dataclass(frozen=True)
class Raised:
    """It failed with `error`."""

    error: BaseException

    def __str__(self) -> str:
        return describe(self.error)


@dataclass(frozen=True)
class Stopped:
    """It was asked to stop, or was cancelled."""

    def __str__(self) -> str:
        return "stopped"


Exit = Returned | Raised | Stopped


def describe(error: BaseException) -> str:
    """One line for one error: its class and, where it has one, its text."""
    kind, text = type(error).__name__, text_of(error)
    return kind if text == kind else f"{kind}: {text}"


def text_of(error: BaseException) -> str:
    """The text of an error; the name of its class if it has none, or if asking for it raises."""
    try:
        return str(error) or type(error).__name__
    except Exception:
        return type(error).__name__
