"""Conversations are rendered as the Transformers library renders them: templates are written and tested with it."""

from __future__ import annotations

import os
from datetime import datetime
from typing import Any

import pytest
from helpers.conversations import PLAIN, THOUGHT, TOOLS, WITH_CALLS, said, user
from helpers.families import FAMILIES, GEMMA, QWEN3, WITH_TOOLS
from helpers.plain_families import PARTS_ONLY

from erllama_py.chat.template import ChatSettings, ChatTemplate
from erllama_py.errors import ChatTemplateError

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
oracle = pytest.importorskip("transformers.utils.chat_template_utils")


def theirs(source: str, messages: Any, tools: Any = None, *, continued: bool = False, **more: Any) -> str | None:
    """What the library renders; None where it refuses, or the template does."""
    documents = more.pop("documents", None)
    try:
        texts, _ = oracle.render_jinja_template(
            [oracle._normalize_chat_messages(messages)], tools=tools, documents=documents, chat_template=source,
            continue_final_message=continued, add_generation_prompt=not continued, bos_token="<s>", eos_token="</s>",
            **more,
        )  # fmt: skip
    except Exception:
        return None
    return str(texts[0])


def ours(source: str, messages: Any, tools: Any = None, *, continued: bool = False, **more: Any) -> str | None:
    """What we render; None where it is refused."""
    settings = ChatSettings(tools=tools, template_kwargs=more)
    try:
        return ChatTemplate(source, "<s>", "</s>", now=datetime.now).render(
            messages, settings=settings, continue_final_message=continued
        )
    except ChatTemplateError:
        return None


@pytest.mark.parametrize("conversation", PLAIN)
@pytest.mark.parametrize("family", FAMILIES)
def test_conversations_are_rendered_alike(family: str, conversation: str) -> None:
    """The same text, or both refuse it."""
    source, messages = FAMILIES[family], PLAIN[conversation]
    assert ours(source, messages) == theirs(source, messages)


@pytest.mark.parametrize("conversation", WITH_CALLS)
@pytest.mark.parametrize("family", WITH_TOOLS)
def test_tools_calls_and_results_are_rendered_alike(family: str, conversation: str) -> None:
    """Where the template shows tools."""
    source, messages = FAMILIES[family], WITH_CALLS[conversation]
    if family == "phi4":  # it shows them in the system message
        messages = [{"role": "system", "content": "Be brief."}, user("Weather?")]
    text = ours(source, messages, TOOLS)
    assert text == theirs(source, messages, TOOLS)
    assert text is None or "weather" in text


@pytest.mark.parametrize(
    ("family", "more"),
    [
        ("qwen3", {"enable_thinking": False}),
        ("smollm3", {"enable_thinking": False}),
        ("harmony", {"reasoning_effort": "high"}),
        ("command-r", {"documents": [{"title": "t", "text": "x"}]}),
        ("llama3.1", {"custom_tools": [{"name": "f"}]}),
    ],
)
def test_template_arguments_are_rendered_alike(family: str, more: dict[str, Any]) -> None:
    """And each of them changes something."""
    text = ours(FAMILIES[family], [user("Hi")], **more)
    assert text == theirs(FAMILIES[family], [user("Hi")], **more)
    assert text != ours(FAMILIES[family], [user("Hi")])


@pytest.mark.parametrize("final", ["The answer", "Ends with a space ", "\n\nbegins", "", "  ", THOUGHT])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_continued_message_is_cut_alike(family: str, final: str) -> None:
    """After its text, whether the template trims it or not; what it does not show cannot be continued."""
    messages = [user("Hi"), said(final)]
    text = ours(FAMILIES[family], messages, continued=True)
    assert text == theirs(FAMILIES[family], messages, continued=True)


PARTS = [{"role": "user", "content": [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]}]


@pytest.mark.parametrize("source", [GEMMA, PARTS_ONLY, FAMILIES["glm"]])
def test_parts_are_given_to_templates_that_show_them(source: str) -> None:
    """As they are; others get them as one text, where the library writes Python's own form of a list."""
    assert ours(source, PARTS) == theirs(source, PARTS)


@pytest.mark.parametrize("family", FAMILIES)
def test_parts_are_one_text_where_a_template_takes_only_texts(family: str) -> None:
    """Whatever the family, both parts are there, and nothing of Python is."""
    text = ours(FAMILIES[family], PARTS)
    assert text is not None
    assert "one" in text
    assert "two" in text
    assert "'text'" not in text


def test_a_template_that_wants_parts_gets_parts() -> None:
    """A text becomes one part."""
    assert ours(PARTS_ONLY, [user("Hi")]) == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"


def test_arguments_as_json_text_are_what_they_say() -> None:
    """Clients of OpenAI's API send them as text; templates write them as JSON themselves."""
    as_text = [user("?"), said("", tool_calls=[{"function": {"name": "f", "arguments": '{"a": "é"}'}}])]
    as_mapping = [user("?"), said("", tool_calls=[{"function": {"name": "f", "arguments": {"a": "é"}}}])]
    assert ours(QWEN3, as_text) == theirs(QWEN3, as_mapping)


@pytest.mark.parametrize("arguments", ["no JSON", "[1]", '"text"', "", "[" * 100_000, "1" * 10_000])
def test_arguments_that_are_no_object_stay_text(arguments: str) -> None:
    """The model has written them so."""
    calls = [{"function": {"name": "f", "arguments": arguments}}]
    template = "{{ messages[0].tool_calls[0].function.arguments }}"
    assert ours(template, [said("", tool_calls=calls)]) == arguments
