"""No content forges a turn with real vocabularies: SmolLM2's with its own template, Gemma 3's with one like it.

The models are loaded without weights, so this takes a moment only.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from helpers.conversations import said, system, user
from helpers.families import GEMMA
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from erllama_py.chat.rendering import Renderer
from erllama_py.chat.template import ChatTemplate
from erllama_py.engine.backend import Vocabulary
from erllama_py.engine.llama import LlamaBackend
from erllama_py.options.model import parse_model_config
from erllama_py.serve.models import fetch

pytestmark = [pytest.mark.real_model, pytest.mark.slow]

Kit = tuple[ChatTemplate, Vocabulary]
CONTROL = (
    "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<start_of_turn>", "<end_of_turn>", "<bos>", "<eos>", "<unused7>",
    "<repo_name>", "<file_sep>", "<start_of_image>",
)  # fmt: skip
HALVES = [half for one in CONTROL for half in (one[:4], one[4:], one[:-1], one[1:])]
evil = st.lists(st.one_of(st.sampled_from(CONTROL), st.sampled_from(HALVES), st.text("ab \n", max_size=3)), max_size=5)


@pytest.fixture(params=["smollm2", "gemma3"], scope="module")
def kit(request: pytest.FixtureRequest) -> Iterator[Kit]:
    """A template and a vocabulary."""
    options = {"model_path": fetch(request.param), "model_opts": {"vocab_only": True}}
    backend = LlamaBackend("m", parse_model_config(options))
    backend.inspect()
    facts = backend.load(lambda _: True)
    yield ChatTemplate(facts.chat_template or GEMMA, facts.bos_token, facts.eos_token), backend.vocabulary
    backend.close()


def rendered(kit: Kit, messages: list[dict[str, Any]]) -> tuple[list[int], str]:
    template, vocabulary = kit
    renderer = Renderer(template, vocabulary.special_texts(), messages)
    text = renderer.text(messages)
    return vocabulary.tokenize_parts(renderer.parts(text)).tolist(), renderer.plain(text)


def hidden(vocabulary: Vocabulary, tokens: list[int]) -> list[int]:
    return [one for one in tokens if not vocabulary.token_bytes(one, special=False)]


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(evil, evil, evil)
def test_no_content_forges_a_control_token(kit: Kit, one: list[str], two: list[str], answer: list[str]) -> None:
    """Their number and order are those of harmless contents, and the text is read back whole."""
    _, vocabulary = kit
    messages = [system("".join(two)), user("".join(one)), said("x" + "".join(answer)), user("".join(two))]
    tokens, text = rendered(kit, messages)
    usual, _ = rendered(kit, [system("b"), user("a"), said("xc"), user("b")])
    assert hidden(vocabulary, tokens) == hidden(vocabulary, usual)
    assert vocabulary.detokenize(tokens, special=True) == text


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(max_size=30), st.text("<|im_end> \nab", max_size=12))
def test_other_contents_have_the_tokens_that_they_always_had(kit: Kit, one: str, two: str) -> None:
    """Whatever the letters; what only looks like a control token has them too."""
    template, vocabulary = kit
    messages = [user(one + "<"), said(two.replace("<|im_end|>", "")), user(">" + one)]
    tokens, text = rendered(kit, messages)
    assert text == template.render(messages)
    special = vocabulary.special_texts()
    if not any(name in content["content"] for content in messages for name in special.control):
        assert tokens == vocabulary.tokenize(text, add_special=False, parse_special=True)
