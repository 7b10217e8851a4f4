"""The tools that a chat may call, in today's form and in that of `functions`; and calls as clients read them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import erllama_py as erllama
from erllama_py.serve.core.arguments import arguments_text
from erllama_py.serve.core.problems import Problem
from erllama_py.serve.openai.protocol import ChatRequest


def is_legacy(request: ChatRequest) -> bool:
    """Whether calls are told as `function_call`."""
    return bool(request.functions) and not request.tools


def tool_options(request: ChatRequest) -> dict[str, Any]:
    """What the request says of tools, by this library's names. Raises `Problem`."""
    tools, choice = request.tools, request.tool_choice
    several = request.parallel_tool_calls
    if is_legacy(request):
        tools = [{"type": "function", "function": one} for one in request.functions or ()]
        choice, several = request.function_call, False
    if not tools:
        return {"tool_choice": choice}
    if isinstance(choice, Mapping) and choice.get("type") == "allowed_tools":
        tools, choice = _allowed(tools, choice)
    # Where a template shows no tools they are told in the system message; else nothing changes.
    return {"tools": tools, "tool_choice": choice, "parallel_tool_calls": several, "tools_in_system": True}


def _allowed(tools: list[dict[str, Any]], choice: Mapping[str, Any]) -> tuple[list[dict[str, Any]], str]:
    """The tools that are allowed, and whether one has to be called."""
    inner = choice.get("allowed_tools", choice)
    mode, listed = (inner.get("mode", "auto"), inner.get("tools")) if isinstance(inner, Mapping) else (None, None)
    if mode not in ("auto", "required") or not isinstance(listed, list) or not listed:
        message = "tool_choice: allowed_tools has a mode, 'auto' or 'required', and a list of tools"
        raise Problem("invalid", message, param="tool_choice")
    names = {_name(one) for one in listed}
    allowed = [tool for tool in tools if _name(tool) in names]
    if len(allowed) < len(names):
        raise Problem("invalid", "tool_choice: allowed_tools names a tool that is not there", param="tool_choice")
    return allowed, mode


def _name(tool: object) -> object:
    inner = tool.get("function", tool) if isinstance(tool, Mapping) else {}
    name = inner.get("name") if isinstance(inner, Mapping) else None
    return name if isinstance(name, str) else None


def function_of(call: erllama.ToolCall) -> dict[str, Any]:
    """A call's function: its name, and its arguments as JSON text."""
    return {"name": call.name, "arguments": arguments_text(call.arguments)}
