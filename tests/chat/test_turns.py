"""What follows a reply: whatever was said, the text that the template itself would put there, or nothing at all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from erllama_py.chat.template import ChatTemplate
from erllama_py.chat.turns import MADE_UP_REPLY, Message, text_after_reply
from erllama_py.engine.stub import CHAT_TEMPLATE as CHATML

# The system text goes into the first user's turn; texts are trimmed and turns alternate.
TRIMMING = (
    "{{ bos_token }}{% set opening = messages[0].content | trim + '\n\n' if messages[0].role == 'system' else '' %}"
    "{% for turn in (messages[1:] if opening else messages) %}"
    "{% if (turn.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('alternate!') }}{% endif %}"
    "<start_of_turn>{{ 'model' if turn.role == 'assistant' else turn.role }}\n"
    "{{ opening if loop.first else '' }}{{ turn.content | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
HEADERS = (
    "{{ bos_token }}{% for m in messages %}"
    "<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
# A text without an answer is ended.
ENDING = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% else %}{{ eos_token }}{% endif %}"
)
# Thoughts are opened for the model, and shown only in replies since the last question; tools may answer in between.
THINKING = (
    "{% set ns = namespace(last=0) %}"
    "{% for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and loop.index0 < ns.last %}{{ (m.content or '').split('</think>')[-1].lstrip() }}"
    "{% else %}{{ m.content or '' }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
)
# Tools stand before the last user message, wherever that is.
TOOLS_LAST = (
    "<s>{% for m in messages %}{% if m.role == 'user' %}"
    "{% if loop.last %}[TOOLS]{{ tools }}[/TOOLS]{% endif %}[INST]{{ m.content }}[/INST]"
    "{% else %}{{ m.content }}</s>{% endif %}{% endfor %}"
)

KEEPING = [CHATML, TRIMMING, HEADERS, ENDING, THINKING]


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def said(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


@cache
def compiled(source: str) -> ChatTemplate:
    return ChatTemplate(source, "<s>", "</s>")


def rendering(source: str, tools: Any = None) -> Callable[[Sequence[Message], bool], str]:
    return lambda messages, opened: compiled(source).render(messages, tools=tools, add_generation_prompt=opened)


texts = st.text(st.sampled_from("ab \n.:|<é"), max_size=8)
turns = st.lists(st.tuples(texts, texts), max_size=3)


def conversation(before: list[tuple[str, str]], asked: str, answer: str) -> list[dict[str, Any]]:
    return [*(one for question, reply in before for one in (user(question), said(reply))), user(asked), said(answer)]


@pytest.mark.parametrize("source", [CHATML, ENDING])
@given(turns, texts, texts, texts)
def test_prompt_reply_and_what_follows_are_the_whole(
    source: str, before: list[tuple[str, str]], asked: str, answer: str, new: str
) -> None:
    """Where a template shows replies as they are, exact turns and a rendering are the same text."""
    chat, render = conversation(before, asked, answer), rendering(source)
    after = text_after_reply(chat, [user(new)], render)
    assert after is not None
    assert render(chat[:-1], True) + answer + after == render([*chat, user(new)], True)


@pytest.mark.parametrize("source", [TRIMMING, HEADERS])
@given(turns, texts, texts, texts)
def test_a_template_that_trims_replies_is_followed_after_them(
    source: str, before: list[tuple[str, str]], asked: str, answer: str, new: str
) -> None:
    """The reply keeps its spaces, which were read; all else is the template's."""
    chat, render = conversation(before, asked, answer), rendering(source)
    after = text_after_reply(chat, [user(new)], render)
    assert after is not None
    assert render(chat[:-1], True) + answer.strip() + after == render([*chat, user(new)], True)


@given(turns, texts, texts, texts, texts)
def test_thoughts_that_the_template_would_drop_are_followed_all_the_same(
    before: list[tuple[str, str]], asked: str, thought: str, answer: str, new: str
) -> None:
    """They were read, so they stay; what follows is the end of the turn, the new message and the opened answer."""
    chat = conversation([(q, f"{thought}</think>{a}") for q, a in before], asked, f"{thought}</think>{answer}")
    after = text_after_reply(chat, [user(new)], rendering(THINKING))
    assert after == f"<|im_end|>\n<|im_start|>user\n{new}<|im_end|>\n<|im_start|>assistant\n<think>\n"


@pytest.mark.parametrize("source", KEEPING)
@given(turns, texts, texts, texts, texts)
def test_what_follows_does_not_depend_on_the_reply(
    source: str, before: list[tuple[str, str]], asked: str, one: str, other: str, new: str
) -> None:
    """So it fits whatever tokens the reply was made of."""
    render, added = rendering(source), [user(new)]
    mine = text_after_reply(conversation(before, asked, one), added, render)
    assert mine is not None
    assert mine == text_after_reply(conversation(before, asked, other), added, render)


@pytest.mark.parametrize("source", KEEPING)
@given(
    st.lists(st.sampled_from([user("u"), said("a"), said(MADE_UP_REPLY), user(MADE_UP_REPLY), user("")]), max_size=5)
)
def test_any_messages_give_a_text_or_none(source: str, messages: list[dict[str, Any]]) -> None:
    """Also those that a template refuses, or with the made-up texts."""
    after = text_after_reply(messages, [user("n")], rendering(source))
    assert after is None or messages[-1]["role"] == "assistant"


def test_a_result_of_a_tool_follows_a_reply() -> None:
    """Any messages may, and several; earlier calls without a text are no hindrance."""
    chat = [user("u"), {"role": "assistant", "content": None, "tool_calls": [{}]}, {"role": "tool", "content": "1"}]
    new = [{"role": "tool", "content": "2"}, user("n")]
    after = text_after_reply([*chat, said("<call>")], new, rendering(THINKING))
    assert after is not None
    assert after.startswith("<|im_end|>\n<|im_start|>tool\n2<|im_end|>\n<|im_start|>user\nn<|im_end|>\n")


def test_thoughts_between_tool_calls_grow_old_without_harm() -> None:
    """The next question drops them from a rendering; what was read before the reply is not judged by them."""
    chat = [user("u"), said("why</think>call"), {"role": "tool", "content": "1"}, said("hm</think>done")]
    render = rendering(THINKING)
    assert not render([*chat, user("n")], True).startswith(render(chat[:-1], False))
    assert text_after_reply(chat, [user("n")], render) is not None


def test_nothing_new_ends_the_turn_and_opens_another() -> None:
    """The model is asked once more."""
    assert text_after_reply([user("u"), said("a")], [], rendering(CHATML)) == "<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize(
    "chat",
    [
        [],
        [user("u")],
        [user("u"), said("a"), user("v")],
    ],
    ids=["nothing", "a question", "no reply at the end"],
)
def test_only_a_reply_is_followed(chat: list[dict[str, Any]]) -> None:
    """What ends a turn of the assistant follows nothing else."""
    assert text_after_reply(chat, [user("n")], rendering(CHATML)) is None


@pytest.mark.parametrize(
    "source",
    [
        "{% for m in messages if m.role == 'user' %}{{ m.content }}\n{% endfor %}",
        "{% for m in messages %}{{ m.content }}|{{ m.content }}\n{% endfor %}",
        "{% for m in messages %}{{ m.content | upper }}\n{% endfor %}",
        "{{ messages | length }}{% for m in messages %}{{ m.content }}\n{% endfor %}",
        "{% if messages | length > 2 %}{{ raise_exception('too long') }}{% endif %}" + CHATML,
    ],
    ids=["dropped", "twice", "rewritten", "the beginning changes", "refused"],
)
def test_a_template_that_cannot_go_on_gives_none(source: str) -> None:
    """It shows the reply not once, or other text before it, or fails."""
    assert text_after_reply([user("u"), said("a")], [user("n")], rendering(source)) is None


def test_tools_that_move_with_the_last_question_give_none() -> None:
    """Going on would show them twice."""
    chat = [user("u"), said("a")]
    assert text_after_reply(chat, [user("n")], rendering(TOOLS_LAST, [{"name": "t"}])) is None
