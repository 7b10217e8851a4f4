"""How a model thinks, found from the source of its chat template and from its vocabulary."""

from __future__ import annotations

from typing import Any

import pytest

from erllama_py.chat.dialect import Dialects, find_dialect
from erllama_py.chat.thinking import FORMATS, ThinkingFormat, find_switch, find_thinking, is_opened

# Parts of templates as their authors write them: what opens a block, or what is taken off the messages of the past.
NAMED: list[tuple[str, str, str]] = [
    ("{{ content.split('</think>')[-1].lstrip('\\n') }}", "<think>", "</think>"),
    ("{{ '<|im_start|>assistant\\n<think>\\n\\n</think>\\n\\n' }}", "<think>", "</think>"),
    ("{{ '<|channel|>analysis<|message|>' + message.thinking + '<|end|>' }}", "<|channel|>analysis<|message|>",
     "<|end|>"),
    ("{{ '[THINK]' + block['thinking'] + '[/THINK]' }}", "[THINK]", "[/THINK]"),
    ("<|START_THINKING|>{{ message.tool_plan }}<|END_THINKING|>", "<|START_THINKING|>", "<|END_THINKING|>"),
    ("{%- set think_end_token = '</seed:think>' -%}", "<seed:think>", "</seed:think>"),
    ("{% set think_end_token = '</mm:think>' %}", "<mm:think>", "</mm:think>"),
    ("{{ '<longcat_think>\\n' }}{{ '</longcat_think>' }}", "<longcat_think>", "</longcat_think>"),
    ("◁think▷{{ x }}◁/think▷", "◁think▷", "◁/think▷"),
    ("{{ '<|channel>thought\\n<channel|>' }}{{ '<|think|>' }}", "<|channel>thought", "<channel|>"),
    ("<|open|>think<|sep|>{{ x }}<|close|>think<|sep|>", "<|open|>think<|sep|>", "<|close|>think<|sep|>"),
    ("<|think|>{{ x }}<|end|><|begin|>assistant<|content|>", "<|think|>", "<|end|>"),
    ("<|inner_prefix|>{{ x }}<|inner_suffix|>", "<|inner_prefix|>", "<|inner_suffix|>"),
    ("<|begin_of_thought|> {{ x }} <|end_of_thought|>", "<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<thinking>{{ x }}</thinking>", "<thinking>", "</thinking>"),
    ("{{ '<thought>\\n' }}{{ content.split('</thought>') }}", "<thought>", "</thought>"),
    ("<reasoning>{{ x }}</reasoning>", "<reasoning>", "</reasoning>"),
    ("Write after 'Here is my thought process:' and after 'Here is my response:'.", "Here is my thought process:",
     "Here is my response:"),
]  # fmt: skip
# The variable, what it is set to for thinking, and what for none; None: it cannot be.
SWITCHED: list[tuple[str, dict[str, Any], dict[str, Any] | None]] = [
    ("{% if enable_thinking is defined and enable_thinking is false %}x{% endif %}",
     {"enable_thinking": True}, {"enable_thinking": False}),
    ("{% set enable_thinking = enable_thinking | default(true) %}",
     {"enable_thinking": True}, {"enable_thinking": False}),
    ("{% if not thinking is defined %}{% set thinking = false %}{% endif %}", {"thinking": True}, {"thinking": False}),
    ("{% if thinking_mode is defined and thinking_mode == 'enabled' %}x{% endif %}",
     {"thinking_mode": "enabled"}, {"thinking_mode": "disabled"}),
    ("{% if reasoning is defined and not reasoning %}x{% endif %}", {"reasoning": True}, {"reasoning": False}),
    ("{% if thinking_budget is not defined %}{% set thinking_budget = -1 %}{% endif %}", {}, {"thinking_budget": 0}),
    ("{% if reasoning_effort is not defined %}{% set reasoning_effort = 'medium' %}{% endif %}", {}, None),
    ("{% if reasoning_effort == 'none' %}x{% endif %}",
     {"reasoning_effort": "high"}, {"reasoning_effort": "none"}),
    ("{% for m in messages %}{% generation %}{{ m }}{% endgeneration %}{% endfor %}{{ thinking }}",
     {"thinking": True}, {"thinking": False}),
    ("{% for m in messages %}{% if m.x %}{% break %}{% endif %}{% endfor %}{{ enable_thinking }}",
     {"enable_thinking": True}, {"enable_thinking": False}),
]  # fmt: skip


@pytest.mark.parametrize(("source", "opens", "closes"), NAMED, ids=[row[1] for row in NAMED])
def test_a_template_names_its_markers(source: str, opens: str, closes: str) -> None:
    """Also where it names but what closes a block."""
    form = find_thinking(source)
    assert form is not None
    assert (form.opens, form.closes) == (opens, closes)


def test_the_table_is_covered_by_templates() -> None:
    """A format without one would not be known to be found."""
    assert {entry.form.opens for entry in FORMATS} == {opens for _, opens, _ in NAMED}


@pytest.mark.parametrize("source", ["", "{{ messages }}", "{{ 'I think' }}", "{{ '<|im_start|>assistant' }}"])
def test_a_template_without_markers_has_no_thinking(source: str) -> None:
    """Nor is it guessed."""
    assert find_thinking(source) is None


@pytest.mark.parametrize("entry", [entry for entry in FORMATS if entry.tokens], ids=lambda entry: entry.form.opens)
def test_a_vocabulary_names_the_markers_too(entry: Any) -> None:
    """Where the template does not, both being tokens is enough; one alone is not."""
    form = entry.form
    assert find_thinking("{{ messages }}", {form.opens, form.closes}.__contains__) == form
    assert find_thinking("{{ messages }}", {form.closes}.__contains__) is None


def test_the_template_is_asked_before_the_vocabulary() -> None:
    """Models are trained further with other markers, on the vocabulary that is there."""
    form = find_thinking("<reasoning></reasoning>", {"<think>", "</think>"}.__contains__)
    assert form is not None
    assert form.opens == "<reasoning>"


def test_tags_around_the_answer_are_headers() -> None:
    """Of models that have them in their template."""
    form = find_thinking("<think>{{ t }}</think><response>{{ c }}</response>")
    assert form == ThinkingFormat(opens="<think>", closes="</think>", headers=("<response>", "</response>"))


@pytest.mark.parametrize(("source", "on", "off"), SWITCHED)
def test_a_template_has_a_switch(source: str, on: dict[str, Any], off: dict[str, Any] | None) -> None:
    """It is a variable that is asked for and not given otherwise."""
    switch = find_switch(source)
    assert switch is not None
    assert (switch.on, switch.off) == (on, off)


@pytest.mark.parametrize(
    "source",
    [
        "", "{{ messages }}", "{{ messages[0].thinking }}", "{% set thinking = 1 %}{{ thinking }}", "{% if %}",
        "{% nonesuch %}", "{{ x | nonesuch }}", "{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}",
        "{% for thinking in messages %}{{ thinking }}{% endfor %}", "{{ thinking }}" * 10_000,
    ],
)  # fmt: skip
def test_other_templates_have_none(source: str) -> None:
    """Fields of messages and variables of its own are no switch; what does not parse is reported when it is used."""
    assert find_switch(source) is None


@pytest.mark.parametrize(
    ("opening", "continued", "opened"),
    [
        ("<|im_start|>assistant\n<think>\n", False, True), ("<|im_start|>assistant\n", False, False),
        ("<|im_start|>assistant\n<think>\n\n</think>\n\n", False, False), ("<think>", False, True), ("", False, False),
        ("what is <think> for?<|im_end|>\n", False, False), ("<think>\nLet me", False, False),
        ("<think>\nLet me", True, True), ("<think>a</think>Yes", True, False), ("Yes", True, False),
        ("<think>a</think><think>b", True, True),
    ],
)  # fmt: skip
def test_a_prompt_may_open_the_block(opening: str, continued: bool, opened: bool) -> None:
    """By its end; of a message that is continued by all of it."""
    assert is_opened(ThinkingFormat(opens="<think>", closes="</think>"), opening, continued=continued) == opened


def test_a_dialect_is_found_once_for_each_source() -> None:
    """It is remembered; not without bound, since requests bring templates of their own."""
    asked: list[str] = []
    dialects = Dialects()

    def is_token(marker: str) -> bool:
        asked.append(marker)
        return False

    assert dialects.known("a") is None
    found = dialects.of("a", is_token)
    assert asked
    asked.clear()
    assert dialects.of("a", is_token) is found is dialects.known("a")
    assert asked == []
    for number in range(100):
        dialects.of(f"{number}", is_token)
    assert len(dialects._found) <= 16


def test_a_model_without_a_template_has_the_dialect_of_its_vocabulary() -> None:
    """It may be given prompts that its application has made."""
    dialect = find_dialect(None, {"<think>", "</think>"}.__contains__)
    assert dialect.thinking is not None
    assert dialect.switch is None
