"""A value as errors show it. Pure, but for the code of the value itself."""

from __future__ import annotations

MOST_SHOWN = 80  # characters


def shown(value: object) -> str:
    """A value in at most a line; `repr` refuses integers of thousands of digits, also in others."""
    if isinstance(value, int) and value.bit_length() > 128:
        return f"an integer of {value.bit_length()} bits"
    if isinstance(value, str | bytes):
        value = value[: MOST_SHOWN + 1]  # megabytes of it take long to write
    try:
        text = repr(value)
    except ValueError:
        return f"a {type(value).__name__} that has no text"
    return text if len(text) <= MOST_SHOWN else f"{text[: MOST_SHOWN - 3]}..."
