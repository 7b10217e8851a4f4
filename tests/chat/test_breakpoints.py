"""Where a message ends: the same place for all prompts that begin alike, and nothing of what follows in it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from erllama_py.chat.breakpoints import Place, end_of, shared
from erllama_py.chat.template import ChatTemplate
from erllama_py.chat.turns import Message
from erllama_py.engine.stub import CHAT_TEMPLATE as CHATML

FOLDING = (  # the system text goes into the first user's turn, and turns alternate
    "{% set opening = messages[0].content + '\n\n' if messages[0].role == 'system' else '' %}"
    "{% for turn in (messages[1:] if opening else messages) %}"
    "{% if (turn.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('alternate!') }}{% endif %}"
    "<|turn|>{{ turn.role }}\n{{ opening if loop.first else '' }}{{ turn.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|turn|>assistant\n{% endif %}"
)
texts = st.text(st.sampled_from("ab \n.:|<é"), min_size=1, max_size=8)


def as_bytes(text: str) -> list[int]:
    return list(text.encode())


def ends(source: str, messages: list[dict[str, Any]], *places: Place) -> tuple[bytes, list[tuple[int, bool]]]:
    """The prompt, and where these end in it."""
    template = ChatTemplate(source, "<s>", "</s>")

    def render(given: Any, opened: bool) -> str:
        return template.render(given, add_generation_prompt=opened)

    tokens = as_bytes(render(messages, True))
    return bytes(tokens), [end_of(messages, place, tokens, render, as_bytes) for place in places]


def chat(*said: str) -> list[dict[str, Any]]:
    """A system prompt, and turns."""
    roles = ("system", *("user", "assistant") * len(said))
    return [{"role": role, "content": text} for role, text in zip(roles, said, strict=False)]


@pytest.mark.parametrize("source", [CHATML, FOLDING])
@given(st.lists(texts, min_size=4, max_size=7), texts, st.data())
def test_prompts_with_the_same_messages_are_the_same_up_to_their_end(
    source: str, said: list[str], other: str, data: st.DataObject
) -> None:
    """Whatever follows; and the message itself is before that place."""
    said = [*said, "end"] if len(said) % 2 else said  # the last is a user's
    place = data.draw(st.integers(1, len(said) - 2))
    mine, ((at, whole),) = ends(source, chat(*said), place)
    changed = [*said[: place + 1], *(other + text for text in said[place + 1 :])]
    theirs, ((their, _),) = ends(source, chat(*changed), place)
    assert (at, whole) == (their, True)
    assert mine[:at] == theirs[:at]
    assert said[place].encode() in mine[:at]


def test_what_a_template_shows_elsewhere_is_not_whole() -> None:
    """The system text of a folding template is followed by a user's; one that hides it shows nothing."""
    _, ((at, whole), tools) = ends(FOLDING, chat("be brief", "hello", "yes", "bye"), 0, "tools")
    assert (at, whole) == tools
    assert at > 0
    hides = "{% for m in messages if m.role == 'user' %}[{{ m.content }}]{% endfor %}"
    _, found = ends(hides, chat("be brief", "hello", "yes", "bye"), 0, 1, 2)
    assert found[0] == (0, True)  # "[" may merge with what follows it
    assert found[1][0] == found[2][0] == len("[hello]")


def test_a_template_that_refuses_gives_nothing() -> None:
    """And no error: the prompt itself was rendered."""
    refuses = "{% if messages | length < 4 %}{{ raise_exception('too short') }}{% endif %}" + CHATML
    _, found = ends(refuses, chat("be brief", "hello", "yes", "bye"), 0, 1)
    assert found == [(0, False), (0, False)]


def test_a_system_prompt_that_is_all_there_is() -> None:
    """No first message: the tools end where the system's messages do."""
    messages: list[Message] = [{"role": "system", "content": "be brief"}]
    _, ((at, whole),) = ends(CHATML, [dict(one) for one in messages], "tools")
    assert whole
    assert at > 0


@given(st.lists(st.integers(0, 2)), st.lists(st.integers(0, 2)))
def test_what_two_lists_share_is_counted(one: list[int], other: list[int]) -> None:
    """As by counting."""
    count = next((n for n, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1]), None)
    assert shared(one, other) == (min(len(one), len(other)) if count is None else count)
