"""Calls as models of each format write them, and replies read as an engine and a caller read them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from erllama_py.chat.reply_grammar import Calls, Choice, reply_grammar
from erllama_py.chat.segments import Piece, Segmenter, calls_of, text_of
from erllama_py.chat.tool import Tool, tools_of
from erllama_py.chat.tool_formats import ToolFormat
from erllama_py.engine.structure import Matcher, compile
from erllama_py.engine.stub import StubVocabulary
from erllama_py.handle.callable_tools import offered
from erllama_py.handle.reading import call_markers, split_marker
from erllama_py.handle.tool_calls import ReplyCalls
from erllama_py.results import CallText, EngineEvent, TextDelta, ToolCall, ToolCallDelta, ToolCallEnd

DEEPSEEK_TOKENS = (
    "<｜tool▁calls▁begin｜>",
    "<｜tool▁call▁begin｜>",
    "<｜tool▁sep｜>",
    "<｜tool▁call▁end｜>",
    "<｜tool▁calls▁end｜>",
)
VOCABULARY = StubVocabulary("stub", 300)
Call = tuple[str, dict[str, Any]]


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _objects(calls: Sequence[Call], key: str = "arguments") -> list[str]:
    return [_json({"name": name, key: arguments}) for name, arguments in calls]


def _python(value: object) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_python, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_python(key)}: {_python(one)}' for key, one in value.items())}}}"
    return _json(value) if isinstance(value, str) else repr(value)


def _pythonic(calls: Sequence[Call]) -> str:
    texts = [f"{name}({', '.join(f'{key}={_python(one)}' for key, one in args.items())})" for name, args in calls]
    return f"[{', '.join(texts)}]"


def _raw(value: object) -> str:
    return value if isinstance(value, str) else _json(value)


def _qwen3(calls: Sequence[Call]) -> str:
    texts = []
    for name, arguments in calls:
        values = "".join(f"<parameter={key}>\n{_raw(one)}\n</parameter>\n" for key, one in arguments.items())
        texts.append(f"<tool_call>\n<function={name}>\n{values}</function>\n</tool_call>")
    return "\n".join(texts)


def _glm(calls: Sequence[Call]) -> str:
    texts = []
    for name, arguments in calls:
        pairs = arguments.items()
        values = "".join(f"<arg_key>{key}</arg_key>\n<arg_value>{_raw(one)}</arg_value>\n" for key, one in pairs)
        texts.append(f"<tool_call>{name}\n{values}</tool_call>")
    return "\n".join(texts)


def _command_r(calls: Sequence[Call]) -> str:
    objects = [_json({"tool_call_id": "0", "tool_name": name, "parameters": one}) for name, one in calls]
    return "<|START_ACTION|>[\n    " + ",\n    ".join(objects) + "\n]<|END_ACTION|>"


def _deepseek(calls: Sequence[Call], head: str, between: str, after: str, separator: str) -> str:
    begin, end = "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>"
    texts = [f"{begin}{head}{name}{between}{_json(one)}{after}{end}" for name, one in calls]
    return f"<｜tool▁calls▁begin｜>{separator.join(texts)}<｜tool▁calls▁end｜>"


SEP = "<｜tool▁sep｜>"
# How a model of each format writes calls, as its grammar has it too.
WRITTEN: dict[str, Callable[[Sequence[Call]], str]] = {
    "harmony": lambda calls: "".join(
        f"<|channel|>commentary to=functions.{name} <|constrain|>json<|message|>{_json(one)}" for name, one in calls
    ),
    "deepseek_v3": lambda calls: _deepseek(calls, f"function{SEP}", "\n```json\n", "\n```", "\n"),
    "deepseek_v31": lambda calls: _deepseek(calls, "", SEP, "", ""),
    "command_r": _command_r,
    "functionary": lambda calls: "\n".join(f">>>{name}\n{_json(one)}" for name, one in calls),
    "mistral_named": lambda calls: "".join(f"[TOOL_CALLS]{name}[ARGS]{_json(one)}" for name, one in calls),
    "mistral": lambda calls: f"[TOOL_CALLS][{', '.join(_objects(calls))}]",
    "lfm2": lambda calls: f"<|tool_call_start|>{_pythonic(calls)}<|tool_call_end|>",
    "qwen3_coder": _qwen3,
    "glm": _glm,
    "llama_function": lambda calls: "\n".join(f"<function={name}>{_json(one)}</function>" for name, one in calls),
    "phi4": lambda calls: f"<|tool_call|>[{', '.join(_objects(calls))}]<|/tool_call|>",
    "granite": lambda calls: f"<|tool_call|>[{', '.join(_objects(calls))}]",
    "nemotron": lambda calls: f"<TOOLCALL>[{', '.join(_objects(calls))}]</TOOLCALL>",
    "hermes": lambda calls: "\n".join(f"<tool_call>\n{one}\n</tool_call>" for one in _objects(calls)),
    "pythonic": _pythonic,
    "llama3": lambda calls: "; ".join(_objects(calls, "parameters")),
    "json": lambda calls: "\n".join(_objects(calls)),
}
# The words of a public template of each format, from which it is known.
TEMPLATES = {
    "harmony": "{% for t in tools %}{% endfor %}<|channel|>commentary to=functions.f <|constrain|>json<|message|>",
    "deepseek_v3": "{{ tools }}<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n```json\n{}\n```",
    "deepseek_v31": "{{ tools }}<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>{}",
    "command_r": "{{ tools }}<|START_ACTION|>[]<|END_ACTION|>",
    "functionary": "{% if tools %}>>>all\n{% endif %}",
    "mistral_named": "{{ tools }}[TOOL_CALLS]f[ARGS]{}",
    "mistral": "[AVAILABLE_TOOLS]{{ tools }}[/AVAILABLE_TOOLS][TOOL_CALLS][{}]",
    "lfm2": "<|tool_list_start|>{{ tools }}<|tool_list_end|>",
    "qwen3_coder": "{{ tools }}<tool_call>\n<function=f>\n<parameter=a>\n1\n</parameter>\n</function>\n</tool_call>",
    "glm": "{{ tools }}<tool_call>f\n<arg_key>a</arg_key>\n<arg_value>1</arg_value>\n</tool_call>",
    "llama_function": "{{ tools }}<function=f>{}</function>",
    "phi4": "<|tool|>{{ tools }}<|/tool|>",
    "granite": "{{ tools }}<|tool_call|>[{}]",
    "nemotron": "<AVAILABLE_TOOLS>{{ tools }}</AVAILABLE_TOOLS><TOOLCALL>[{}]</TOOLCALL>",
    "hermes": '<tools>{{ tools }}</tools><tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>',
    "pythonic": "{{ tools }}[func_name1(params_name1=params_value1)]",
    "llama3": 'Environment: ipython {{ tools }} {"name": function name, "parameters": {}}',
    "json": "{{ tools }}",
}
# The control tokens among its markers.
CONTROLS: dict[str, tuple[str, ...]] = {
    "harmony": ("<|channel|>", "<|message|>", "<|constrain|>", "<|start|>"),
    "deepseek_v3": DEEPSEEK_TOKENS,
    "deepseek_v31": DEEPSEEK_TOKENS,
    "command_r": ("<|START_ACTION|>", "<|END_ACTION|>"),
    "mistral_named": ("[TOOL_CALLS]", "[ARGS]"),
    "mistral": ("[TOOL_CALLS]",),
    "lfm2": ("<|tool_call_start|>", "<|tool_call_end|>"),
    "qwen3_coder": ("<tool_call>", "</tool_call>"),
    "glm": ("<tool_call>", "</tool_call>", "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"),
    "phi4": ("<|tool_call|>", "<|/tool_call|>"),
    "granite": ("<|tool_call|>",),
    "hermes": ("<tool_call>", "</tool_call>"),
    "pythonic": ("<|python_start|>", "<|python_end|>"),
    "llama3": ("<|python_tag|>",),
}


TURNS = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}"
    "{{ (m['tool_calls'] or []) | tojson }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def template_of(name: str) -> str:
    """A chat template that shows tools, and has the words of a format."""
    words = re.sub(r"\{\{ tools \}\}|\{%.*?%\}|\{\}", "", TEMPLATES[name])
    return "{% if tools %}{{ tools | tojson }}{% endif %}" + TURNS + "{# " + words + " #}"


ONE_CALL = frozenset({"harmony"})  # formats whose replies have one call at most
TAGGED = frozenset({"qwen3_coder", "glm"})  # whose texts cannot hold the tag that ends them
WEATHER: dict[str, Any] = {
    "name": "get_weather",
    "description": "The weather of a city.",
    "parameters": {
        "type": "object",
        "properties": {
            "city": {"type": "string"},
            "days": {"type": "integer", "minimum": 1, "maximum": 14},
            "unit": {"enum": ["celsius", "fahrenheit"]},
            "alerts": {"type": "boolean"},
        },
        "required": ["city"],
    },
}
NOOP: dict[str, Any] = {"name": "noop"}


def grammar(
    form: ToolFormat,
    tools: Sequence[Tool],
    choice: Choice = "auto",
    *,
    several: bool = True,
    structure: str | None = None,
) -> str:
    """The grammar of a reply in this format."""
    names = [tool.name for tool in tools]
    shown = [] if choice == "none" else [offered(tool) for tool in tools]
    calls = Calls(form=form, tools=shown, names=names, choice=choice, several=several)
    found = reply_grammar(partial(split_marker, VOCABULARY), calls=calls, structure=structure)
    assert found is not None
    return found


def matcher(text: str) -> Matcher:
    """At the beginning of a grammar."""
    return compile(text, VOCABULARY.structure_tokenizer())


def is_followed(text: str, reply: str) -> bool:
    """Whether a reply may be this text, and may end there."""
    found = matcher(text)
    for token in VOCABULARY.tokenize(reply, add_special=False, parse_special=True):
        if not found.allows(token):
            return False
        found.accept(token)
    return found.is_over or any(found.allows(end) for end in VOCABULARY.ends)


def pieces_of(form: ToolFormat, tools: Sequence[Tool], chunks: Sequence[str]) -> list[Piece]:
    """The segments of a reply that comes in these chunks."""
    segmenter = Segmenter(call_markers(None, form.marks([tool.name for tool in tools]), VOCABULARY))
    return [*(piece for chunk in chunks for piece in segmenter.feed(chunk)), *segmenter.flush()]


def read(form: ToolFormat, tools: Sequence[Tool], chunks: Sequence[str]) -> tuple[str, tuple[ToolCall, ...], list[Any]]:
    """The text of a reply that comes in these chunks, its calls as its completion has them, and its events."""
    calls, events = ReplyCalls(form, tools), list[EngineEvent]()
    feed = calls.events(events.append, 0)
    pieces = pieces_of(form, tools, chunks)
    for number, piece in enumerate(pieces):
        if piece.kind == "call":
            feed(CallText(piece.text, [number], closed=piece.closed))
        else:
            feed(TextDelta(piece.text, [number]))
    return text_of(pieces), calls.read(calls_of(pieces), 0), events


def grouped(events: Sequence[Any]) -> list[Any]:
    """Events, the deltas of one call put together."""
    found: list[Any] = []
    for event in events:
        if isinstance(event, ToolCallDelta):
            if found and isinstance(found[-1], tuple):
                found[-1] = (found[-1][0] + event.text, event.name, event.arguments)
            else:
                found.append((event.text, event.name, event.arguments))
        elif isinstance(event, ToolCallEnd):
            call = event.call
            found.append([call.name, call.arguments, call.text, call.problem])
        elif found and isinstance(found[-1], str):
            found[-1] += event.text
        else:
            found.append(event.text)
    return found


def tools(*given: dict[str, Any]) -> tuple[Tool, ...]:
    """Checked tools."""
    return tools_of(given)
