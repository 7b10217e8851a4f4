"""The tools that a reply may call, as its grammar needs them. On the caller's threads, before there is a request."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from erllama_py.chat.dialect import Dialect
from erllama_py.chat.reply_grammar import Calls, Choice
from erllama_py.chat.schema import check_named, refused, schema_text
from erllama_py.chat.structure import JSON_STYLE
from erllama_py.chat.tool import Tool, nearest_tool
from erllama_py.chat.tool_formats import Offered, format_named
from erllama_py.engine.structure import Tokenizer
from erllama_py.errors import InvalidGrammar, InvalidOption, InvalidSchema
from erllama_py.handle.structured import check
from erllama_py.options.request import RequestOptions

DEFAULT_FORMAT = "hermes"  # of a template that knows of no tools: what `tools_in_system` asks the model for


def grammar_calls(options: RequestOptions, dialect: Dialect) -> Calls | None:
    """The calls that the reply may have; None without tools. Raises `InvalidOption`, `InvalidSchema`."""
    tools: Sequence[Tool] = options.tools or ()
    if not tools:
        return None
    form = dialect.tools or format_named(DEFAULT_FORMAT)
    assert form is not None
    choice: Choice = "auto"
    callable_ = tools
    match options.tool_choice:
        case "required" | "none":
            choice = options.tool_choice
        case {"name": name}:
            choice, callable_ = "required", [_named(name, tools)]
    return Calls(
        form=form, tools=[] if choice == "none" else [offered(tool) for tool in callable_],
        names=tuple(tool.name for tool in tools), choice=choice, several=options.parallel_tool_calls,
    )  # fmt: skip


def _named(name: str, tools: Sequence[Tool]) -> Tool:
    found = next((tool for tool in tools if tool.name == name), None)
    if found is None:
        problem = f"{name[:80]!r} is none of the tools"
        raise InvalidOption("tool_choice", problem, nearest_tool(name, tools))
    return found


def offered(tool: Tool) -> Offered:
    """A tool for a grammar. One whose `strict` is false takes any arguments. Raises `InvalidSchema`."""
    parameters = tool.parameters
    if tool.shown.get("function", {}).get("strict") is False:
        parameters = {"type": "object"}
    try:
        check_named(parameters)
        return Offered(tool.name, parameters, schema_text(parameters, **JSON_STYLE))
    except InvalidSchema as error:
        raise _of_tool(tool.name, error) from error


def _of_tool(name: str, error: InvalidSchema) -> InvalidSchema:
    problem = f'the parameters of the tool {name!r}: {error.problem} ("strict": False takes any arguments)'
    return InvalidSchema(problem, error.keyword, error.path, name)


@contextmanager
def refused_tools(calls: Calls | None, tokenizer: Tokenizer) -> Iterator[None]:
    """Say of which tool a grammar is refused, where it is one of them alone."""
    try:
        yield
    except InvalidGrammar as error:
        for tool in [] if calls is None else calls.tools:
            _check_alone(tool, tokenizer)
        if calls is None:
            raise
        raise InvalidGrammar(f"the tools: {error.problem}") from error


def _check_alone(tool: Offered, tokenizer: Tokenizer) -> None:
    grammar = f'{{"grammars": [{{"json_schema": {tool.schema}}}]}}'
    try:
        check(grammar, tokenizer)
    except InvalidGrammar as error:
        raise _of_tool(tool.name, refused(tool.parameters, error.problem)) from error
