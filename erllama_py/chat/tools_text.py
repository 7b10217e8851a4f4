"""Tools for models whose chat template takes none: told in the system message, calls and results as text. Pure.

The form is that of the Hermes models, which others have learnt too. It is asked for by `tools_in_system`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from erllama_py.chat.conversation import Message, text_of_content

TOOLS = """\
# Tools

You may call one or more of these functions. Their signatures, as JSON Schema, are between the tags:
<tools>
{tools}
</tools>

For each call, answer with a JSON object of the function's name and its arguments between these tags:
<tool_call>
{{"name": <name of the function>, "arguments": <JSON object of its arguments>}}
</tool_call>"""

RESULT = "<tool_response>\n{result}\n</tool_response>"
MARKERS = TOOLS + RESULT


def with_tools_as_text(messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]) -> list[Message]:
    """The conversation, its tools in the system message, which is added where there is none. Calls become text of the
    assistant, and results messages of the user."""
    told = TOOLS.format(tools="\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools))
    if messages and messages[0]["role"] in ("system", "developer"):
        first, *messages = messages
        told = f"{text_of_content(first.get('content'))}\n\n{told}"
        opening = {**first, "content": told}
    else:
        opening = {"role": "system", "content": told}
    shown: list[Message] = [opening]
    after_result = False
    for message in messages:
        one = _as_text(message)
        is_result = message["role"] == "tool"
        if is_result and after_result:
            shown[-1]["content"] += f"\n{one['content']}"
        else:
            shown.append(one)
        after_result = is_result
    return shown


def _as_text(message: Message) -> Message:
    content = text_of_content(message.get("content"))
    if message["role"] == "tool":
        return {"role": "user", "content": RESULT.format(result=content)}
    if not message.get("tool_calls"):
        return message
    calls = "\n".join(map(_call, message["tool_calls"]))
    rest = {name: value for name, value in message.items() if name != "tool_calls"}
    return {**rest, "content": f"{content}\n{calls}" if content else calls}


def _call(call: Mapping[str, Any]) -> str:
    called = call.get("function", call)
    written = {"name": called.get("name"), "arguments": called.get("arguments", {})}
    return f"<tool_call>\n{json.dumps(written, ensure_ascii=False)}\n</tool_call>"
