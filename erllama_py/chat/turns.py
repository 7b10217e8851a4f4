"""What a chat template puts after a reply when the conversation goes on.

Pure. With that text, the next turn's prompt is made from the tokens that were really read and sampled, instead of
from a rendering of the whole conversation, whose tokens may be others: a text can be made of tokens in several ways, a
reply may end inside a character or go beyond its stop sequence, and some templates trim replies or drop their thoughts.

The text is found by rendering the conversation with a made-up reply in place of the last one: it is what follows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from erllama_py.errors import ChatTemplateError

Message = Mapping[str, Any]

# Letters alone, since templates trim replies, cut thoughts out of them and escape them.
MADE_UP = "replyQzXvKwJhere"
EARLIER = "earlierQzXvKwJreply"


def text_after_reply(
    said: Sequence[Message], new: Sequence[Message], render: Callable[[Sequence[Message], bool], str]
) -> str | None:
    """What stands between the last reply in `said` and the next one, once the messages `new` are added to it.

    `said` ends with the reply; the text begins with what ends a turn (`<|im_end|>`), whether the model has generated
    that itself or not. `render` takes messages and whether to open the answer, and brings the tools along; it is called
    three times. None where the conversation cannot go on in this way: the last message is no plain reply, or the
    template refuses, does not show a reply once, or renders what comes before it differently than before.
    """
    if not said or not _speaks(said[-1]) or said[-1].get("tool_calls"):
        return None
    # The thoughts of old replies are dropped by many templates. That changes nothing here: the tokens that were read
    # stay.
    *before, reply = ({**one, "content": EARLIER} if _speaks(one) else one for one in said)
    try:
        # What the reply was an answer to. Some templates end a text that has no answer, and others open thoughts that
        # they do not show later: one of the two is what stands before the answer.
        asked = render(before, False), render(before, True)
        text = render([*before, {**reply, "content": MADE_UP}, *new], True)
    except ChatTemplateError:
        return None
    head, *tails = text.split(MADE_UP)
    return tails[0] if len(tails) == 1 and head.startswith(asked) else None


def _speaks(message: Message) -> bool:
    return message["role"] == "assistant" and isinstance(message.get("content"), str)
