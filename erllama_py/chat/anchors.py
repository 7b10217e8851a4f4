"""Where conversations diverge: token positions of a rendered prompt at which rows should end.

Pure. Two places: the end of system prompt and tools, where another conversation with the same ones diverges, and the
end of what precedes the last user message, where a turn that is edited or asked again does. Each is found by rendering
the conversation cut short there, with a made-up user message: what stands before that message's text does not depend on
what users say. So neither does the position, and conversations with the same beginning get the same one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from erllama_py.errors import ChatTemplateError

Message = Mapping[str, Any]

OPENING_ROLES = ("system", "developer")
# No conversation says this, and templates that trim or escape texts leave letters and digits as they are. If one does
# say it, the position found is merely an earlier one.
MADE_UP = "Q7vXkZ0wJ3anchorY9fHpB5"


def anchors(
    messages: Sequence[Message], tokens: Sequence[int], render: Callable[[Sequence[Message], bool], str],
    tokenize: Callable[[str], list[int]], has_tools: bool,
) -> tuple[int, ...]:  # fmt: skip
    """Ascending positions in `tokens`, the rendered prompt: none, one or two, above 0 and below its length.

    `render` takes messages and whether to open the answer, and brings the tools along; `tokenize` is what made
    `tokens`. Each is called once a position. A template that refuses the shortened conversation gives no position.
    """
    opening = next((n for n, one in enumerate(messages) if one["role"] not in OPENING_ROLES), len(messages))
    last_user = max((n for n, one in enumerate(messages) if one["role"] == "user"), default=0)
    cuts = {opening} if opening or has_tools else set()
    if last_user > 0:
        cuts.add(last_user)
    found = {_parting(messages[:cut], tokens, render, tokenize) for cut in cuts}
    return tuple(sorted(position for position in found if 0 < position < len(tokens)))


def _parting(
    before: Sequence[Message], tokens: Sequence[int], render: Callable[[Sequence[Message], bool], str],
    tokenize: Callable[[str], list[int]],
) -> int:  # fmt: skip
    """Where a user message after `before` begins, in tokens that no text of it can change; 0 if that is nowhere."""
    try:
        text = render([*before, {"role": "user", "content": MADE_UP}], True)
    except ChatTemplateError:
        return 0
    head, met, _ = text.partition(MADE_UP)
    # The last token before a text may merge with how it begins ("\n" with another "\n"), so it is not counted in.
    shared = tokenize(head)[:-1] if met else []
    # A template may put elsewhere, in the whole conversation, what comes first in the shortened one.
    return len(shared) if list(tokens[: len(shared)]) == shared else 0
