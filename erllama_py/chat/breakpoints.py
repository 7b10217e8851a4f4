"""Where a message of a conversation ends, in the tokens of its prompt: all that begin alike are the same up to there.

The conversation is rendered up to that message, with a made-up one after it, as for anchors (`turns`). What stands
before the made-up text, and is in the prompt too, does not depend on what follows. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, TypeVar

from erllama_py.chat.turns import MADE_UP_MESSAGE, OPENING_ROLES, Message, Render
from erllama_py.errors import ChatTemplateError

Place = int | Literal["tools"]
Unit = TypeVar("Unit", int, str)


def end_of(
    messages: Sequence[Message], place: Place, tokens: Sequence[int], render: Render,
    tokenize: Callable[[str], list[int]],
) -> tuple[int, bool]:  # fmt: skip
    """The position in `tokens` up to which a prompt with the messages up to this one is always the same, and whether
    that is all of them: a template may show elsewhere, or not at all, what it shows of a conversation that ends there.

    `"tools"` is what stands before the first message that is not the system's. `render` and `tokenize` are as for
    `anchors`, and are called twice at most. 0 where the template refuses the shortened conversation.
    """
    cut = _opening(messages) if place == "tools" else place + 1
    for role in _followers(messages, cut):
        made_up = {"role": role, "content": MADE_UP_MESSAGE}
        try:
            text = render([*messages[:cut], made_up], role == "user")
        except ChatTemplateError:
            continue
        head, met, _ = text.partition(MADE_UP_MESSAGE)
        if not met:
            continue
        wanted = tokenize(head)
        # The last token before a text may merge with how it begins.
        end = min(len(wanted) - 1, shared(wanted, tokens))
        return max(0, end), end == len(wanted) - 1
    return 0, False


def shared(one: Sequence[Unit], other: Sequence[Unit]) -> int:
    """How many tokens, or characters, two texts have in common from their beginning; both are of one type."""
    same, most = 0, min(len(one), len(other))
    while same < most:  # slices are compared in C, and mostly they are equal
        if one[same:most] == other[same:most]:
            return most
        middle = (same + most) // 2
        if middle > same and one[same:middle] == other[same:middle]:
            same = middle
        else:
            most = middle
    return same


def _opening(messages: Sequence[Message]) -> int:
    """How many messages of the system's come first."""
    return next((n for n, one in enumerate(messages) if one["role"] not in OPENING_ROLES), len(messages))


def _followers(messages: Sequence[Message], cut: int) -> list[str]:
    """Who may speak next; first of all who does."""
    said = messages[cut]["role"] if cut < len(messages) else "assistant"
    return sorted(("user", "assistant"), key=lambda role: role != said)
