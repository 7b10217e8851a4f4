"""A process that has run out of file descriptors or memory: what is loaded goes on, and no template is blamed."""

from __future__ import annotations

from datetime import datetime

import pytest
from helpers.terminal import run_script
from jinja2 import TemplateSyntaxError

import erllama_py as erllama
from erllama_py.chat import sandbox
from erllama_py.chat.program import Program
from erllama_py.chat.template import ChatTemplate

HELLO = [{"role": "user", "content": "Hello"}]
REFUSED = "{{ raise_exception('no') }}"

# All filters and tests of a template, a name of a character, a date, a syntax error, a failure.
WITHOUT_DESCRIPTORS = r"""
import asyncio, dataclasses, os, resource, sys
import erllama_py as erllama
from erllama_py.chat.sandbox import sandbox

@dataclasses.dataclass
class Answer:
    name: str
    tags: list[str]

def weather(city: str) -> str:
    "The weather in a city."
    return "fine"

async def main():
    async with erllama.Runtime() as runtime:
        model = await runtime.load_model("m", {"backend": "stub"})
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, limit[1]))
        said = await calls(model)
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)
        assert not said, said

async def calls(model):
    hello, failed = [{"role": "user", "content": "Hello \N{BULLET}"}], {}
    shown = "{% for one in messages %}{{ one.content }}{% endfor %}"
    templates = {name: shown + "{{ messages[0].content|" + name + " }}" for name in sandbox.filters}
    templates |= {name: shown + "{{ messages[0].content is " + name + " }}" for name in sandbox.tests}
    templates["a name"] = shown + r'{{ "\N{DASH}\N{BULLET}" }}'
    templates["a date"] = shown + "{{ strftime_now('%d %B %Y %c %Z') }}"
    templates["no syntax"], templates["a failure"] = "{% for %}", "{{ 1 // 0 }}"
    cases = {name: (model.chat, hello, {"chat_template": one}) for name, one in templates.items()}
    told = {"tools_in_system": True}
    cases |= {
        "chat": (model.chat, hello, {}),
        "tools": (model.chat, hello, {"tools": [weather], **told}),
        "grammar": (model.complete, "a", {"grammar": 'root ::= "a"'}),
        "regex": (model.complete, "a", {"regex": "a+"}),
        "choice": (model.complete, "a", {"choice": ["a", "b"]}),
        "schema": (model.complete, "a", {"json_schema": Answer}),
        "logprobs": (model.complete, "a", {"logprobs": 2, "temperature": 0.7, "seed": 1, "stop_sequences": ["q"]}),
    }
    for name, (call, given, options) in cases.items():
        try:
            await call(given, response_tokens=2, **options)
        except erllama.ChatTemplateError as error:
            if any(word in f"{error} {error.__cause__!r}" for word in ("descript", "Errno", "open files")):
                failed[name] = f"{error}"
        except erllama.RequestError as error:
            if not isinstance(error, erllama.InvalidGrammar):
                failed[name] = repr(error)
        except Exception as error:
            failed[name] = repr(error)
    await model.chat_format(), await model.score("a", ["b"]), await model.choose("a", ["b", "c"])
    return failed

asyncio.run(main())
"""


@pytest.mark.slow
def test_what_requests_need_is_loaded_with_the_model() -> None:
    """Templates, grammars, tools and schemas work in a process without a descriptor to load a module with."""
    run_script(WITHOUT_DESCRIPTORS)


SHORTAGES = [OSError(24, "Too many open files"), MemoryError()]


@pytest.mark.parametrize("shortage", SHORTAGES, ids=lambda one: type(one).__name__)
def test_a_shortage_while_a_template_is_compiled_is_not_its_fault(
    shortage: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has an error of its own, and the template compiles the next time."""
    template = Program("{{ messages[0].content }}")

    def short(source: str) -> object:
        try:
            raise shortage
        except Exception as error:
            raise TemplateSyntaxError("codec", 1) from error

    with monkeypatch.context() as patch:
        patch.setattr(sandbox.sandbox, "from_string", short)
        with pytest.raises(erllama.OutOfResources) as refusal:
            assert template.takes_text
    assert refusal.value.__cause__ is shortage
    assert template.takes_text


@pytest.mark.parametrize("shortage", SHORTAGES, ids=lambda one: type(one).__name__)
def test_a_shortage_while_a_template_runs_is_not_its_fault(
    shortage: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A date is asked of the system, for instance."""

    def now() -> datetime:
        raise shortage

    template = ChatTemplate("{{ strftime_now('%d') }}", "", "", now=now)
    with pytest.raises(erllama.OutOfResources, match="chat template"):
        template.render(HELLO)


def test_a_template_that_refuses_while_memory_is_short_refuses() -> None:
    """What it says itself stays its own."""
    with pytest.raises(erllama.ChatTemplateError, match="no"):
        ChatTemplate(REFUSED, "", "").render(HELLO)
