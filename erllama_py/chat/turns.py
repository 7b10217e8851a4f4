"""Where a conversation can be continued, and where others diverge from it: found by rendering it with made-up texts.
Pure.

**What follows a reply** when the conversation goes on (`text_after_reply`). With that text, the next turn's prompt is
made from the tokens that were really read and sampled, instead of from a rendering of the whole conversation, whose
tokens may be others: a text can be made of tokens in several ways, a reply may end inside a character or go beyond its
stop sequence, and some templates trim replies or drop their thoughts. The text is found by rendering the conversation
with a made-up reply in place of the last one: it is what follows. Where the reply calls tools, a template may need to
see them for their results, so only the arguments of the last call are made up.

**Anchors**: token positions of a rendered prompt at which rows should end, because conversations diverge there
(`anchors`). Two places: the end of system prompt and tools, where another conversation with the same ones diverges, and
the end of what precedes the last user message, where a turn that is edited or asked again does. Each is found by
rendering the conversation cut short there, with a made-up user message: what stands before that message's text does not
depend on what users say. So neither does the position, and conversations with the same beginning get the same one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from erllama_py.chat.conversation import texts_in
from erllama_py.chat.turn_keys import THOUGHTS
from erllama_py.errors import ChatTemplateError

Message = Mapping[str, Any]
Render = Callable[[Sequence[Message], bool], str]
"""Takes messages and whether to open the answer, and brings the tools along."""

# Letters alone, since templates trim replies, cut thoughts out of them and escape them.
MADE_UP_REPLY = "replyQzXvKwJhere"
EARLIER_REPLY = "earlierQzXvKwJreply"

OPENING_ROLES = ("system", "developer")
# No conversation says this, and templates that trim or escape texts leave letters and digits as they are. If one does
# say it, the position found is merely an earlier one.
MADE_UP_MESSAGE = "Q7vXkZ0wJ3anchorY9fHpB5"


def text_after_reply(
    said: Sequence[Message], new: Sequence[Message], render: Render, ends: Sequence[str] = (),
    word: str = MADE_UP_REPLY,
) -> str | None:  # fmt: skip
    """What stands between the last reply in `said` and the next one, once the messages `new` are added to it.

    `said` ends with the reply; the text begins with what ends a turn (`<|im_end|>`), whether the model has generated
    that itself or not. `render` takes messages and whether to open the answer, and brings the tools along; it is called
    three times, five at most. `ends` are the texts of the tokens that end a reply: after calls of tools, what the
    template writes before the first of them is the calls' own. `word` stands in for the reply: nobody can
    say it who cannot know it, whatever a template puts together. None where the conversation cannot go on in this way:
    the last message is no reply, or the template refuses, does not show a reply once, or renders what comes before it
    differently than before, or somebody says the made-up text.
    """
    if not said or said[-1].get("role") != "assistant":
        return None
    if any(word in text for text in texts_in((*said, *new))):
        return None
    # The thoughts of old replies are dropped by many templates. That changes nothing here: the tokens that were read
    # stay.
    *before, reply = map(_without_words, said)
    made_up = [_plain_reply(reply, word)]
    if reply.get("tool_calls"):
        made_up.insert(0, _calling_reply(reply, word))
    try:
        # What the reply was an answer to. Some templates end a text that has no answer, and others open thoughts that
        # they do not show later: one of the two is what stands before the answer.
        asked = render(before, False), render(before, True)
    except ChatTemplateError:
        return None
    return next(filter(None, (_after(before, asked, one, new, render, ends, word) for one in made_up)), None)


def _after(
    before: Sequence[Message], asked: tuple[str, str], reply: Message, new: Sequence[Message], render: Render,
    ends: Sequence[str], word: str,
) -> str | None:  # fmt: skip
    has_calls = bool(reply.get("tool_calls"))
    try:
        text = render([*before, reply, *new], True)
        alone = render([*before, reply], False) if has_calls else ""
    except ChatTemplateError:
        return None
    if not has_calls:
        head, *tails = text.split(word)
        return tails[0] if len(tails) == 1 and head.startswith(asked) else None
    head, shown, tail = text.rpartition(word)
    found = [place for end in ends if end and (place := tail.find(end)) >= 0]
    if not shown or not found or not head.startswith(asked):
        return None
    # Where results come within the model's turn, the first end is that of a later message: nothing may stand before it
    # but what ends the calls.
    ends_calls = tail[: min(found)]
    return tail[min(found) :] if alone.rpartition(word)[2].startswith(ends_calls) else None


def _without_words(message: Message) -> Message:
    """A message of the assistant's with made-up words, and without thoughts."""
    if message.get("role") != "assistant":
        return message
    shown = {name: value for name, value in message.items() if name not in THOUGHTS}
    return {**shown, "content": EARLIER_REPLY} if shown.get("content") else shown


def _plain_reply(reply: Message, word: str) -> Message:
    return {**{name: value for name, value in reply.items() if name != "tool_calls"}, "content": word}


def _calling_reply(reply: Message, word: str) -> Message:
    """The reply with made-up arguments in its last call: what follows them is known by that."""
    *calls, last = reply["tool_calls"]
    arguments = {word: word}
    if isinstance(called := last.get("function"), Mapping):
        last = {**last, "function": {**called, "arguments": arguments}}
    else:
        last = {**last, "arguments": arguments}
    return {**reply, "tool_calls": [*calls, last]}


def anchors(
    messages: Sequence[Message], tokens: Sequence[int], render: Render,
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
    before: Sequence[Message], tokens: Sequence[int], render: Render,
    tokenize: Callable[[str], list[int]],
) -> int:  # fmt: skip
    """Where a user message after `before` begins, in tokens that no text of it can change; 0 if that is nowhere."""
    try:
        text = render([*before, {"role": "user", "content": MADE_UP_MESSAGE}], True)
    except ChatTemplateError:
        return 0
    head, met, _ = text.partition(MADE_UP_MESSAGE)
    # The last token before a text may merge with how it begins ("\n" with another "\n"), so it is not counted in.
    shared = tokenize(head)[:-1] if met else []
    # A template may put elsewhere, in the whole conversation, what comes first in the shortened one.
    return len(shared) if list(tokens[: len(shared)]) == shared else 0
