"""Items as the messages of a conversation, which the model's chat template shows to it.

An answer may have several items: what was thought, said and called. They become one message again, the one that the
model's reply was (`Completion.message`), so that the next turn goes on from the very tokens of that reply. Which items
belong together is known by their ids, which name the answer, and without them by their order.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from erllama_py.serve.core.images import NOTE
from erllama_py.serve.core.problems import Problem

SUMMARY_REQUEST = (
    "Summarise this conversation so far, for yourself, as notes to go on from: what was asked, what is known, what was "
    "decided and done, what is still open. Keep names, numbers and wordings that matter. Write the notes alone."
)
_OUR_ID = re.compile(r"^[a-z]+_([0-9a-f]{32})_\d+$")
Unseal = Callable[[str, str], str]
"""What a sealed text of a kind says. Raises `Problem`."""


def messages_of(items: Iterable[Mapping[str, Any]], instructions: str | None, unseal: Unseal) -> list[dict[str, Any]]:
    """The conversation. Raises `Problem` for what was sealed elsewhere, and a result that belongs to no call."""
    conversation = Conversation(unseal)
    if instructions:
        conversation.say("system", instructions)
    for item in items:
        conversation.add(item)
    return conversation.end()


class Conversation:
    """Messages, and the assistant's one that items are still added to."""

    def __init__(self, unseal: Unseal) -> None:
        self._unseal = unseal
        self._messages: list[dict[str, Any]] = []
        self._reply: dict[str, Any] | None = None
        self._answer: str | None = None  # which answer that reply's items are of, where their ids say so
        self._calls: dict[str, str] = {}  # names of functions, by the ids of their calls

    def end(self) -> list[dict[str, Any]]:
        """All of them."""
        self._close()
        return self._messages

    def add(self, item: Mapping[str, Any]) -> None:
        """One more item."""
        match item["type"]:
            case "message" if item["role"] == "assistant":
                reply = self._open(item, fresh=("content", "tool_calls"))
                reply["content"] = (reply["content"] or "") + text_of(item["content"])
            case "message":
                self.say("user" if item["role"] == "user" else "system", text_of(item["content"]))
            case "reasoning":
                self._think(item)
            case "function_call":
                reply = self._open(item)
                function = {"name": item["name"], "arguments": item["arguments"]}
                reply.setdefault("tool_calls", []).append(
                    {"id": item["call_id"], "type": "function", "function": function}
                )
                self._calls[item["call_id"]] = item["name"]
            case "function_call_output":
                self._result(item)
            case "compaction":
                self._summary(self._unseal("compaction", item["encrypted_content"]))

    def say(self, role: str, text: str) -> None:
        """Something that is not the model's. What opens a conversation is one system message: templates show one."""
        self._close()
        last = self._messages[-1] if self._messages else None
        if role == "system" and len(self._messages) == 1 and last is not None and last["role"] == "system":
            last["content"] = f"{last['content']}\n\n{text}"
        else:
            self._messages.append({"role": role, "content": text})

    def _think(self, item: Mapping[str, Any]) -> None:
        if item.get("encrypted_content"):
            thinking = self._unseal("reasoning", item["encrypted_content"])
        else:
            thinking = text_of(item.get("content") or item["summary"])
        reply = self._open(item, fresh=("content", "tool_calls"))  # one of nothing else is a reply too
        if thinking:
            before = reply.get("reasoning_content")
            reply["reasoning_content"] = f"{before}\n\n{thinking}" if before else thinking

    def _open(self, item: Mapping[str, Any], fresh: tuple[str, ...] = ()) -> dict[str, Any]:
        """The reply that an item is a part of: a new one where that is of another answer, or, as far as ids say
        nothing, has what comes after such an item in an answer."""
        found = _OUR_ID.match(item.get("id") or "")
        answer = found[1] if found else None
        known = answer is not None and self._answer is not None
        if self._reply is not None and (
            answer != self._answer if known else any(self._reply.get(name) for name in fresh)
        ):
            self._close()
        if self._reply is None:
            self._reply, self._answer = {"role": "assistant", "content": ""}, answer
        return self._reply

    def _close(self) -> None:
        if self._reply is not None:
            self._messages.append(self._reply)
            self._reply = self._answer = None

    def _result(self, item: Mapping[str, Any]) -> None:
        if item["call_id"] not in self._calls:
            message = f"no call in the conversation has the id {item['call_id']!r}, whose result this is"
            raise Problem("invalid", message, param="input", code="unknown_call_id")
        self._close()
        output = item["output"] if isinstance(item["output"], str) else text_of(item["output"])
        about = {"name": self._calls[item["call_id"]], "tool_call_id": item["call_id"]}
        self._messages.append({"role": "tool", **about, "content": output})

    def _summary(self, summary: str) -> None:
        """A summary is the model's answer to having been asked for it. What users said before it is one message with
        that question: many templates want users and assistants in turn."""
        self._close()
        said = []
        while self._messages and self._messages[-1]["role"] == "user":
            said.append(self._messages.pop()["content"])
        self._messages.append({"role": "user", "content": "\n\n".join([*reversed(said), SUMMARY_REQUEST])})
        self._messages.append({"role": "assistant", "content": summary})


def text_of(content: Iterable[Mapping[str, Any]]) -> str:
    """The text of a content's parts. In place of an image the model is told that there is one."""
    return "\n".join(_text(part) for part in content)


def _text(part: Mapping[str, Any]) -> str:
    if part["type"] == "input_image":
        return NOTE
    return str(part["refusal"] if part["type"] == "refusal" else part["text"])
