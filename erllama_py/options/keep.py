"""What a request asks to be kept in the cache: up to where, and for how long."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from msgspec import Meta

from erllama_py.errors import InvalidOption
from erllama_py.errors.shown import shown
from erllama_py.options.check import Amount, Options, convert, under

MOST_KEEPS = 8  # a row ends at each of them
MAX_KEEP_SECONDS = 7 * 86400.0


class Keep(Options, frozen=True):
    """What is saved of a prompt is not evicted for a time: up to the end of a message, or all of it.

    Each use begins the time anew. What is kept takes at most a quarter of a tier's quota: what does not fit into that
    is saved as always, and not kept.
    """

    seconds: Annotated[float, Meta(gt=0.0, le=MAX_KEEP_SECONDS)]
    """For how long, from each use on."""
    message: Amount | Literal["tools"] | None = None
    """The last message that is kept, by its index: 0 is the first. `"tools"`: the tools, and the system message that
    they are told in. `None`: the whole prompt."""


def keeps(given: object) -> tuple[Keep, ...]:
    """What is to be kept, checked. Raises `InvalidOption`, and `ValueError` for what is no list."""
    if isinstance(given, str | bytes) or not isinstance(given, Sequence):
        raise ValueError(f"expected a list of mappings or Keep, got {shown(given)}")
    if len(given) > MOST_KEEPS:
        raise ValueError(f"expected at most {MOST_KEEPS}, got {len(given)}")
    found = []
    for index, one in enumerate(given):
        with under(f"keep[{index}]"):
            found.append(convert(one, Keep))
    return tuple(found)


def check_keeps(given: Sequence[Keep], messages: int | None) -> None:
    """Whether there are the messages that these name, among so many; None: a prompt is none. Raises `InvalidOption`."""
    for index, one in enumerate(given):
        if messages is None and one.message is not None:
            raise InvalidOption(f"keep[{index}].message", "a prompt that is taken as it is has no messages: see chat")
        if messages is not None and isinstance(one.message, int) and one.message >= messages:
            there = f"there {'is 1 message' if messages == 1 else f'are {messages} messages'}, and the first is 0"
            raise InvalidOption(f"keep[{index}].message", f"{there}, got {one.message}")
