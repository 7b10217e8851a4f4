"""One chat template: compiled once, rendered on fuel, and asked what it can show."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property, lru_cache
from typing import Any

import jinja2
from jinja2 import nodes

from erllama_py.chat.fuel import Fuel, burning, fuel_for
from erllama_py.chat.sandbox import MOST_SAID, check_shortage, compiled, read, sandbox
from erllama_py.errors import ChatTemplateError

# Letters alone: templates trim texts and escape them.
_FIRST, _SECOND = "firstQzXvKwJtext", "secondQzXvKwJtext"
_TOOL = "toolQzXvKwJname"
_ROLES = ("system", "developer", "user", "assistant", "tool")
_DIALOGUE = tuple({"role": role, "content": "x"} for role in ("system", "user", "assistant", "tool", "user"))
_PROBE: dict[str, Any] = {
    "bos_token": "", "eos_token": "", "strftime_now": lambda form: "", "documents": None, "tools": None,
    "add_generation_prompt": True,
}  # fmt: skip


class Program:
    """A template by its source. Raises `ChatTemplateError` when it is first rendered or read, where it is none."""

    def __init__(self, source: str) -> None:
        self.source = source
        self._problem: ChatTemplateError | None = None

    def run(self, context: Mapping[str, Any], fuel: Fuel) -> str:
        """Its text. Whatever it runs into is a `ChatTemplateError`, but for `OutOfResources`."""
        template = self._template
        try:
            with burning(fuel):
                text = template.render(context)
        except ChatTemplateError:
            raise  # from `raise_exception`, with the template's own words, or from the fuel
        except Exception as error:  # whatever a foreign program can run into
            check_shortage(error)
            said = f"{type(error).__name__}: {error}"
            raise ChatTemplateError(f"the chat template failed: {said[:MOST_SAID]}") from error
        if len(text) > fuel.longest:
            raise ChatTemplateError(f"the chat template writes more than {fuel.longest} characters")
        return text

    @cached_property
    def takes_text(self) -> bool:
        """Whether it shows a content that is a text; a few want a list of parts."""
        shown = self._probe({"role": "user", "content": _FIRST})
        return shown is None or _FIRST in shown or not self.takes_parts

    @cached_property
    def takes_parts(self) -> bool:
        """Whether it shows a content that is a list of text parts as text."""
        parts = [{"type": "text", "text": _FIRST}, {"type": "text", "text": _SECOND}]
        shown = self._probe({"role": "user", "content": parts})
        return shown is not None and _FIRST in shown and _SECOND in shown and "'type'" not in shown

    @cached_property
    def takes_tools(self) -> bool:
        """Whether it shows tools: it reads them, and the name of one is in its text."""
        if not read(self.source, _reads_tools):
            return False
        parameters = {"type": "object", "properties": {"x": {"type": "string", "description": "x"}}, "required": ["x"]}
        function = {"name": _TOOL, "description": "x", "parameters": parameters}
        tools = [{"type": "function", "function": function}]
        user, system = {"role": "user", "content": "x"}, {"role": "system", "content": "x"}
        texts = [self._probe(user, tools=tools), self._probe(system, user, tools=tools)]
        # Where both fail, the template asks for something that is not known here: let it have its tools.
        return texts == [None, None] or any(_TOOL in text for text in texts if text is not None)

    @cached_property
    def written(self) -> str:
        """What it writes around messages of all roles: a marker may be put together from a role."""
        shown = (self._probe({"role": role, "content": "x"}) for role in _ROLES)
        return "\n".join(text for text in (self._probe(*_DIALOGUE), *shown) if text is not None)

    def _probe(self, *messages: dict[str, Any], **context: Any) -> str | None:
        try:
            return self.run({**_PROBE, "messages": list(messages), **context}, fuel_for(100, 0))
        except ChatTemplateError:
            if self._problem is not None:
                raise
            return None

    @property
    def _template(self) -> jinja2.Template:
        if self._problem is not None:
            raise ChatTemplateError(self._problem.problem) from self._problem.__cause__
        try:
            return self._compiled
        except ChatTemplateError as error:
            self._problem = error
            raise

    @cached_property
    def _compiled(self) -> jinja2.Template:
        return compiled(self.source)


def _reads_tools(source: str) -> bool:
    return any(name.name == "tools" and name.ctx == "load" for name in sandbox.parse(source).find_all(nodes.Name))


@lru_cache(maxsize=32)
def program(source: str) -> Program:
    """The template with this source, compiled at most once while it is in use."""
    return Program(source)
