"""From Anthropic's messages to the messages that chat templates know.

Results of tools become messages of their own. Messages of one role that follow each other are one turn, as in
Anthropic's API. What is made of a message does not depend on what follows it, nor on its `cache_control`, so that the
replies in a conversation are recognised when it goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from erllama_py.serve.anthropic.blocks import (
    Block,
    CacheControl,
    Document,
    Image,
    RedactedThinking,
    SearchResult,
    Text,
    Thinking,
    ToolResult,
    ToolUse,
)
from erllama_py.serve.anthropic.protocol import Message, Prompt
from erllama_py.serve.core.arguments import arguments_text
from erllama_py.serve.core.problems import Problem

ERROR = "Error: "
# A line for Anthropic's accounts that Claude Code puts first, with a number that changes with each request: as a part
# of the prompt it would keep every request from the cache, and the model has no use for it.
BILLING = "x-anthropic-billing-header:"
SECONDS = {"5m": 300, "1h": 3600}


class Mark(msgspec.Struct, frozen=True):
    """A `cache_control`: the prompt up to the end of so many messages is to be kept."""

    messages: int
    """How many of `Conversation.messages`; 0: the tools."""
    seconds: int
    """For how long, after the last use."""


class Conversation(msgspec.Struct, frozen=True):
    """A conversation as a model is asked it."""

    messages: list[dict[str, Any]]
    marks: list[Mark]


class Reader:
    """Reads one request. `image` gives what is read in place of the image at a path, or raises; `is_forged` says
    whether a text is signed as the model's thinking, and was not thought by it."""

    def __init__(self, image: Callable[[str], str], is_forged: Callable[[str, str], bool]) -> None:
        self._image, self._is_forged = image, is_forged
        self._messages: list[dict[str, Any]] = []
        self._marks: list[Mark] = []
        self._names: dict[str, str] = {}  # of the tools that were called, by the ids of the calls

    def read(self, request: Prompt) -> Conversation:
        """The conversation of a request. Raises `Problem`."""
        for tool in request.tools or ():
            self._mark(tool.cache_control)
        self._system(request.system)
        for number, message in enumerate(request.messages):
            self._message(message, f"messages[{number}]")
        self._mark(request.cache_control)
        return Conversation(self._messages, self._marks)

    def _mark(self, control: CacheControl | None, *, before: bool = False) -> None:
        if control is not None:
            self._marks.append(Mark(len(self._messages) - before, SECONDS[control.ttl or "5m"]))

    def _system(self, system: str | list[Text] | None) -> None:
        if system is None or isinstance(system, str):
            texts = [system] if system else []
        else:
            texts = [one.text for one in system if not one.text.startswith(BILLING)]
        if any(texts):
            self._messages.append({"role": "system", "content": "\n\n".join(filter(None, texts))})
        if system and not isinstance(system, str):
            last = len(system) - 1
            for place, block in enumerate(system):
                self._mark(block.cache_control, before=place < last and any(texts))

    def _message(self, message: Message, at: str) -> None:
        blocks: list[Block] = [Text(text=message.content)] if isinstance(message.content, str) else message.content
        if message.role == "assistant":
            self._assistant(blocks, at)
        else:
            self._said(message.role, blocks, at)

    # --- what the model has said ---------------------------------------------------------------------------------

    def _assistant(self, blocks: Sequence[Block], at: str) -> None:
        texts, thoughts, calls = list[str](), list[str](), list[dict[str, Any]]()
        for place, block in enumerate(blocks):
            match block:
                case Text():
                    texts.append(block.text)
                case Thinking():
                    if block.thinking.strip() and not self._is_forged(block.thinking, block.signature or ""):
                        thoughts.append(block.thinking)
                case RedactedThinking():
                    pass
                case ToolUse():
                    self._names[block.id] = block.name
                    function = {"name": block.name, "arguments": arguments_text(block.input or {})}
                    calls.append({"id": block.id, "type": "function", "function": function})
                case _:
                    raise _misplaced(block, f"{at}.content[{place}]", "the assistant")
        message: dict[str, Any] = {"role": "assistant", "content": "".join(texts)}
        if thoughts:
            message["reasoning_content"] = "\n\n".join(thoughts)
        if calls:
            message["tool_calls"] = calls
        self._add(message)
        self._mark_blocks(blocks)

    def _mark_blocks(self, blocks: Sequence[Block]) -> None:
        """Marks of blocks that are one message: the last is at its end, the others before it."""
        for place, block in enumerate(blocks, 1):
            self._mark(block.cache_control, before=place < len(blocks))

    # --- what it was told ----------------------------------------------------------------------------------------

    def _said(self, role: str, blocks: Sequence[Block], at: str) -> None:
        """Runs of blocks that are no results are one message each; a result is one by itself."""
        run = list[Block]()
        parts = list[dict[str, Any]]()
        for place, block in enumerate(blocks):
            where = f"{at}.content[{place}]"
            if isinstance(block, ToolResult):
                self._flush(role, run, parts)
                self._result(block, where)
            else:
                parts.append({"type": "text", "text": self._text(block, where)})
                run.append(block)
        if run or not blocks:
            self._flush(role, run, parts, even_empty=not blocks)

    def _flush(self, role: str, run: list[Block], parts: list[dict[str, Any]], *, even_empty: bool = False) -> None:
        if parts or even_empty:
            content = parts[0]["text"] if len(parts) == 1 else [*parts] or ""
            self._add({"role": role, "content": content})
            self._mark_blocks(run)
        run.clear()
        parts.clear()

    def _result(self, block: ToolResult, at: str) -> None:
        content = block.content
        if isinstance(content, list):
            texts = [self._text(one, f"{at}.content[{place}]") for place, one in enumerate(content)]
            content = "\n".join(texts)
        text = content or ""
        if block.is_error and not text.lower().startswith("error"):
            text = ERROR + text
        message = {"role": "tool", "tool_call_id": block.tool_use_id, "content": text}
        if name := self._names.get(block.tool_use_id):
            message["name"] = name
        self._messages.append(message)
        self._mark(block.cache_control)

    def _text(self, block: Block, at: str) -> str:
        match block:
            case Text():
                return block.text
            case Image():
                return self._image(at)
            case Document():
                return _document(block, at)
            case SearchResult():
                return "\n".join([block.title, block.source, *(one.text for one in block.content)])
        raise _misplaced(block, at, "a user")

    def _add(self, message: dict[str, Any]) -> None:
        """Add a message, or add it to the last one where that is of the same role."""
        last = self._messages[-1] if self._messages else {}
        if last.get("role") != message["role"] or message["role"] == "system":
            self._messages.append(message)
        elif message["role"] == "user":
            last["content"] = [*_parts(last["content"]), *_parts(message["content"])]
        else:
            last["content"] = "\n".join(filter(None, (last["content"], message["content"])))
            if thought := "\n\n".join(
                one["reasoning_content"] for one in (last, message) if "reasoning_content" in one
            ):
                last["reasoning_content"] = thought
            if calls := [*last.get("tool_calls", ()), *message.get("tool_calls", ())]:
                last["tool_calls"] = calls


def _parts(content: str | list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _misplaced(block: Block, at: str, whose: str) -> Problem:
    kind = type(block).__struct_config__.tag
    return Problem("invalid", f"a block of the type {kind!r} is not for messages of {whose}", param=at)


def _document(block: Document, at: str) -> str:
    """The text of a document with what is said of it. Raises `Problem` where it has none."""
    source: Mapping[str, Any] = block.source
    text: Any = None
    match source.get("type"):
        case "text":
            text = source.get("data")
        case "content":
            text = source.get("content")
            if isinstance(text, list):
                text = "\n".join(str(one.get("text", "")) for one in text if isinstance(one, dict))
    if not isinstance(text, str):
        message = "only documents of text can be read here, with a source of the type 'text' or 'content'"
        raise Problem("invalid", message, param=f"{at}.source", code="document_not_supported")
    return "\n".join(filter(None, (block.title, block.context, text)))
