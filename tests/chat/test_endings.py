"""Where next turns diverge from a prompt: what one has in common with it ends at one of the places."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from erllama_py.chat.breakpoints import shared
from erllama_py.chat.endings import MOST_OPENING, endings, endings_of_text
from erllama_py.chat.template import ChatTemplate
from erllama_py.engine.stub import CHAT_TEMPLATE as CHATML

THINKING = CHATML.replace("<|im_start|>assistant\n", "<|im_start|>assistant\n<think>\n")
# Thoughts are shown of what follows the last user message alone.
DROPS_THOUGHTS = (
    "{% set ns = namespace(last=-1) %}{% for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}"
    "{% endif %}{% endfor %}{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and loop.index0 > ns.last %}<think>\n{{ m.reasoning_content or '' }}\n</think>\n"
    "{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n"
    "{% endif %}"
)
ALTERNATING = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('no') }}{% endif %}"
    "{% if m.role == 'user' %}[INST]{{ m.content }}[/INST]{% else %}{{ m.content }}</s>{% endif %}{% endfor %}"
)
Render = Callable[[Sequence[Any], bool], str]
texts = st.text(st.sampled_from("ab \n.:|<é"), max_size=8)


def message(role: str, content: str, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


def rendering(source: str) -> Render:
    template = ChatTemplate(source, "<s>", "</s>")
    return lambda messages, opened: template.render(messages, add_generation_prompt=opened)


def as_bytes(text: str) -> list[int]:
    """A token a byte."""
    return list(text.encode())


def found(source: str, messages: list[Any]) -> tuple[list[int], tuple[int, ...]]:
    """The prompt's tokens, and where next turns diverge from it."""
    render = rendering(source)
    tokens = as_bytes(render(messages, True))
    return tokens, endings(messages, tokens, render, as_bytes)


def prompt(source: str, messages: list[Any]) -> list[int]:
    return as_bytes(rendering(source)(messages, True))


@pytest.mark.parametrize("source", [CHATML, THINKING, DROPS_THOUGHTS])
@given(st.lists(st.tuples(texts, texts), max_size=2), texts, texts, texts)
def test_each_next_turn_diverges_at_a_place(
    source: str, before: list[tuple[str, str]], asked: str, answer: str, then: str
) -> None:
    """The reply edited, or left out: what it has in common with the prompt ends at one of them."""
    chat = [message("system", "s")]
    chat += [one for user, said in before for one in (message("user", user), message("assistant", said))]
    chat += [message("user", asked)]
    tokens, places = found(source, chat)
    edited = [*chat, message("assistant", f"Z{answer}"), message("user", then)]
    dropped = [*chat, message("user", then)]
    for later in (edited, dropped):
        assert shared(tokens, prompt(source, later)) in places
    assert list(places) == sorted(set(places))
    assert places[-1] <= len(tokens)


def test_thoughts_that_a_question_drops_are_a_place_of_their_own() -> None:
    """After results of tools the next turn is the model's, or the user's: then all since the question is others."""
    call = message("assistant", "call", reasoning_content="hm " * 40)
    chat = [message("system", "s"), message("user", "Weather?"), call, message("tool", "rain")]
    tokens, places = found(DROPS_THOUGHTS, chat)
    asked = [*chat, message("assistant", "It rains."), message("user", "Thanks")]
    goes_on = [*chat, message("assistant", "call", reasoning_content="so"), message("tool", "sun")]
    assert places[0] == shared(tokens, prompt(DROPS_THOUGHTS, asked)) < len(tokens) - 100
    assert places[-1] == shared(tokens, prompt(DROPS_THOUGHTS, goes_on)) == len(tokens)


def test_a_template_that_refuses_two_questions_tells_of_the_reply() -> None:
    """Where turns alternate, none can be left out."""
    tokens, places = found(ALTERNATING, [message("user", "a"), message("assistant", "b"), message("user", "c")])
    assert places == (len(tokens),)


def test_what_is_read_may_be_other_tokens() -> None:
    """Of a prompt that does not end as the template shows it, nothing is known."""
    chat, render = [message("user", "Hi")], rendering(THINKING)
    tokens = [*prompt(THINKING, chat)[:-1], 7]
    assert endings(chat, tokens, render, as_bytes) == ()
    assert endings([message("tool", "x")], [1, 2], rendering("{{ raise_exception('no') }}"), as_bytes) == ()


@given(st.lists(st.integers(0, 3), min_size=1, max_size=40))
def test_a_text_ends_where_its_last_turn_does(tokens: list[int]) -> None:
    """After a token that ends turns, if no more than what opens a reply follows; and where it ends itself."""
    places = endings_of_text(tokens, lambda token: token == 0)
    assert places[-1] == len(tokens)
    last = max((end for end, token in enumerate(tokens, 1) if token == 0), default=len(tokens))
    assert places[0] == (last if last > len(tokens) - MOST_OPENING else len(tokens))
    assert len(places) <= 2
