"""What may be said of a model's thinking, of a model and of a request: its markers, and what closes it."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from erllama_py.errors import InvalidOption
from erllama_py.options.check import check_utf8

MOST_MARKER = 64  # characters: longer than any marker in use
MOST_MESSAGE = 2000  # characters: it is decoded in the middle of a reply
Marker = Annotated[str, Meta(min_length=1, max_length=MOST_MARKER)]
ThinkingMarkers = tuple[Marker, Marker]
ClosingMessage = Annotated[str, Meta(max_length=MOST_MESSAGE)]
SigningKey = Annotated[bytes, Meta(min_length=1, max_length=4096)]


def check_thinking(
    markers: ThinkingMarkers | bool | None, message: str | None, budget_tokens: int | None = None
) -> None:
    """Whether a block can be told by these markers, and closed by this message. Raises `InvalidOption`."""
    if markers is False and budget_tokens is not None:
        raise InvalidOption("thinking_budget_tokens", "thinking_markers=False: what is not told apart is not counted")
    if markers is True:
        raise InvalidOption("thinking_markers", "expected the two markers, or False, got True")
    if markers:
        opens, closes = (marker.strip() for marker in markers)
        for marker in markers:
            check_utf8("thinking_markers", marker)
        if not opens or not closes:
            raise InvalidOption("thinking_markers", "a marker is more than white space")
        if opens in closes or closes in opens:
            raise InvalidOption("thinking_markers", "one of the two is a part of the other")
    if message is not None:
        check_utf8("thinking_budget_message", message)
        if markers and markers[1].strip() in message:
            raise InvalidOption("thinking_budget_message", "it holds what closes the block, which follows it")


def key_bytes(key: object) -> object:
    """A signing key as bytes. Raises `ValueError`, which never holds the key."""
    if not isinstance(key, str):
        return key
    try:
        return key.encode()
    except UnicodeEncodeError:
        raise ValueError("the text has no UTF-8 form") from None
