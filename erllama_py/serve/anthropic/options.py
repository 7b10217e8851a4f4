"""What a request asks of its reply, by this library's names."""

from __future__ import annotations

from typing import Any

import erllama_py as erllama
from erllama_py.serve.anthropic.protocol import (
    AnyTool,
    Auto,
    Disabled,
    Enabled,
    MessagesRequest,
    NoTool,
    OneTool,
    Prompt,
    Tool,
)
from erllama_py.serve.core.problems import Problem

CUSTOM = (None, "custom")


def prompt_options(request: Prompt, form: erllama.ChatFormat) -> dict[str, Any]:
    """What shapes the prompt, and the calls in its reply. Raises `Problem`."""
    options = tool_options(request) | thinking_options(request, form)
    last = request.messages[-1] if request.messages else None
    if last is not None and last.role == "assistant":
        options["continue_final_message"] = True
    return options


def reply_options(request: MessagesRequest) -> dict[str, Any]:
    """What is said of the reply alone; `None` where nothing is."""
    wanted = (request.output_config and request.output_config.format) or request.output_format
    return {
        "response_tokens": request.max_tokens, "stop_sequences": request.stop_sequences or None,
        "temperature": request.temperature, "top_p": request.top_p, "top_k": request.top_k,
        "json_schema": None if wanted is None else wanted.schema,
    }  # fmt: skip


def tool_options(request: Prompt) -> dict[str, Any]:
    """The tools and which are to be called. Raises `Problem`."""
    if not request.tools:
        return {}
    options: dict[str, Any] = {
        "tools": [_tool(tool, f"tools[{place}]") for place, tool in enumerate(request.tools)],
        "tools_in_system": True,  # where the template shows none
    }
    match request.tool_choice:
        case AnyTool():
            options["tool_choice"] = "required"
        case OneTool(name):
            options["tool_choice"] = {"name": name}
        case NoTool():
            options["tool_choice"] = "none"
    if isinstance(request.tool_choice, Auto | AnyTool | OneTool) and request.tool_choice.disable_parallel_tool_use:
        options["parallel_tool_calls"] = False
    return options


def _tool(tool: Tool, at: str) -> dict[str, Any]:
    if tool.type not in CUSTOM:
        message = f"{tool.type!r} is a tool of Anthropic's own; here a tool has a name and an input_schema"
        raise Problem("invalid", message, param=f"{at}.type", code="tool_not_supported")
    if tool.input_schema is None:
        raise Problem("invalid", "the schema of the tool's input is missing", param=f"{at}.input_schema")
    function: dict[str, Any] = {
        "name": tool.name,
        "description": tool.description or "",
        "parameters": tool.input_schema,
    }
    if tool.strict:
        function["strict"] = True
    return {"type": "function", "function": function}


def thinking_options(request: Prompt, form: erllama.ChatFormat) -> dict[str, Any]:
    """How the model is to think, as far as it can be told.

    Without a word on it a model that can be switched does not think, as clients expect it that take the first block of
    an answer for its text. One that cannot be switched off has its thinking closed at once where that is asked for.
    """
    can_switch = form.thinking is not None and form.thinking_switch is not None
    match request.thinking:
        case Enabled(budget):
            options: dict[str, Any] = {"thinking": True} if can_switch else {}
            return options | ({} if form.thinking is None else {"thinking_budget_tokens": budget})
        case Disabled() if form.thinking is not None and not form.thinking_off:
            return {"thinking_budget_tokens": 0}
        case None | Disabled():
            return {"thinking": False} if form.thinking_off else {}
    return {}


def shows_thinking(request: Prompt) -> bool:
    """Whether the client wants to read what the model thinks."""
    return getattr(request.thinking, "display", None) != "omitted"
