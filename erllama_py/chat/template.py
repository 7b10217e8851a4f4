"""The chat templates that a GGUF or a request brings: which one renders a conversation, and what it is given.

Every failure is a `ChatTemplateError`. What a template can do is in `sandbox` and `fuel`, how texts of users stay text
in `special_texts`, and how both come together in `rendering`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec

from erllama_py.chat.conversation import (
    Copy,
    Message,
    check_messages,
    check_tools,
    text_of_content,
    with_parsed_arguments,
    with_thoughts,
)
from erllama_py.chat.fuel import CHARACTERS, PER_SOURCE, Fuel, fuel_for
from erllama_py.chat.program import Program, program
from erllama_py.chat.tools_text import MARKERS, with_tools_as_text
from erllama_py.errors import ChatTemplateError

DEFAULT, TOOL_USE = "default", "tool_use"
# Letters alone; the space at the end shows whether the template trims.
CONTINUED = "continuedQzXvKwJhere "
CALLS_NOT_SHOWN = "the conversation has calls, and this template shows none: give the tools, and tools_in_system=True"
MOST_FORMAT = 200  # characters of a date's form
_WIDE_DATE = re.compile(r"%[-_0^#+]*[1-9]")  # a width, which some systems take any number for


class ChatSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What a request asks of the rendering; see the options of these names."""

    tools: Any = None
    chat_template: str | None = None
    template_kwargs: Mapping[str, Any] = {}
    tools_in_system: bool = False


PLAIN = ChatSettings()


class ChatTemplate:
    """The templates of one model, compiled at their first use. `source` is `None` for a model without a default one;
    `named` are others, such as `tool_use`.

    `now` is the clock behind `strftime_now`, with which some templates tell the model today's date.
    """

    def __init__(
        self, source: str | None, bos_token: str, eos_token: str, *, named: Mapping[str, str] | None = None,
        now: Callable[[], datetime] = datetime.now,
    ) -> None:  # fmt: skip
        self._sources = {**(named or {}), **({} if source is None else {DEFAULT: source})}
        self._fixed = {"bos_token": bos_token, "eos_token": eos_token, "strftime_now": _clock(now)}

    @property
    def source(self) -> str | None:
        """Of the default template; `None` for a model without one."""
        return self._sources.get(DEFAULT)

    def __repr__(self) -> str:
        known = ", ".join(f"{name}: {len(source)} characters" for name, source in self._sources.items())
        return f"<ChatTemplate {known or 'none'}>"

    @property
    def names(self) -> tuple[str, ...]:
        """Of the model's own templates."""
        return tuple(self._sources)

    def program(self, chat_template: str | None = None, *, has_tools: bool = False) -> Program:
        """The template for a request: the one that it names or brings, else `tool_use` where there are tools, else the
        default one. Raises `ChatTemplateError`."""
        return program(self._source(chat_template, has_tools))

    def written_for(self, settings: ChatSettings) -> str:
        """Whatever stands in the rendering beside the texts of a conversation: the template's source, and what it
        writes."""
        one = self.program(settings.chat_template, has_tools=bool(settings.tools))
        as_text = settings.tools_in_system and self.tells_tools_as_text(settings)
        return "\n".join((one.source, one.written, MARKERS if as_text else ""))

    def source_for(self, settings: ChatSettings) -> str:
        """That of the template that renders a request with these settings."""
        return self._source(settings.chat_template, bool(settings.tools))

    def _source(self, chosen: str | None, has_tools: bool) -> str:
        if chosen is not None:
            return self._sources.get(chosen) or _as_source(chosen, self.names)
        source = self._sources.get(TOOL_USE) if has_tools else None
        source = source or self._sources.get(DEFAULT)
        if source is None and self._sources:
            known = ", ".join(map(repr, self._sources))
            raise ChatTemplateError(f"the model has no default chat template: chat_template is one of {known}")
        if source is None:
            raise ChatTemplateError("the model has no chat template")
        return source

    def source_with_tools(self) -> str | None:
        """The source of the template that shows tools; None where none does. Some milliseconds: it is rendered."""
        try:
            one = self.program(has_tools=True)
            return one.source if one.takes_tools else None
        except ChatTemplateError:
            return None

    def tells_tools_as_text(self, settings: ChatSettings) -> bool:
        """Whether tools are told in the system message, and calls are to be read as Hermes writes them.

        Raises `ChatTemplateError` where the template takes no tools and that was not asked for.
        """
        if not settings.tools or self.program(settings.chat_template, has_tools=True).takes_tools:
            return False
        if not settings.tools_in_system:
            raise ChatTemplateError(
                "tools: the model's chat template takes none; tools_in_system=True tells them in the system message"
            )
        return True

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Any = None,
        add_generation_prompt: bool = True,
        settings: ChatSettings | None = None,
        continue_final_message: bool = False,
        mark: Callable[[str], str] = str,
        mark_own: Callable[[str], str] = str,
    ) -> str:
        """The conversation as the text that the model was trained on.

        `add_generation_prompt` opens the assistant's turn at the end, `continue_final_message` leaves the last message
        open instead. Texts of the conversation go through `mark`, contents of the assistant's messages through
        `mark_own`. Raises `ChatTemplateError`.
        """
        settings = settings or ChatSettings(tools=tools)
        checked, described = check_messages(messages), check_tools(settings.tools)
        as_text = self.tells_tools_as_text(settings)
        one = self.program(settings.chat_template, has_tools=bool(described))
        copy, copy_own = Copy(mark, CHARACTERS), Copy(mark_own, CHARACTERS)
        shown = _copied(checked, copy, copy_own)
        described = copy.of(described, "tools")
        extra = copy.of(dict(settings.template_kwargs), "template_kwargs")
        if as_text:
            shown, described = with_tools_as_text(shown, described), None
        shown = [_in_form(with_thoughts(message), one) for message in shown]
        final = _open(shown) if continue_final_message else None
        context = {
            "documents": None, **extra, **self._fixed, "messages": shown, "tools": described,
            "add_generation_prompt": add_generation_prompt and final is None,
        }  # fmt: skip
        try:
            text = one.run(context, _fuel(one, len(shown), copy, copy_own))
        except ChatTemplateError as error:
            if one.takes_tools or not any(message.get("tool_calls") for message in shown):
                raise
            raise ChatTemplateError(f"{error}; {CALLS_NOT_SHOWN}") from error.__cause__
        return text if final is None else _cut_open(text, final)


def _as_source(chosen: str, names: tuple[str, ...]) -> str:
    """A source has something of Jinja in it; everything else was meant as a name."""
    if not isinstance(chosen, str):
        raise ChatTemplateError(f"chat_template is a str, not {type(chosen).__name__}")
    if "{{" in chosen or "{%" in chosen or "{#" in chosen:
        return chosen
    there = f"there are {', '.join(map(repr, names))}" if names else "it has none"
    raise ChatTemplateError(f"chat_template: the model has no template named {chosen[:80]!r}; {there}")


def _copied(messages: Sequence[Message], copy: Copy, copy_own: Copy) -> list[Message]:
    """The messages as the template sees them: `copy_own` takes contents of the assistant's. What calls say is no text
    of the template's, whoever made them."""
    shown = []
    for number, message in enumerate(map(with_parsed_arguments, messages), 1):
        content = copy_own if message["role"] == "assistant" else copy
        shown.append(
            {
                name: (content if name == "content" else copy).of(value, f"message {number}", depth=1)
                for name, value in message.items()
            }
        )
    return shown


def _fuel(one: Program, messages: int, copy: Copy, copy_own: Copy) -> Fuel:
    """For so many messages, once they and all else are copied."""
    characters = copy.characters + copy_own.characters + len(one.source) // PER_SOURCE
    return fuel_for(copy.values + copy_own.values, characters, messages, copy.known | copy_own.known)


def _in_form(message: Message, one: Program) -> Message:
    """The message with its content in the form that the template takes."""
    content = message.get("content")
    if isinstance(content, str):
        return message if one.takes_text else {**message, "content": [{"type": "text", "text": content}]}
    return message if content is None or one.takes_parts else {**message, "content": text_of_content(content)}


def _open(messages: list[Message]) -> str:
    """Mark the end of the last message; its text, which the rendering must hold."""
    last = messages[-1]
    where = f"continue_final_message: message {len(messages)}, the last,"
    if last["role"] != "assistant":
        raise ChatTemplateError(f"{where} is of the role {last['role']!r}, not 'assistant'")
    if last.get("tool_calls"):
        raise ChatTemplateError(f"{where} has calls after its content")
    content = last.get("content")
    if isinstance(content, str):
        last["content"] = content + CONTINUED
        return content
    if not content:
        raise ChatTemplateError(f"{where} has no content to continue")
    part = content[-1]
    text: str = part["text"]
    part["text"] = text + CONTINUED
    return text


def _cut_open(rendered: str, final: str) -> str:
    """The rendering up to where the last message's text ends, as the Transformers library cuts it."""
    at = rendered.rfind(CONTINUED.strip())
    if at < 0 or final.strip() not in rendered:
        raise ChatTemplateError("continue_final_message: the chat template does not show the last message as it is")
    cut = rendered[:at]
    return cut if rendered.startswith(CONTINUED, at) else cut.rstrip()


def _clock(now: Callable[[], datetime]) -> Callable[[str], str]:
    def strftime_now(form: object) -> str:
        if not isinstance(form, str) or len(form) > MOST_FORMAT or _WIDE_DATE.search(form):
            raise ChatTemplateError("the chat template asks for a date in a form that is none")
        return now().strftime(form)

    return strftime_now
