"""Where the next turns of a conversation diverge from its prompt, whatever becomes of the reply. Pure.

A prompt ends with what opens the reply (`<|im_start|>assistant`, and `<think>` where a model is to think). Few replies
come back as they were generated: thinking is dropped from the history, a text is edited, or the reply is left out and
the user goes on. So the next prompt has in common with this one what stands before its last tokens, and sometimes less:
many templates drop all thoughts since the last user message once there is another one.

The places are found by rendering the last turn with made-up texts after it: a reply and a question, a question alone,
or a reply alone. No more is rendered than that turn, since what stands before it changes nothing behind it; where that
is not so, the tokens at the end are others, and there is no such place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from erllama_py.chat.breakpoints import shared
from erllama_py.chat.turns import MADE_UP_MESSAGE, MADE_UP_REPLY, Message, Render
from erllama_py.errors import ChatTemplateError

# Characters on each side of a place that are tokenized: no token, and no rule of a tokenizer, looks further than that.
AROUND = 200
# Tokens between the end of a turn and the text of a reply: `\n<|im_start|>assistant\n<think>\n` has six.
MOST_OPENING = 16


def endings_of_text(tokens: Sequence[int], is_end: Callable[[int], bool]) -> tuple[int, ...]:
    """The same of a prompt that is taken as it is: where its last turn ends, by its tokens, and where it ends itself.

    Only where no more than the opening of a reply can stand between the two: a whole turn may be in a template that
    marks the ends of replies alone.
    """
    length = len(tokens)
    last = next((end for end in range(length, max(0, length - MOST_OPENING), -1) if is_end(tokens[end - 1])), length)
    return (last, length) if last < length else (length,)


def endings(
    messages: Sequence[Message], tokens: Sequence[int], render: Render, tokenize: Callable[[str], list[int]]
) -> tuple[int, ...]:
    """Ascending positions in `tokens`, the prompt for a reply to the messages: up to each, some next turn is the same.

    The last is often the prompt's length. `render` takes messages and whether to open the answer, and brings the tools
    along: it is called four times at most, with the last turn. `tokenize` is what made the prompt's last tokens. None
    where the template does not tell.
    """
    turn = messages[max((n for n, one in enumerate(messages) if one.get("role") == "user"), default=0) :]
    reply, question = _made_up("assistant", MADE_UP_REPLY), _made_up("user", MADE_UP_MESSAGE)
    text = _rendered(turn, render, opened=True)
    if text is None:
        return ()
    found = {
        _shared_with(text, [*turn, reply, question], MADE_UP_REPLY, tokens, render, tokenize),
        _shared_with(text, [*turn, question], MADE_UP_MESSAGE, tokens, render, tokenize),
    }
    if turn[-1].get("role") != "user":  # results of tools: the next turn may be one of the model's alone
        found.add(_shared_with(text, [*turn, reply], MADE_UP_REPLY, tokens, render, tokenize))
    return tuple(sorted(position for position in found if position))


def _made_up(role: str, text: str) -> Message:
    return {"role": role, "content": text}


def _rendered(messages: Sequence[Message], render: Render, *, opened: bool) -> str | None:
    try:
        return render(messages, opened)
    except ChatTemplateError:
        return None


def _shared_with(
    text: str, later: Sequence[Message], word: str, tokens: Sequence[int], render: Render,
    tokenize: Callable[[str], list[int]],
) -> int:  # fmt: skip
    """Up to which token of the prompt, which ends as `text` does, the `later` conversation is the same; 0 where that
    cannot be told. It goes on with a `word` that nobody says."""
    shown = _rendered(later, render, opened=False)
    if shown is None or word not in shown:
        return 0
    same = shared(text, shown[: shown.rindex(word)])
    if same == len(text):
        return len(tokens)
    start = max(0, same - AROUND)
    mine = tokenize(text[start:])
    after = len(mine) - shared(mine, tokenize(shown[start : same + AROUND]))
    ends_alike = 0 < after < len(tokens) and list(tokens[-after:]) == mine[-after:]
    return len(tokens) - after if ends_alike else 0
