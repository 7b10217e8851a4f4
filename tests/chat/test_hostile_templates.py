"""Hostile templates end: with little work, in little memory, and with an error that says so."""

from __future__ import annotations

import json
import threading
import tracemalloc
from typing import Any

import jinja2
import pytest

from erllama_py.chat.fuel import BASE, Fuel, burning, fuel_for
from erllama_py.chat.sandbox import MOST_SOURCE, compiled
from erllama_py.chat.template import ChatSettings, ChatTemplate
from erllama_py.errors import ChatTemplateError

HELLO = [{"role": "user", "content": "Hello"}]
MEGABYTE = 1 << 20
# A value that Python's own code would read for years: two in each other, forty deep.
NESTED = "{% set ns = namespace(s=(1,)) %}{% for i in range(40) %}{% set ns.s = (ns.s, ns.s) %}{% endfor %}"
ROUND = "{% set ns = namespace() %}{% set ns.a = ns %}"
# Each would take minutes, years or gigabytes.
BOMBS = [
    "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
    "{% for a in range(100000) %}{% for b in range(100000) if false %}{% endfor %}{% endfor %}",
    "{% for i in range(10**10) %}{% endfor %}",
    (
        "{% set ns = namespace(s='aaaaaaaa') %}{% for i in range(60) %}{% set ns.s = ns.s ~ ns.s %}"
        "{% endfor %}{{ ns.s|length }}"
    ),
    (
        "{% set ns = namespace(s='aaaaaaaa') %}{% for i in range(60) %}{% set ns.s = ns.s + ns.s %}"
        "{% endfor %}{{ ns.s|length }}"
    ),
    (
        "{% set ns = namespace(s=[1]) %}{% for i in range(60) %}{% set ns.s = ns.s + ns.s %}{% endfor %}"
        "{{ ns.s|length }}"
    ),
    ("{% set ns = namespace(s=[1]) %}{% for i in range(60) %}{% set ns.s = [ns.s, ns.s] %}{% endfor %}{{ ns.s }}"),
    (
        "{% set ns = namespace(s=[1]) %}{% for i in range(60) %}{% set ns.s = [ns.s, ns.s] %}{% endfor %}"
        "{{ ns.s|tojson }}"
    ),
    (
        "{% set ns = namespace(s=(1,),t=(1,)) %}{% for i in range(60) %}{% set ns.s = (ns.s, ns.s) %}"
        "{% set ns.t = (ns.t, ns.t) %}{% endfor %}{{ ns.s == ns.t }}"
    ),
    (
        "{% set ns = namespace(s=(1,)) %}{% for i in range(60) %}{% set ns.s = (ns.s, ns.s) %}{% endfor %}"
        "{{ {ns.s: 1} }}"
    ),
    ("{% set ns = namespace(s=(1,)) %}{% for i in range(60) %}{% set ns.s = (ns.s, ns.s) %}{% endfor %}{{ {}[ns.s] }}"),
    "{% set ns = namespace() %}{% set ns.a = ns %}{% set ns.b = ns %}{{ ns }}",
    "{{ 'a' * 10**9 }}",
    "{{ 10**9 * 'a' }}",
    "{{ ([1] * 10**9)|length }}",
    "{{ 'a'.center(10**9) }}",
    "{{ 'a'.ljust(1000000000) }}",
    "{{ 'a'|center(1000000000) }}",
    "{{ '%1000000000d' % 1 }}",
    "{{ '%0*d' % (1000000000, 1) }}",
    "{{ '%.1000000000f'|format(1.0) }}",
    "{{ '{:1000000000}'.format(1) }}",
    "{{ '{:{w}}'.format(1, w=10**9) }}",
    "{{ '1'.zfill(10**9) }}",
    "{{ 'a'|indent(10**9, true) }}",
    "{{ 'a\\n'*1000 |indent(10**4, true) }}",
    "{{ [1]|batch(10**9, 0)|list }}",
    "{{ [1]|slice(10**9)|list }}",
    "{% set ns = namespace(n=3) %}{% for i in range(100) %}{% set ns.n = ns.n * ns.n %}{% endfor %}",
    "{{ ('a'*100000).replace('', 'a'*100000) }}",
    "{{ ('a'*100000)|replace('a', 'a'*100000) }}",
    "{{ ('a'*100000).join(range(100000)|map('string')) }}",
    "{{ range(100000)|join('a'*100000) }}",
    "{% macro m() %}{{ m() }}{{ m() }}{% endmacro %}{{ m() }}",
    "{% macro m(n) %}{% if n %}{{ m(n-1) }}{{ m(n-1) }}{% endif %}{% endmacro %}{{ m(100) }}",
    "{% macro m() %}" + "x" * 100000 + "{% endmacro %}{% for i in range(100000) %}{{ m() }}{% endfor %}",
    "{% for i in range(100000) %}" + "x" * 100000 + "{% endfor %}",
    "{% set x = 'a'*100000 %}{% for i in range(100000) %}{{ x }}{% endfor %}",
    (
        "{% set s %}{% for i in range(100000) %}"
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa{% endfor %}{% endset %}"
        "{% for i in range(100000) %}{{ s }}{% endfor %}"
    ),
    "{% set s = 'a'*900000 %}{% for i in range(100000) %}{% if ('b'+'a'*100) in s %}{% endif %}{% endfor %}",
    "{% set s = 'a'*900000 %}{% set t = 'b' + 'a'*400000 %}{{ s.rfind(t) }}",
    "{% set s = 'a'*900000 %}{% set t = 'b' + 'a'*400000 %}{{ s.find(t) }}",
    "{% set s = 'a'*900000 %}{{ s.strip('b'*400000+'a') }}",
    "{% set s = 'a '*400000 %}{% for i in range(1000) %}{% set x = s.split() %}{% endfor %}",
    "{% set l = range(100000)|list %}{% for i in range(100000) %}{% if 'x' in l %}{% endif %}{% endfor %}",
    "{% set l = range(100000)|list %}{% for i in range(100000) %}{% set x = l[::-1] %}{% endfor %}",
    "{% set l = range(100000)|list %}{% for i in range(100000) %}{% set x = l|sort %}{% endfor %}",
    "{% for i in range(100000) %}{{ range(100000)|sum }}{% endfor %}",
    "{% for i in range(100000) %}{{ range(100000)|select('none')|list }}{% endfor %}",
    "{% for i in range(100000) %}{{ range(100000)|map('string')|map('upper')|join }}{% endfor %}",
    "{{ [[1]*1000]*1000 | sum(start=[]) }}",
    "{{ range(100000)|map('string')|list|tojson(indent=1000) }}",
    "{{ 1|round(10**9) }}",
    (
        "{% for a in range(100000) %}{% for b in range(100000) %}{% for c in range(100000) %}"
        "{{ loop.changed(range(100000)) }}{% endfor %}{% endfor %}{% endfor %}"
    ),
    "{% block b %}{{ self.b() }}{{ self.b() }}{% endblock %}",
    "{% for x in [1] recursive %}{{ loop([1]) }}{{ loop([1]) }}{% endfor %}",
    "{{ dict(a=1).fromkeys(range(100000)) }}",
    "{% for i in range(100000) %}{{ dict(range(100000)|map('string')) }}{% endfor %}",
    "{% for i in range(100000) %}{% set x = namespace(a=range(100000)|list) %}{% endfor %}",
    "{{ ('0'*100000)|int(base=2) }}",
    "{{ (0).to_bytes(10**9,'big') }}",
    "{{ 'a\\t'.expandtabs(10**9) }}",
    "{{ 'a'.translate({97:'b'*1000000}) }}",
    "{% for i in range(100000) %}{% for c in 'a'*1000000 %}{% endfor %}{% endfor %}",
    "{% set x = ['a'*1000000]*1000 %}{{ x|join }}",
    "{% set x = ['a'*1000000]*1000 %}{{ x|string|length }}",
    ("{% set ns = namespace(l=[]) %}{% for i in range(100000) %}{% set ns.l = ns.l + ['a'*100000 ~ i] %}{% endfor %}"),
    (
        "{{ messages|tojson }}{{ messages|tojson }}{{ messages|tojson }}{% for i in range(100000) %}"
        "{% set x %}{{ i }}{% for i in range(1000) %}x{% endfor %}{% endset %}{% endfor %}"
    ),
    "{% set x = '<'*900000 %}{% for i in range(100000) %}{{ (x|e)|length }}{% endfor %}",
    (
        "{% autoescape true %}{% set x = '<'*900000 %}{% for i in range(100000) %}{% set y = x|e ~ x %}"
        "{% endfor %}{% endautoescape %}"
    ),
    "{% set x = ('a'*1000000)|upper|title|trim %}{% for i in range(100000) %}{{ x is upper }}{% endfor %}",
    "{% for i in range(100000) %}{% set x = [" + "1," * 10000 + "] %}{% endfor %}",
    "{{ '%999999999d' is odd }}",
    "{{ '%999999999d' is even }}",
    "{{ '%999999999d' is divisibleby 3 }}",
    "{{ '%((a))999999999d' % {'(a)': 1} }}",
    "{{ ('%(' * 200000) % 1 }}",
    "{{ (('%(a)9999d' * 10000) % {'a': 1})|length }}",
    "{{ ('{0:9999}' * 10000).format(1)|length }}",
    "{{ ('a'|safe).center(999999999)|length }}",
    "{{ ('a'|safe * 10000).replace('a', 'b' * 100000)|length }}",
    "{{ ('a-' * 400000)|title|length }}",
    "{% for a in range(100000) if " + " and ".join(["a is defined"] * 150) + " %}{% endfor %}",
    ROUND + "{{ ([ns] * 20)|map(attribute=('a.' * 100000) ~ 'a')|list|length }}",
    "{{ ([1] * 20)|sort(attribute=('real,' * 100000) ~ 'real')|list|length }}",
    *(
        NESTED + one
        for one in (
            "{{ (ns.s|safe)|length }}",
            "{{ [ns.s]|map('safe')|list|length }}",
            "{{ 1|attr(ns.s) }}",
            "{{ ns.s is filter }}",
            "{{ ns.s is test }}",
            "{{ [ns.s]|select('filter')|list }}",
            "{{ dict([(ns.s, 1)]|select) }}",
            "{{ namespace([(ns.s, 1)]|select) }}",
            "{% for a in [1, ns.s] %}{{ dict(loop) }}{% endfor %}",
            "{{ {}.keys() - [ns.s] }}",
            "{{ {1: 1}.items() - [ns.s] }}",
        )
    ),
]


def problem(source: str, messages: Any = HELLO) -> str:
    with pytest.raises(ChatTemplateError) as refusal:
        ChatTemplate(source, "<s>", "</s>").render(messages)
    return refusal.value.problem


@pytest.mark.slow
@pytest.mark.parametrize("source", BOMBS, ids=[str(number) for number in range(len(BOMBS))])
def test_a_bomb_ends_as_an_error(source: str) -> None:
    """It ends at all, in the memory of a small text."""
    ChatTemplate("{{ messages[0].content }}", "", "").render(HELLO)  # what is imported once is not counted
    if "macro" not in source and source.count("{% for") < 2:  # tracing makes work ten times slower
        tracemalloc.start()
    try:
        assert problem(source).startswith(("the chat template", "chat_template"))
        peak = tracemalloc.get_traced_memory()[1] if tracemalloc.is_tracing() else 0
    finally:
        tracemalloc.stop()
    assert peak < 24 * MEGABYTE + 40 * len(source)


@pytest.mark.parametrize(
    "source",
    [
        "{% for i in range(1000) %}{{ '%5d' % i }}{% endfor %}",
        "{{ '{:>5}|{}'.format(1, 'a') }}",
        "{{ 'a'.center(9) }}{{ 'a'.rjust(9) }}{{ '7'.zfill(3) }}{{ 'a' | center(9) }}",
        "{{ ['b', 'a'] | sort | join(', ') }}{{ [1, 2] | sum }}{{ 1.25 | round(1) }}{{ '12' | int + 1 }}",
        "{{ {'a': 1} | dictsort }}{{ [1, 2, 3] | batch(2, 0) | list }}{{ [1, 2, 3] | slice(2) | list }}",
        "{{ 'a\\nb' | indent(2, true) }}{{ 'abc' | replace('b', 'x') }}{{ 'abc'.replace('b', 'x') }}",
        "{% if 1 < 2 < 3 %}{{ 'a' in 'abc' and 1 not in [2] }}{% endif %}{{ 'abc'[::-1] }}{{ [1, 2][1:] }}",
        "{{ 'a b'.split() }}{{ 'a,b'.split(',') }}{{ '|'.join(['a', 'b']) }}{{ messages | length }}{{ [1] + [2] }}",
        "{% macro m(a, b='x') %}{{ a ~ b ~ 1 }}{% endmacro %}{{ m('y') }}{{ m(b='z', a=[1]) }}{{ 2 ** 10 }}{{ 7 % 3 }}",
        "{{ messages | map(attribute='role') | list | tojson(indent=2) }}{{ [3, 1] | max }}{{ 'a-b' | title }}",
        "{% set ns = namespace(n=0) %}{% for a in [1, 2] %}{% set ns.n = ns.n + a %}{% endfor %}{{ ns.n + 2.5 }}",
        "{{ '%d%% %5.1f%%|%(a)s'.split('|')[0] % (5, 1.5) }}{{ '%((a))s%%' % {'(a)': 7} }}{{ 4 is even }}",
        "{{ 9 is divisibleby 3 }}{{ ('a' | safe).center(5) }}{{ dict([('a', 1)] | select) }}{{ 'list' is filter }}",
        "{% for n in range(9) if n is odd and n > 2 %}{{ loop.index ~ n }}{% endfor %}{{ 'a-b c' | wordcount }}",
        "{{ '{0[role]:>6}'.format(messages[0]) }}{{ messages | map(attribute='role.x', default='d') | list }}",
        "{% for k, v in {'a': 1}.items() recursive %}{{ loop.index ~ k ~ v }}{% endfor %}{{ 'a' 'b' ~ none ~ true }}",
    ],
)
def test_honest_work_is_not_touched(source: str) -> None:
    """What fuel is taken for gives what Jinja alone gives."""
    plain = jinja2.Environment(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
    plain.filters["tojson"] = lambda value, indent=None: json.dumps(value, indent=indent)
    assert ChatTemplate(source, "", "").render(HELLO) == plain.from_string(source).render(messages=HELLO)


@pytest.mark.slow
def test_a_long_conversation_is_no_bomb() -> None:
    """Three hundred messages, two hundred tools, and a template that looks at all messages for each."""
    source = (
        "{% for m in messages %}{% set ns = namespace(last=0) %}"
        "{% for other in messages %}{% if other.role == 'user' %}"
        "{% set ns.last = loop.index0 %}{% endif %}{% endfor %}{{ m.role ~ ns.last ~ m.content | trim }}{% endfor %}"
        "{% for tool in tools %}{{ tool | tojson(indent=2) }}{% endfor %}"
    )
    messages = [{"role": "user", "content": f"message {number}"} for number in range(300)]
    tools = [{"type": "function", "function": {"name": f"f{number}", "parameters": {}}} for number in range(200)]
    assert "f199" in ChatTemplate(source, "", "").render(messages, tools=tools)


def test_a_long_text_is_no_bomb() -> None:
    """Megabytes that are trimmed, split and joined."""
    text = "word " * 400_000
    source = "{{ messages[0].content | trim }}{{ messages[0].content.split('</think>')[-1].strip() + '!' }}"
    assert len(ChatTemplate(source, "", "").render([{"role": "user", "content": text}])) == 2 * len(text) - 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("{{ a }}" + "x" * MOST_SOURCE, f"the chat template has {MOST_SOURCE + 7} characters; at most {MOST_SOURCE}"),
        ("a\0b", "the chat template has a NUL character: it is no text"),
        ("{{a}}" * 20_000, None),
        ("{% macro m() %}{% endmacro %}" * 2_500, None),
        (b"bytes", "a chat template is a str, not bytes"),
        (7, "a chat template is a str, not int"),
        ("{{ x | wordwrap(3) }}", "the chat template does not parse: line 1: No filter named 'wordwrap'."),
        ("{{ (1 + 2) < (x + 1) < 3 }}", "the chat template compares more than two computed values in one comparison"),
        ("{% for a in " + "[" * 5000 + "]" * 5000 + " %}{% endfor %}", None),
        ("{% if x %}" * 200 + "{% endif %}" * 200, None),
    ],
)
def test_what_is_no_template_is_refused(source: Any, said: str | None) -> None:
    """Before anything is rendered."""
    with pytest.raises(ChatTemplateError) as refusal:
        compiled(source)
    assert said is None or refusal.value.problem == said


def test_a_refusal_of_a_template_is_short() -> None:
    """It is shown to people."""
    assert len(problem("{{ raise_exception('a' * 100000) }}")) == 1000
    assert len(problem("{{ ('a' * 100000) | int + none }}")) < 1100


def test_values_that_nest_too_deeply_are_refused() -> None:
    """In what is given, with their place."""
    deep: Any = "x"
    for _ in range(200):
        deep = [deep]
    assert problem("x", [{**HELLO[0], "more": deep}]) == "message 1 nests values more than 90 deep"


@pytest.mark.parametrize(("value", "said"), [(b"x", "bytes"), (object(), "object"), ({1, 2}, "set")])
def test_values_that_no_template_can_be_shown_are_refused(value: Any, said: str) -> None:
    """Methods of foreign objects are not for templates."""
    assert problem("x", [{**HELLO[0], "more": value}]) == f"message 1 holds a {said}, which a template cannot be shown"
    with pytest.raises(ChatTemplateError, match=f"template_kwargs holds a {said}"):
        ChatTemplate("x", "", "").render(HELLO, settings=ChatSettings(template_kwargs={"a": value}))


def test_fuel_is_the_threads_own() -> None:
    """Renderings side by side do not take each other's."""
    one, other = Fuel(100, 100), Fuel(100, 100)
    template = compiled("{% for i in [1, 2, 3] %}{{ i }}{% endfor %}")

    def render() -> None:
        with burning(other):
            template.render()

    with burning(one):
        thread = threading.Thread(target=render)
        thread.start()
        thread.join()
        assert one.left == 100
    assert other.left < 100


def test_fuel_grows_with_the_input() -> None:
    """With values, characters and pairs of messages."""
    assert fuel_for(0, 0).left == BASE
    assert fuel_for(10, 0).left > BASE
    assert fuel_for(0, 1000).left > BASE
    assert fuel_for(0, 0, 100).left > BASE
