"""The grammar of a whole reply, followed by a matcher over the stub's tokens."""

from __future__ import annotations

from functools import partial

import pytest

from erllama_py.chat.reply_grammar import Thought, reply_grammar
from erllama_py.chat.structure import structure_text
from erllama_py.chat.thinking import ThinkingFormat
from erllama_py.engine.structure import compile
from erllama_py.engine.stub import StubVocabulary
from erllama_py.handle.reading import split_marker

VOCABULARY = StubVocabulary("stub", 300)
THINK = ThinkingFormat(opens="<think>", closes="</think>")
SPLIT = partial(split_marker, VOCABULARY)


def is_followed(grammar: str, text: str) -> bool:
    """Whether a reply may be this text, and may end there."""
    matcher = compile(grammar, VOCABULARY.structure_tokenizer())
    for token in VOCABULARY.tokenize(text, add_special=False, parse_special=True):
        if not matcher.allows(token):
            return False
        matcher.accept(token)
    return matcher.is_over or any(matcher.allows(end) for end in VOCABULARY.ends)


@pytest.mark.parametrize(
    ("opens", "closes"), [("<think>", "</think>"), ("<|im_start|>", "</think>"), ("[T]", "<|im_start|>")]
)
def test_a_reply_thinks_freely_and_then_follows_its_structure(opens: str, closes: str) -> None:
    """With markers of either kind; what is thought may look like anything but the end of thinking."""
    structure = structure_text(json_schema={"type": "integer"})
    thinking = Thought(form=ThinkingFormat(opens=opens, closes=closes))
    grammar = reply_grammar(SPLIT, thinking=thinking, structure=structure)
    assert grammar is not None
    assert is_followed(grammar, "17")
    assert is_followed(grammar, f"{opens}hm <thi <tool> {{ ü\n{closes}\n\n17")
    assert not is_followed(grammar, f"{opens}hm{closes}x")
    assert not is_followed(grammar, f"{opens}hm")


def test_thinking_that_the_prompt_has_opened_comes_first() -> None:
    """The reply begins in it, so a structure alone is no reply."""
    thinking = Thought(form=THINK, begun=True)
    grammar = reply_grammar(SPLIT, thinking=thinking, structure=structure_text(regex="a+"))
    assert grammar is not None
    assert is_followed(grammar, "so\n</think>\naa")
    assert not is_followed(grammar, "aa")


def test_without_a_structure_anything_may_be_written() -> None:
    """Free thinking and free text need no grammar."""
    assert reply_grammar(SPLIT, thinking=Thought(form=THINK)) is None


@pytest.mark.parametrize("closes", ["<|im_end|>", "</think>"])
def test_headers_stand_around_the_structure(closes: str) -> None:
    """As formats have them that mark the text, too."""
    form = ThinkingFormat(opens="<think>", closes=closes, headers=("<|im_start|>assistant", "<answer>", "</answer>"))
    grammar = reply_grammar(SPLIT, thinking=Thought(form=form), structure=structure_text(regex="[ab]+"))
    assert grammar is not None
    assert is_followed(grammar, f"<think>hm{closes}<|im_start|>assistant\n<answer>abba</answer>")
    assert is_followed(grammar, "<answer>ab")
    assert is_followed(grammar, f"<think>{closes}ab")
    assert not is_followed(grammar, "<answer>abc")
    assert not is_followed(grammar, "<answer></answer>")
