"""What a chat template cannot do, what it is not given, and what is said then."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from erllama_py.chat.sandbox import MOST_SOURCE
from erllama_py.chat.template import ChatTemplate
from erllama_py.errors import ChatTemplateError

HELLO = [{"role": "user", "content": "Hello"}]
MESSAGES = 'messages are a list of mappings, such as [{"role": "user", "content": "…"}]'


def problem(source: str | None, messages: Any = HELLO, tools: Any = None) -> str:
    """What the error says; that there is one is part of every test."""
    with pytest.raises(ChatTemplateError) as refusal:
        ChatTemplate(source, "<s>", "</s>").render(messages, tools=tools)
    return refusal.value.problem


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ ''['__class__']['__mro__'] }}",
        "{{ (''|attr('__class__')).__mro__ }}",
        "{{ messages.__class__.__base__ }}",
        "{{ raise_exception.__globals__.json }}",
        "{{ strftime_now.__closure__[0].cell_contents }}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{{ self.__init__.__globals__ }}",
        "{{ '{0.__class__.__mro__}'.format('') }}",
        "{{ '{a.__class__.__mro__}'.format_map({'a': ''}) }}",
        "{{ (''|attr('for' ~ 'mat')).__self__.upper() }}",
        "{% set form = '{0.__class__.__mro__}'.format %}{{ form('') }}",
        "{{ (['']|map(attribute='__class__')|first).__mro__ }}",
        "{% macro m() %}{% endmacro %}{{ m.__init__.__globals__ }}",
    ],
)
def test_no_way_leads_out_of_the_sandbox(source: str) -> None:
    """The second step into Python's internals fails, since the first found nothing."""
    assert re.match("the chat template failed: (SecurityError|UndefinedError): ", problem(source))


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__ }}",
        "{{ ''|attr('__class__') }}",
        "{{ raise_exception.__globals__ }}",
        "{{ raise_exception.__code__ }}",
        "{{ '{0.__class__}'.format('') }}",
        "{% set form = '{0.__class__}'.format %}{{ form('') }}",
    ],
)
def test_the_first_step_out_finds_nothing(source: str) -> None:
    """An attribute of Python's internals is like one that does not exist: empty text."""
    assert ChatTemplate(source, "", "").render(HELLO) == ""


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages.append(1) }}",
        "{{ messages[0].update(role='system') }}",
        "{{ messages[0].content_parts.clear() }}",
        "{{ tools[0].pop('name') }}",
    ],
)
def test_a_template_changes_nothing_it_is_given(source: str) -> None:
    """Lists and dicts that came from the caller are as before."""
    messages, tools = [{**HELLO[0], "content_parts": [1]}], [{"name": "weather"}]
    assert "SecurityError" in problem("{{ tools }}" + source, messages, tools)
    assert (messages, tools) == ([{**HELLO[0], "content_parts": [1]}], [{"name": "weather"}])


def test_a_range_without_measure_is_refused() -> None:
    """The sandbox's limit of 100,000 items holds before the first item is made."""
    assert "OverflowError" in problem("{% for i in range(10**9) %}{% endfor %}")


@pytest.fixture
def much_recursion() -> Iterator[None]:
    """An application has raised Python's limit."""
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(1_000_000)
    yield
    sys.setrecursionlimit(before)


@pytest.mark.parametrize(
    "source",
    [
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{% macro m() %}{% if caller %}{{ caller() }}{% endif %}{% call m() %}{% endcall %}{% endmacro %}{{ m() }}",
        "{% macro m(x) %}{{ x(x) }}{% endmacro %}{{ m(m) }}",
        "{% block b %}{{ self.b() }}{{ self.b() }}{% endblock %}",
        "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}",
    ],
)
@pytest.mark.usefixtures("much_recursion")
def test_what_calls_itself_without_end_is_stopped(source: str) -> None:
    """Also where an application has raised Python's own limit: the stack would end the process before."""
    assert problem(source) == "the chat template calls itself more than 120 times deep"


@pytest.mark.parametrize(
    "deep",
    [
        "{{ %s1 }}" % ("-" * 40_000),
        "{{ 1%s }}" % ("|e" * 40_000),
        "{{ a%s }}" % (".b" * 40_000),
        "{% if 0 %}a" + "{% elif 0 %}b" * 6_000 + "{% endif %}",
    ],
)
@pytest.mark.usefixtures("much_recursion")
def test_what_nests_too_deeply_is_refused_before_it_is_compiled(deep: str) -> None:
    """Also where Python would try."""
    assert problem(deep) == "the chat template nests more than 400 deep"


def test_a_long_sum_is_not_deep() -> None:
    """It is one call, however many terms it has."""
    assert ChatTemplate("{{ bos_token" + " + 'a'" * 1000 + " }}", "<s>", "").render(HELLO) == "<s>" + "a" * 1000


@pytest.mark.parametrize("statement", ["include", "extends", "import"])
def test_no_file_can_be_read(statement: str) -> None:
    """There is nothing to include templates from."""
    name = "'/etc/hostname'" + (" as other" if statement == "import" else "")
    assert "the chat template failed" in problem(f"{{% {statement} {name} %}}")


def test_a_model_without_a_template_says_so() -> None:
    """Its constructor was silent: such a model still completes plain prompts."""
    assert problem(None) == "the model has no chat template"


@pytest.mark.parametrize("tools", [None, [{"type": "function", "function": {"name": "f", "parameters": {}}}]])
def test_a_template_that_does_not_parse_is_known_at_its_first_use(tools: Any) -> None:
    """The line is named; constructing did not raise."""
    template = ChatTemplate("one\n{% if %}", "", "")
    for _ in range(2):
        with pytest.raises(ChatTemplateError, match=r"^the chat template does not parse: line 2: "):
            template.render(HELLO, tools=tools)


@pytest.mark.parametrize("tools", [None, [{"name": "f"}]])
@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("{{ tools }}" + "{% if x %}" * 3000, "the chat template does not compile: RecursionError"),
        ("{{ tools }}" + "x" * MOST_SOURCE, "the chat template has 100011 characters"),
    ],
)
def test_what_is_no_template_is_not_read_for_its_tools(source: str, said: str, tools: Any) -> None:
    """One that nests too deeply, or is too long, is refused as it is without tools."""
    assert problem(source, tools=tools).startswith(said)


def test_an_undefined_name_is_named() -> None:
    """Alone it is empty text, as Jinja has it; going into it is an error."""
    assert ChatTemplate("{{ unknown }}", "", "").render(HELLO) == ""
    assert problem("{{ unknown.field }}") == "the chat template failed: UndefinedError: 'unknown' is undefined"


def test_what_a_template_runs_into_travels_as_the_cause() -> None:
    """No foreign error gets out by itself."""
    with pytest.raises(ChatTemplateError) as refusal:
        ChatTemplate("{{ 1 / 0 }}", "", "").render(HELLO)
    assert isinstance(refusal.value.__cause__, ZeroDivisionError)


def test_calls_that_a_template_fails_on_are_named() -> None:
    """A turn without the tools, after one with them."""
    called: list[Any] = [*HELLO, {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}]
    template = ChatTemplate("{% for m in messages %}{{ m.content + '!' }}{% endfor %}", "", "")
    with pytest.raises(ChatTemplateError, match=r"failed: UndefinedError: .*; the conversation has calls, and this"):
        template.render(called)
    with pytest.raises(ChatTemplateError, match=r"undefined$"):
        ChatTemplate("{{ unknown.field }}", "", "").render(HELLO)


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ([], "there are no messages"),
        ("Hello", MESSAGES + ", not str"),
        (None, MESSAGES + ", not NoneType"),
        ({"role": "user", "content": "Hello"}, MESSAGES + ", not dict"),
        (["Hello"], 'message 1 is a str, not a mapping; such as {"role": "user", "content": "…"}'),
        ([*HELLO, {"content": "Hello"}], "message 2 has no role; a str such as 'user' expected"),
        ([{"role": 1, "content": "Hello"}], "message 1 has no role; a str such as 'user' expected"),
        ([{"role": "user"}], "message 1: content is a str or a list of text parts, not NoneType"),
        ([{"role": "user", "content": b"Hello"}], "message 1: content is a str or a list of text parts, not bytes"),
        ([{"role": "user", "tool_calls": []}], "message 1: content is a str or a list of text parts, not NoneType"),
        ([{"role": "assistant", "tool_calls": "f()"}], "message 1: tool_calls are a list of mappings"),
        ([{"role": "assistant", "tool_calls": ["f()"]}], "message 1: tool_calls are a list of mappings"),
        (
            [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}],
            "message 1: a part of content is {'type': 'text', 'text': str}, not one of the type 'image_url': images, "
            "audio and files are not read, only text",
        ),
        (
            [{"role": "user", "content": [{"type": "text", "text": 1}]}],
            "message 1: a part of content is {'type': 'text', 'text': str}",
        ),
        (
            [{"role": "user", "content": "u", "n": [10**5000]}],
            "message 1 holds a number of 16610 bits, which has no text",
        ),
    ],
)
def test_messages_that_are_none_are_refused_with_their_place(messages: Any, said: str) -> None:
    """The sentence names the message, counted from one, and what is wrong with it."""
    assert problem("{{ messages }}", messages) == said


@pytest.mark.parametrize("tools", ["weather", {"name": "weather"}, ["weather"]])
def test_tools_are_mappings(tools: Any) -> None:
    """Anything else is refused before the template sees it."""
    assert problem("{{ tools }}", tools=tools) == "tools are a list of mappings"


@given(st.text("{}%#-_'\"|.()[]abi0 \n", max_size=30))
def test_whatever_the_source_nothing_but_our_error_gets_out(source: str) -> None:
    """A template renders to text or is refused; it never crashes the code that renders it."""
    with contextlib.suppress(ChatTemplateError):
        assert isinstance(ChatTemplate(source, "", "").render(HELLO), str)
