"""The chat template that a GGUF brings: Jinja, rendered in a sandbox.

A template is a program that comes with the model file. The sandbox keeps it from Python's internals, from
changing what it is given, and from ranges of more than 100,000 items; it does not bound its time or memory. What
templates may use beside plain Jinja follows what authors test them with, the Transformers library:
https://huggingface.co/docs/transformers/chat_templating_writing (blocks trimmed, `break` and `continue`,
`raise_exception`, `strftime_now`, `tojson` without HTML escapes, `{% generation %}`).

Every failure is a `ChatTemplateError`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from typing import Any, NoReturn, TypeGuard

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from erllama_py.errors import ChatTemplateError


class ChatTemplate:
    """One model's template, compiled at its first use. `source` is `None` for a model without one.

    `now` is the clock behind `strftime_now`, with which some templates tell the model today's date.
    """

    def __init__(
        self, source: str | None, bos_token: str, eos_token: str, *, now: Callable[[], datetime] = datetime.now
    ) -> None:
        self._source = source
        self._fixed = {
            "bos_token": bos_token,
            "eos_token": eos_token,
            "strftime_now": lambda format: now().strftime(format),
        }

    @property
    def source(self) -> str | None:
        """The template's text; `None` for a model without one."""
        return self._source

    def __repr__(self) -> str:
        return f"<ChatTemplate {'none' if self._source is None else f'{len(self._source)} characters'}>"

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
    ) -> str:
        """The conversation as the text that the model was trained on.

        `add_generation_prompt` opens the assistant's turn at the end. Raises `ChatTemplateError`.
        """
        context = {
            **self._fixed,
            "messages": check_messages(messages),
            "tools": check_tools(tools),
            "add_generation_prompt": add_generation_prompt,
        }
        try:
            return self._template.render(context)
        except ChatTemplateError:
            raise  # from `raise_exception`, with the template's own words
        except Exception as error:  # whatever a foreign program can run into
            raise ChatTemplateError(f"the chat template failed: {_said(error)}") from error

    @cached_property
    def _template(self) -> jinja2.Template:
        if self._source is None:
            raise ChatTemplateError("the model has no chat template")
        try:
            return _environment.from_string(self._source)
        except jinja2.TemplateSyntaxError as error:
            said = f"line {error.lineno}: {error.message}"
            raise ChatTemplateError(f"the chat template does not parse: {said}") from error
        except Exception as error:  # one that nests too deeply for Python
            raise ChatTemplateError(f"the chat template does not compile: {_said(error)}") from error


def check_messages(messages: object) -> list[dict[str, Any]]:
    """The messages as templates expect them: plain dicts whose content is one text, or `None` beside tool calls.

    Texts in parts are joined by line feeds, as llama.cpp's server does for templates that take only text.
    """
    if not _is_list(messages):
        expected = 'messages are a list of mappings, such as [{"role": "user", "content": "…"}]'
        raise ChatTemplateError(f"{expected}, not {type(messages).__name__}")
    if not messages:
        raise ChatTemplateError("there are no messages")
    return [_check_message(message, f"message {number}") for number, message in enumerate(messages, 1)]


def check_tools(tools: object) -> list[dict[str, Any]] | None:
    """The tools as plain dicts; an empty list counts as none, since templates ask `tools is not none` too."""
    if tools is None:
        return None
    if not _is_list(tools) or not all(isinstance(tool, Mapping) for tool in tools):
        raise ChatTemplateError("tools are a list of mappings")
    return [dict(tool) for tool in tools] or None


def _check_message(message: object, where: str) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        raise ChatTemplateError(f"{where} is a {type(message).__name__}, not a mapping")
    role, calls = message.get("role"), message.get("tool_calls")
    if not isinstance(role, str) or not role:
        raise ChatTemplateError(f"{where} has no role; a str such as 'user' expected")
    if calls is not None and not (_is_list(calls) and all(isinstance(call, Mapping) for call in calls)):
        raise ChatTemplateError(f"{where}: tool_calls are a list of mappings")
    return {**message, "content": _check_content(message.get("content"), bool(calls), where)}


def _check_content(content: object, has_calls: bool, where: str) -> str | None:
    if isinstance(content, str) or (content is None and has_calls):
        return content
    if not _is_list(content):
        raise ChatTemplateError(f"{where}: content is a str or a list of text parts, not {type(content).__name__}")
    texts = []
    for part in content:
        text = part.get("text") if isinstance(part, Mapping) and part.get("type") == "text" else None
        if not isinstance(text, str):
            raise ChatTemplateError(f"{where}: a part of content is {{'type': 'text', 'text': str}}")
        texts.append(text)
    return "\n".join(texts)


def _is_list(value: object) -> TypeGuard[Sequence[Any]]:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes | bytearray)


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _raise_exception(message: object) -> NoReturn:
    raise ChatTemplateError(str(message))


def _tojson(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """In place of Jinja's own filter, which escapes for HTML what a model should read as it is."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


class _Generation(Extension):
    """`{% generation %}` marks the assistant's words for training; here its block is just its content."""

    tags = {"generation"}  # noqa: RUF012  # Jinja declares it so

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _make_environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _Generation]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    return environment


_environment = _make_environment()
