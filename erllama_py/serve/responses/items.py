"""The items that a client sends, checked, and made whole as they are kept and shown again.

An item is a mapping with a `type`. Each kind has a struct here that says what is read of it.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from erllama_py.serve.core.bodies import wrong
from erllama_py.serve.core.problems import Problem

Status = Literal["in_progress", "completed", "incomplete"]
CallId = Annotated[str, Meta(min_length=1, max_length=64)]


class Part(msgspec.Struct, frozen=True):
    """One part of a content: which of the fields it has depends on its type."""

    type: Literal[
        "input_text", "output_text", "text", "summary_text", "reasoning_text", "refusal", "input_image", "input_file",
        "input_video",
    ]  # fmt: skip
    text: str | None = None
    refusal: str | None = None
    image_url: str | None = None
    detail: Literal["low", "high", "auto"] | None = None
    annotations: list[dict[str, Any]] | None = None


Json = dict[str, Any]
Content = str | list[Part]


class MessageItem(msgspec.Struct, frozen=True):
    """What somebody says."""

    role: Literal["user", "assistant", "system", "developer"]
    content: Content
    id: str | None = None
    phase: Literal["commentary", "final_answer"] | None = None
    status: Status | None = None


class CallItem(msgspec.Struct, frozen=True):
    """A call of a function."""

    call_id: CallId
    name: str
    arguments: str
    id: str | None = None
    status: Status | None = None


class CallOutputItem(msgspec.Struct, frozen=True):
    """What a function gave."""

    call_id: CallId
    output: Content
    id: str | None = None
    status: Status | None = None


class ReasoningItem(msgspec.Struct, frozen=True):
    """What the model thought."""

    id: str | None = None
    summary: list[Part] = []
    content: list[Part] | None = None
    encrypted_content: str | None = None


class CompactionItem(msgspec.Struct, frozen=True):
    """What stands for a conversation before it."""

    encrypted_content: str
    id: str | None = None


class ReferenceItem(msgspec.Struct, frozen=True):
    """An item of an answer that is stored."""

    id: str


Item = MessageItem | CallItem | CallOutputItem | ReasoningItem | CompactionItem | ReferenceItem
KINDS: dict[str, type[Item]] = {
    "message": MessageItem, "function_call": CallItem, "function_call_output": CallOutputItem,
    "reasoning": ReasoningItem, "compaction": CompactionItem, "item_reference": ReferenceItem,
}  # fmt: skip


def read_items(given: str | Sequence[Mapping[str, Any]] | None, check_image: Callable[[str], object]) -> list[Json]:
    """The input of a request as items, whole, each with an id. Raises `Problem` with the path of what is wrong.

    `check_image` raises it for the path of an image, where images are refused.
    """
    if isinstance(given, str):
        given = [{"type": "message", "role": "user", "content": given}]
    items = [_read(item, f"input[{number}]") for number, item in enumerate(given or ())]
    for number, item in enumerate(items):
        content = item.get("content") or item.get("output")
        for place, part in enumerate(content if isinstance(content, list) else ()):
            if part["type"] == "input_image":
                check_image(f"input[{number}].{'content' if 'content' in item else 'output'}[{place}]")
    return items


def _read(item: Mapping[str, Any], path: str) -> Json:
    kind = item.get("type") or ("message" if "role" in item else "item_reference")
    if kind not in KINDS:
        message = f"items of the type {str(kind)[:40]!r} are not read here: {', '.join(KINDS)}"
        raise Problem("invalid", f"{path}.type: {message}", param=f"{path}.type")
    try:
        read = msgspec.convert(item, KINDS[kind])
    except msgspec.ValidationError as error:
        problem = wrong(error, KINDS[kind])
        at = f"{path}.{problem.param}" if problem.param else path
        text = problem.message.removeprefix(f"{problem.param}: ")
        raise Problem("invalid", f"{at}: {text}", param=at) from None
    return _WHOLE[type(read)](read, path)


def _message(item: MessageItem, path: str) -> Json:
    said = item.role == "assistant"
    content = _parts(item.content, path + ".content", "output_text" if said else "input_text")
    phase = {"phase": item.phase} if item.phase else {}
    return {
        "type": "message", "id": item.id or new_id("msg"), "status": item.status or "completed", "role": item.role,
        "content": content, **phase,
    }  # fmt: skip


def _call(item: CallItem, path: str) -> Json:
    return {
        "type": "function_call", "id": item.id or new_id("fc"), "call_id": item.call_id, "name": item.name,
        "arguments": item.arguments, "status": item.status or "completed",
    }  # fmt: skip


def _call_output(item: CallOutputItem, path: str) -> Json:
    output = item.output if isinstance(item.output, str) else _parts(item.output, path + ".output", "input_text")
    return {
        "type": "function_call_output", "id": item.id or new_id("fco"), "call_id": item.call_id, "output": output,
        "status": item.status or "completed",
    }  # fmt: skip


def _reasoning(item: ReasoningItem, path: str) -> Json:
    whole: dict[str, Any] = {"type": "reasoning", "id": item.id or new_id("rs")}
    whole["summary"] = [{"type": "summary_text", "text": part.text or ""} for part in item.summary]
    whole["content"] = [{"type": "reasoning_text", "text": part.text or ""} for part in item.content or ()]
    if item.encrypted_content:
        whole["encrypted_content"] = item.encrypted_content
    return whole


def _compaction(item: CompactionItem, path: str) -> Json:
    return {"type": "compaction", "id": item.id or new_id("cmp"), "encrypted_content": item.encrypted_content}


def _reference(item: ReferenceItem, path: str) -> Json:
    return {"type": "item_reference", "id": item.id}


_WHOLE: dict[type[Item], Callable[[Any, str], Json]] = {
    MessageItem: _message, CallItem: _call, CallOutputItem: _call_output, ReasoningItem: _reasoning,
    CompactionItem: _compaction, ReferenceItem: _reference,
}  # fmt: skip


def _parts(content: Content, path: str, kind: str) -> list[Json]:
    if isinstance(content, str):
        content = [Part("output_text" if kind == "output_text" else "input_text", content)]
    return [_part(part, f"{path}[{number}]", kind) for number, part in enumerate(content)]


def _part(part: Part, path: str, kind: str) -> Json:
    if part.type == "input_image":
        # No model here sees it, so its bytes are not kept; an address is.
        url = None if (part.image_url or "").startswith("data:") else part.image_url
        return {"type": "input_image", "image_url": url, "detail": part.detail or "auto"}
    if part.type in ("input_file", "input_video"):
        raise Problem("invalid", f"{path}: files are not read here: give their text as input_text", param=path)
    text = part.refusal if part.type == "refusal" else part.text
    if text is None:
        raise Problem("invalid", f"{path}: a part of the type {part.type!r} has a text", param=path)
    if part.type == "refusal":
        return {"type": "refusal", "refusal": text}
    if kind == "output_text":
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    return {"type": kind, "text": text}


def new_id(prefix: str) -> str:
    """An id that no other item has."""
    return f"{prefix}_{uuid.uuid4().hex}"
