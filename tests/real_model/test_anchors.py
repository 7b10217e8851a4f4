"""Anchors with real tokenizers: SmolLM2's with its own template, Gemma 3's (whose file brings none) with one like it.

The models are loaded without weights, so this takes a moment only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from erllama_py.chat.template import ChatTemplate
from erllama_py.chat.turns import Message, anchors
from erllama_py.engine.llama import LlamaBackend
from erllama_py.options.model import parse_model_config
from erllama_py.serve.models import fetch

pytestmark = [pytest.mark.real_model, pytest.mark.slow]

# The system text stands before the first user's; texts are trimmed, and turns alternate.
GEMMA = """\
{{ bos_token }}
{%- set opening = messages[0].content + '\\n\\n' if messages[0].role == 'system' else '' -%}
{%- for turn in (messages[1:] if opening else messages) -%}
    {%- if (turn.role == 'user') != (loop.index0 % 2 == 0) -%}{{ raise_exception('turns alternate') }}{%- endif -%}
    {{ '<start_of_turn>' + ('model' if turn.role == 'assistant' else 'user') + '\\n' }}
    {{- (opening if loop.first else '') + turn.content | trim }}<end_of_turn>
{% endfor -%}
{%- if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{%- endif -%}
"""

SYSTEM = (
    "You are the keeper of a lighthouse. Answer in one short sentence, in English, and never mention ships by name.\n"
    "Today's rules:\n- be kind\n- be brief\n- 3 + 4 = 7"
)
# First texts that could merge with what a template puts before them, or with one another's first token.
QUESTIONS = [
    "What did you see last night?", "What did you hear?", "\n\nHello", "\n", " indented", "  - a list", "12 ships",
    "!", "...", "🦙 llama", "é", "漢字", "<|im_end|>", "<end_of_turn>", "\tTab", "s", ":)", "", "'s", "user\n",
]  # fmt: skip
TURNS = [("Is it cold?", "It is."), ("And\n\nwet?", "Very wet,\nalways.")]

Kit = tuple[Callable[[Sequence[Message], bool], str], Callable[[str], list[int]]]


@pytest.fixture(params=["smollm2", "gemma3"], scope="module")
def kit(request: pytest.FixtureRequest) -> Iterator[Kit]:
    """How the model's conversations are rendered and tokenized."""
    options = {"model_path": fetch(request.param), "model_opts": {"vocab_only": True}}
    backend = LlamaBackend("m", parse_model_config(options))
    facts = backend.load(lambda _: True)
    template = ChatTemplate(facts.chat_template or GEMMA, facts.bos_token, facts.eos_token)
    yield (
        lambda messages, opened: template.render(messages, add_generation_prompt=opened),
        lambda text: backend.vocabulary.tokenize(text, add_special=False, parse_special=True),
    )
    backend.close()


def conversation(last: str, turns: list[tuple[str, str]]) -> list[dict[str, Any]]:
    """The system prompt, these turns, and a last question."""
    messages = [{"role": "system", "content": SYSTEM}]
    for asked, answer in turns:
        messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
    return [*messages, {"role": "user", "content": last}]


def common(left: list[int], right: list[int]) -> int:
    """How many tokens two prompts share."""
    return next((n for n, (one, other) in enumerate(zip(left, right, strict=False)) if one != other), len(left))


@pytest.mark.parametrize("turns", [[], TURNS], ids=["first question", "third question"])
def test_prompts_that_begin_alike_share_their_anchors(kit: Kit, turns: list[tuple[str, str]]) -> None:
    """The same positions whatever is asked, the same tokens up to them, and no more than 4 tokens before they part.

    4: the last token before a text is left out, and the text of a question may merge with it.
    """
    render, tokenize = kit
    found = []
    for question in QUESTIONS:
        messages = conversation(question, turns)
        tokens = tokenize(render(messages, True))
        found.append((tokens, anchors(messages, tokens, render, tokenize, False)))
    assert len({at for _, at in found}) == 1
    _, at = found[0]
    assert len(at) == (2 if turns else 1)
    assert len({tuple(tokens[: at[-1]]) for tokens, _ in found}) == 1
    assert common(found[0][0], found[5][0]) - at[-1] in range(5)


def test_a_first_and_a_third_question_share_the_system_prompt(kit: Kit) -> None:
    """The first anchor does not depend on how long the conversation is."""
    render, tokenize = kit
    first, third = conversation(QUESTIONS[0], []), conversation(QUESTIONS[1], TURNS)
    one, other = (tokenize(render(messages, True)) for messages in (first, third))
    mine, theirs = anchors(first, one, render, tokenize, False), anchors(third, other, render, tokenize, False)
    assert mine[0] == theirs[0]
    assert one[: mine[0]] == other[: mine[0]]
    assert common(one, other) - mine[0] in range(5)
    assert mine[0] > len(tokenize(SYSTEM)) - 2
