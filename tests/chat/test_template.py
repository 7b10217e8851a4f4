"""What chat templates rely on, in small templates written in the styles that model families use."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest

from erllama_py.chat.template import ChatTemplate
from erllama_py.errors import ChatTemplateError

CHATML = """\
{% for message in messages %}
    {{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' }}
{% endfor %}
{% if add_generation_prompt %}
    {{- '<|im_start|>assistant' }}
{% endif %}
"""

# The system text goes into the first user's turn; turns must alternate.
GEMMA_STYLE = """\
{{ bos_token }}
{%- if messages[0].role == 'system' -%}
    {%- set opening = messages[0].content | trim + '\\n\\n' -%}
    {%- set turns = messages[1:] -%}
{%- else -%}
    {%- set opening = '' -%}
    {%- set turns = messages -%}
{%- endif -%}
{%- for turn in turns -%}
    {%- if (turn.role == 'user') != (loop.index0 % 2 == 0) -%}
        {{ raise_exception('Turns of user and assistant must alternate') }}
    {%- endif -%}
    {%- set who = 'model' if turn.role == 'assistant' else turn.role -%}
    <start_of_turn>{{ who }}
{{ opening if loop.first else '' }}
    {%- if turn.content is string -%}
        {{ turn.content | trim }}
    {%- elif turn.content is iterable -%}
        {%- for part in turn.content -%}{{ part.text | trim }}{%- endfor -%}
    {%- endif %}<end_of_turn>
{% endfor -%}
{%- if add_generation_prompt %}<start_of_turn>model
{% endif -%}
"""

LLAMA_STYLE = """\
{{- bos_token }}
{%- if date_string is not defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now('%d %b %Y') %}
    {%- else %}
        {%- set date_string = '26 Jul 2024' %}
    {%- endif %}
{%- endif %}
{{- '<|header|>system<|/header|>\\n\\nToday: ' + date_string + '<|eot|>' }}
{%- for message in messages %}
    {{- '<|header|>' + message.role + '<|/header|>\\n\\n' + message.content | trim + '<|eot|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|header|>assistant<|/header|>\\n\\n' }}{%- endif %}
"""

# Thoughts are kept only after the last question, which is sought from the end.
QWEN_STYLE = """\
{%- macro turn(role, text) -%}
    {{- '<' + role + '>' + text + '</' + role + '>' -}}
{%- endmacro -%}
{%- if tools %}
    {{- '<tools>' }}
    {%- for tool in tools %}{{- '\\n' + tool | tojson }}{%- endfor %}
    {{- '\\n</tools>' }}
{%- endif %}
{%- set ns = namespace(last_question=messages | length - 1) %}
{%- for message in messages[::-1] %}
    {%- if message.role == 'user' and not message.content.startswith('<result>') %}
        {%- set ns.last_question = messages | length - 1 - loop.index0 %}
        {%- break %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.tool_calls %}
        {%- for call in message.tool_calls %}
            {%- if call.function %}{%- set call = call.function %}{%- endif %}
            {{- turn('call', call.name + ' ' + (call.arguments | tojson)) }}
        {%- endfor %}
    {%- elif message.role == 'assistant' and '</think>' in message.content and loop.index0 < ns.last_question %}
        {{- turn('assistant', message.content.split('</think>')[-1].lstrip('\\n')) }}
    {%- else %}
        {{- turn(message.role, message.content) }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<assistant>' }}{%- endif %}
"""

HELLO = [{"role": "user", "content": "Hello"}]


def a_template(source: str | None) -> ChatTemplate:
    return ChatTemplate(source, "<s>", "</s>", now=lambda: datetime(2026, 2, 3))


def render(source: str, messages: Any = HELLO, **options: Any) -> str:
    return a_template(source).render(messages, **options)


def test_chatml_gives_each_message_its_frame_and_opens_the_answer() -> None:
    """Blocks leave no blank line and no indentation."""
    messages = [{"role": "system", "content": "Be brief."}, *HELLO]
    frames = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n"
    assert render(CHATML, messages) == frames + "<|im_start|>assistant\n"
    assert render(CHATML, messages, add_generation_prompt=False) == frames


def test_gemma_folds_the_system_text_into_the_first_turn() -> None:
    """Slices of the messages, `is string` and inline conditions work as the template's author meant."""
    messages = [
        {"role": "system", "content": "Be brief."},
        *HELLO,
        {"role": "assistant", "content": " Hi "},
        {"role": "user", "content": [{"type": "text", "text": "Bye"}]},
    ]
    assert render(GEMMA_STYLE, messages) == (
        "<s><start_of_turn>user\nBe brief.\n\nHello<end_of_turn>\n<start_of_turn>model\nHi<end_of_turn>\n"
        "<start_of_turn>user\nBye<end_of_turn>\n<start_of_turn>model\n"
    )


def test_a_template_refuses_in_its_own_words() -> None:
    """What it gives to `raise_exception` is the whole problem."""
    with pytest.raises(ChatTemplateError) as refusal:
        render(GEMMA_STYLE, HELLO * 2)
    assert refusal.value.problem == "Turns of user and assistant must alternate"


def test_llama_tells_the_date_and_begins_with_the_begin_token() -> None:
    """`strftime_now` formats the time of the template's clock; `trim` binds closer than `+`."""
    assert render(LLAMA_STYLE, [{"role": "user", "content": " Hello\n"}]) == (
        "<s><|header|>system<|/header|>\n\nToday: 03 Feb 2026<|eot|>"
        "<|header|>user<|/header|>\n\nHello<|eot|><|header|>assistant<|/header|>\n\n"
    )


def test_qwen_lists_tools_and_drops_old_thoughts() -> None:
    """Macros, a namespace, a slice that runs backwards and `break` work."""
    messages = [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": "<think>hm</think>\nWhere?"},
        {"role": "user", "content": "Zürich"},
        {"role": "assistant", "tool_calls": [{"function": {"name": "weather", "arguments": {"town": "Zürich"}}}]},
        {"role": "user", "content": "<result>12 °C</result>"},
        {"role": "assistant", "content": "<think>ok</think>12"},
    ]
    assert render(QWEN_STYLE, messages, tools=[{"name": "weather", "about": "<now> & 'here'"}]) == (
        '<tools>\n{"name": "weather", "about": "<now> & \'here\'"}\n</tools><user>Weather?</user>'
        '<assistant>Where?</assistant><user>Zürich</user><call>weather {"town": "Zürich"}</call>'
        "<user><result>12 °C</result></user><assistant><think>ok</think>12</assistant><assistant>"
    )


@pytest.mark.parametrize("tools", [None, [], ()])
def test_no_tools_are_none(tools: Any) -> None:
    """Templates that ask `tools is not none` see the same as those that ask for truth."""
    assert render("{{ tools is none }}", tools=tools) == "True"


def test_tojson_writes_what_a_model_should_read() -> None:
    """No escapes for HTML or for letters beyond ASCII unless asked; the layout can be given; order stays."""
    told = [{"role": "user", "content": "", "x": {"b": "<é>", "a": 1}}]
    assert render("{{ messages[0].x | tojson }}", told) == '{"b": "<é>", "a": 1}'
    assert render("{{ messages[0].x | tojson(indent=1) }}", told) == '{\n "b": "<é>",\n "a": 1\n}'
    assert render("{{ messages[0].x | tojson(ensure_ascii=true, separators=(',', ':'), sort_keys=true) }}", told) == (
        '{"a":1,"b":"<\\u00e9>"}'
    )


def test_training_marks_are_let_through() -> None:
    """The block of `generation` is just its content."""
    assert render("a{% generation %}{{ messages[0].content }}{% endgeneration %}{{ eos_token }}") == "aHello</s>"


def test_parts_of_text_are_joined_by_line_feeds() -> None:
    """A template that takes only text gets text."""
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    assert render("{{ messages[0].content }}", [{"role": "user", "content": parts}]) == "one\ntwo"


def test_what_templates_know_of_a_message_is_all_its_fields() -> None:
    """Fields beside role and content reach the template."""
    messages = [{"role": "tool", "content": "12", "name": "weather"}]
    assert render("{% for m in messages %}{{ m.name }}={{ m.content }}{% endfor %}", messages) == "weather=12"


def test_a_template_renders_again_and_again() -> None:
    """One rendering leaves nothing for the next."""
    template = a_template("{% set n = namespace(n=1) %}{% set n.n = n.n + 1 %}{{ n.n }}{{ messages[0].content }}")
    assert [template.render(HELLO) for _ in range(2)] == ["2Hello", "2Hello"]
