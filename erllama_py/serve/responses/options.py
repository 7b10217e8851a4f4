"""What a request asks for, by the names of this library's options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from erllama_py.serve.core.bodies import wrong
from erllama_py.serve.core.problems import Problem
from erllama_py.serve.responses.protocol import Mode, ResponseRequest, TokensRequest

INCLUDED = ("message.output_text.logprobs", "reasoning.encrypted_content")
ABSENT = (  # of tools and inputs that are not served: clients ask for them in any case
    "web_search_call.action.sources", "web_search_call.results", "file_search_call.results",
    "code_interpreter_call.outputs", "computer_call_output.output.image_url", "message.input_image.image_url",
)  # fmt: skip
DAY = 86_400.0  # seconds


class Function(msgspec.Struct, frozen=True):
    """A function that the model may call."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Choice(msgspec.Struct, frozen=True):
    """A `tool_choice` that is more than a word: one function, or some of them."""

    type: str
    name: str | None = None
    tools: list[dict[str, Any]] = []
    mode: Mode = "auto"


def check_served(request: TokensRequest) -> None:
    """Raises `Problem` for what would change the answer and is not done here."""
    for name in ("conversation", "prompt"):
        if getattr(request, name) is not None:
            raise Problem("invalid", f"{name} is not served here: send the items themselves", param=name)


def shaping(request: TokensRequest) -> dict[str, Any]:
    """The options that shape the prompt, and what the reply may call. Raises `Problem`."""
    tools, choice = chosen(request.tools or [], request.tool_choice)
    effort = None if request.reasoning is None else request.reasoning.effort
    kwargs: dict[str, Any] = dict(getattr(request, "chat_template_kwargs", None) or {})
    if effort not in (None, "none"):
        kwargs.setdefault("reasoning_effort", "low" if effort == "minimal" else effort)
    return {
        "tools": tools or None, "tool_choice": choice if tools else None, "tools_in_system": True,
        "thinking": None if effort is None else effort != "none", "template_kwargs": kwargs or None,
    }  # fmt: skip


def options_of(request: ResponseRequest) -> dict[str, Any]:
    """All options of a request. Raises `Problem`."""
    check_served(request)
    if request.background:
        raise Problem("invalid", "answers are not made in the background here: leave it out", param="background")
    if len(request.metadata or ()) > 16:
        raise Problem("invalid", "metadata: at most 16 pairs", param="metadata")
    for number, name in enumerate(request.include or ()):
        if name not in INCLUDED + ABSENT:
            path = f"include[{number}]"
            raise Problem("invalid", f"{path}: expected one of {', '.join(INCLUDED)}", param=path)
    options = shaping(request)
    one_call = request.parallel_tool_calls is False or request.max_tool_calls == 1
    wanted = request.top_logprobs is not None or wants_logprobs(request)
    return options | {
        "response_tokens": request.max_output_tokens, "temperature": request.temperature, "top_p": request.top_p,
        "presence_penalty": request.presence_penalty, "frequency_penalty": request.frequency_penalty,
        "top_k": request.top_k, "min_p": request.min_p, "seed": request.seed,
        "parallel_tool_calls": not one_call if options["tools"] else None,
        "keep": [{"seconds": DAY}] if request.prompt_cache_retention == "24h" else None,
        "json_schema": format_of(request), "logprobs": (request.top_logprobs or 0) if wanted else None,
    }  # fmt: skip


def wants_logprobs(request: ResponseRequest) -> bool:
    """Whether each token of the text is to have its log-probability."""
    return INCLUDED[0] in (request.include or ()) or bool(request.top_logprobs)


def format_of(request: TokensRequest) -> Any:
    """The schema that the text has to obey; None for free text. Raises `Problem`."""
    given = None if request.text is None else request.text.format
    kind = None if given is None else given.get("type")
    if given is None or kind == "text":
        return None
    if kind == "json_object":
        return {"type": "object"}
    if kind == "json_schema" and isinstance(given.get("schema"), dict) and isinstance(given.get("name"), str):
        return given["schema"]
    message = "text.format: expected text, json_object, or json_schema with a name and a schema"
    raise Problem("invalid", message, param="text.format")


def chosen(tools: Sequence[Mapping[str, Any]], choice: str | Mapping[str, Any] | None) -> tuple[list[Any], Any]:
    """The tools that may be called, as the chat API has them, and how they are chosen. Raises `Problem`."""
    known = {tool["name"]: tool for tool in (_tool(tool, number) for number, tool in enumerate(tools))}
    if choice is None or isinstance(choice, str):
        return _shown(known.values()), _needs_tools(choice, known)
    try:
        read = msgspec.convert(choice, Choice)
    except msgspec.ValidationError as error:
        problem = wrong(error, Choice)
        raise Problem("invalid", f"tool_choice: {problem.message}", param="tool_choice") from None
    names = [read.name] if read.type == "function" else [one.get("name") for one in read.tools]
    if read.type not in ("function", "allowed_tools") or not names:
        raise Problem("invalid", "tool_choice: expected a word, a function or allowed_tools", param="tool_choice")
    for name in names:
        if name not in known:
            raise Problem("invalid", f"tool_choice: there is no tool {str(name)[:64]!r}", param="tool_choice")
    if read.type == "function":
        return _shown(known.values()), {"name": read.name}
    if read.mode == "required" and len(names) == 1:
        return _shown(known.values()), {"name": names[0]}
    return _shown([known[str(name)] for name in names]), read.mode


def _needs_tools(choice: str | None, known: Mapping[str, Any]) -> str | None:
    if choice == "required" and not known:
        raise Problem("invalid", "tool_choice: there are no tools to call", param="tool_choice")
    return choice


def _tool(tool: Mapping[str, Any], number: int) -> dict[str, Any]:
    path = f"tools[{number}]"
    if tool.get("type") != "function":
        message = f"{path}.type: tools of the type {str(tool.get('type'))[:40]!r} are not served here, functions are"
        raise Problem("invalid", message, param=f"{path}.type")
    try:
        read = msgspec.convert(tool, Function)
    except msgspec.ValidationError as error:
        problem = wrong(error, Function)
        at = f"{path}.{problem.param}" if problem.param else path
        raise Problem("invalid", f"{at}: {problem.message.removeprefix(f'{problem.param}: ')}", param=at) from None
    return {
        "name": read.name,
        **({"description": read.description} if read.description is not None else {}),
        **({"parameters": read.parameters} if read.parameters is not None else {}),
    }


def _shown(tools: Any) -> list[Any]:
    return [{"type": "function", "function": tool} for tool in tools]
