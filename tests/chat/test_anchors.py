"""Where conversations part: the same place for all that begin alike, whatever users say, with all templates."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from erllama_py.chat.template import ChatTemplate
from erllama_py.chat.turns import MADE_UP_MESSAGE, Message, anchors
from erllama_py.engine.stub import CHAT_TEMPLATE as CHATML

# The system text goes into the first user's turn, and turns alternate.
FOLDING = (
    "{{ bos_token }}{% set opening = messages[0].content | trim + '\n\n' if messages[0].role == 'system' else '' %}"
    "{% for turn in (messages[1:] if opening else messages) %}"
    "{% if (turn.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('alternate!') }}{% endif %}"
    "<|turn|>{{ turn.role }}\n{{ opening if loop.first else '' }}{{ turn.content | trim }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|turn|>model\n{% endif %}"
)
# Tools and system text stand before the last user message, wherever that is.
TOOLS_LAST = (
    "<s>{% for m in messages if m.role != 'system' %}{% if m.role == 'user' %}"
    "{% if loop.last %}[TOOLS]{{ messages[0].content }}[/TOOLS]{% endif %}[INST]{{ m.content }}[/INST]"
    "{% else %}{{ m.content }}</s>{% endif %}{% endfor %}"
)
# No control tokens: texts stand next to words, and the text of a turn merges with what is before it.
BARE = (
    "{{ tools | tojson if tools else '' }}"
    "{% for m in messages %}{{ m.role }}:{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
NEEDS_A_PAIR = "{% if messages | length < 4 %}{{ raise_exception('too short') }}{% endif %}" + CHATML
HIDES_USERS = "{% for m in messages if m.role != 'user' %}{{ m.content }}\n{% endfor %}"

Tokenize = Callable[[str], list[int]]


def as_bytes(text: str) -> list[int]:
    """A token a byte: nothing ever merges."""
    return list(text.encode())


def as_words(text: str) -> list[int]:
    """Control tokens, words, runs of spaces, of punctuation: all that stands together is one token."""
    return [hash(piece) for piece in re.findall(r"<\|\w+\|>|\w+|\s+|[^\w\s]+", text)]


TOKENIZERS = [as_bytes, as_words]


def system(text: str) -> dict[str, Any]:
    return {"role": "system", "content": text}


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def said(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


@cache
def compiled(source: str) -> ChatTemplate:
    return ChatTemplate(source, "<s>", "</s>")


def rendering(source: str, tools: Any = None) -> Callable[[Sequence[Message], bool], str]:
    template = compiled(source)
    return lambda messages, opened: template.render(messages, tools=tools, add_generation_prompt=opened)


def found(
    source: str, messages: list[dict[str, Any]], tokenize: Tokenize = as_bytes, tools: Any = None
) -> tuple[list[int], tuple[int, ...]]:
    """The tokens of a conversation, and its anchors."""
    render = rendering(source, tools)
    tokens = tokenize(render(messages, True))
    return tokens, anchors(messages, tokens, render, tokenize, bool(tools))


def as_text(tokens: list[int]) -> str:
    return bytes(tokens).decode()


texts = st.text(st.sampled_from("ab \n.:|<é"), max_size=8)


@pytest.mark.parametrize("tokenize", TOKENIZERS)
@pytest.mark.parametrize("source", [CHATML, FOLDING, BARE])
@given(texts, texts, texts, texts)
def test_conversations_with_one_system_prompt_have_one_first_anchor(
    source: str, tokenize: Tokenize, prompt: str, one: str, other: str, answer: str
) -> None:
    """Whatever the users say, and however long the conversations are: the same position, the same tokens up to it."""
    mine, mine_at = found(source, [system(prompt + "!"), user(one)], tokenize)
    theirs, theirs_at = found(source, [system(prompt + "!"), user(other), said(answer), user(one)], tokenize)
    assert mine_at[:1] == theirs_at[:1] != ()
    assert mine[: mine_at[0]] == theirs[: mine_at[0]]


@pytest.mark.parametrize("tokenize", TOKENIZERS)
@given(texts, texts, texts, st.lists(st.tuples(texts, texts), max_size=3))
def test_a_turn_asked_again_diverges_after_the_last_anchor(
    tokenize: Tokenize, prompt: str, one: str, other: str, turns: list[tuple[str, str]]
) -> None:
    """The conversation before it is shared whole, up to a token."""
    before = [system(prompt), *(message for asked, answer in turns for message in (user(asked), said(answer)))]
    mine, mine_at = found(CHATML, [*before, user(one)], tokenize)
    theirs, theirs_at = found(CHATML, [*before, user(other)], tokenize)
    assert mine_at == theirs_at
    assert mine[: mine_at[-1]] == theirs[: mine_at[-1]]
    ends = tokenize(rendering(CHATML)(before, False))
    assert mine_at[-1] >= len(ends)


SHAPES = st.sampled_from([system("s"), user("u"), said("a"), user(MADE_UP_MESSAGE)])


@given(texts, st.lists(SHAPES, min_size=1, max_size=6))
def test_anchors_ascend_inside_the_prompt(prompt: str, messages: list[dict[str, Any]]) -> None:
    """For conversations of any shape: at most two, each leaving a token to compute."""
    for source in (CHATML, BARE, TOOLS_LAST, HIDES_USERS):
        tokens, at = found(source, [system(prompt), *messages])
        assert len(at) <= 2
        assert list(at) == sorted(set(at))
        assert all(0 < position < len(tokens) for position in at)


def test_the_two_places_of_a_chat() -> None:
    """The end of the system prompt, and the end of what precedes the last question; a token is left for merging."""
    chat = [system("Be brief."), user("Hi"), said("Hello"), user("Bye")]
    tokens, at = found(CHATML, chat)
    assert [as_text(tokens[:position])[-22:] for position in at] == ["|im_end|>\n<|im_start|>user"[-22:]] * 2
    assert as_text(tokens[at[0] :]).startswith("\nHi")
    assert as_text(tokens[at[1] :]).startswith("\nBye")


def test_a_first_question_has_one_anchor() -> None:
    """Both places are one."""
    tokens, at = found(CHATML, [system("Be brief."), user("Hi")])
    assert [as_text(tokens[position:])[:3] for position in at] == ["\nHi"]


def test_without_anything_shared_there_is_no_anchor() -> None:
    """A lone question begins as every conversation does; that is not worth a row."""
    assert found(CHATML, [user("Hi")])[1] == ()


def test_tools_are_shared_as_a_system_prompt_is() -> None:
    """With them there is an anchor without any system message."""
    tokens, at = found(BARE, [user("Hi")], tools=[{"name": "clock"}])
    assert as_text(tokens[: at[0]]) == '[{"name": "clock"}]user'


def test_several_opening_messages_are_shared_together() -> None:
    """Developers' too; a system message in the middle is part of the conversation."""
    chat = [system("A"), {"role": "developer", "content": "B"}, user("Hi"), system("C"), user("Bye")]
    tokens, at = found(CHATML, chat)
    assert [as_text(tokens[position:]).split("<")[0] for position in at] == ["\nHi", "\nBye"]


def test_results_of_tools_after_the_question_move_no_anchor() -> None:
    """An agent's later steps continue the same question."""
    chat = [system("A"), user("Hi"), said("calling"), {"role": "tool", "content": "12"}]
    assert found(CHATML, chat)[1] == found(CHATML, chat[:2])[1]


def test_a_folded_system_prompt_ends_inside_the_first_turn() -> None:
    """There is no border in the template, yet all conversations share it."""
    chat = [system(" Be brief. "), user("Hi"), said("Hello"), user("Bye")]
    tokens, at = found(FOLDING, chat)
    assert as_text(tokens[: at[0]]) == "<s><|turn|>user\nBe brief.\n"
    assert as_text(tokens[at[1] :]).startswith("\nBye")


def test_a_template_that_refuses_gives_no_anchor() -> None:
    """Where it refuses the shortened conversation, and only there."""
    chat = [system("A"), user("Hi"), said("Hello"), user("Bye")]
    tokens, at = found(NEEDS_A_PAIR, chat)
    assert [as_text(tokens[position:]).split("<")[0] for position in at] == ["\nBye"]


def test_what_moves_with_the_last_message_is_no_anchor() -> None:
    """In the shortened conversation the tools come first; in the whole one they do not."""
    tokens, at = found(TOOLS_LAST, [system("T"), user("Hi"), said("Hello"), user("Bye")])
    assert [as_text(tokens[:position]) for position in at] == ["<s>[INST]Hi[/INST]Hello</s>[TOOLS]T[/TOOLS][INST"]


def test_a_template_that_leaves_users_out_gives_no_anchor() -> None:
    """Their place cannot be found then."""
    assert found(HIDES_USERS, [system("A"), user("Hi"), said("Hello"), user("Bye")])[1] == ()


def test_a_text_that_merges_with_the_template_shares_the_anchor() -> None:
    """A line feed first makes one token with the template's own: it is the one after the anchor."""
    plain, at = found(CHATML, [system("A"), user("Hi")], as_words)
    merged, merged_at = found(CHATML, [system("A"), user("\n\nHi")], as_words)
    assert at == merged_at
    assert plain[: at[0]] == merged[: at[0]]
    assert plain[at[0]] != merged[at[0]]


def test_each_anchor_costs_one_rendering_and_one_tokenization() -> None:
    """Two at most."""
    calls: list[str] = []
    render = rendering(CHATML)

    def counted(name: str, function: Callable[..., Any], *arguments: Any) -> Any:
        calls.append(name)
        return function(*arguments)

    chat = [system("A"), user("Hi"), said("Hello"), user("Bye")]
    anchors(
        chat, as_bytes(render(chat, True)), partial(counted, "render", render), partial(counted, "tokenize", as_bytes),
        False,
    )  # fmt: skip
    assert sorted(calls) == ["render"] * 2 + ["tokenize"] * 2
