"""The table of formats: what each looks like, and which chat templates speak it. Pure.

A new format is one entry here, and its row in `tests/chat/tool_formats/test_table.py`.
"""

from __future__ import annotations

from erllama_py.chat.tool_formats.base import Marks, ToolFormat
from erllama_py.chat.tool_formats.functionary import FUNCTIONARY
from erllama_py.chat.tool_formats.json_calls import LIST, JsonStyle, json_format
from erllama_py.chat.tool_formats.named_calls import NamedStyle, named_format
from erllama_py.chat.tool_formats.python_calls import python_format
from erllama_py.chat.tool_formats.tagged_calls import TagStyle, tagged_format

_DEEPSEEK = Marks(opens=("<｜tool▁calls▁begin｜>",), end="<｜tool▁calls▁end｜>")
_DEEPSEEK_CALL = "<｜tool▁call▁begin｜>"
_BARE = ('{"name"', '{"type": "function"')

# From the most particular on: the first whose words are in the template is the template's format.
FORMATS: tuple[ToolFormat, ...] = (
    named_format(
        "harmony",
        lambda source: "<|channel|>" in source and "to=functions." in source,
        Marks(
            opens=("<|channel|>commentary to=functions.", "<|channel|>analysis to=functions."),
            dropped=("<|channel|>final<|message|>", "<|channel|>commentary<|message|>", "<|start|>assistant"),
            before=("<|start|>assistant",), banned=(" to=functions.",),
        ),
        NamedStyle(
            head="to=functions.",
            between=" <|constrain|>json<|message|>",
            # Each way begins with a literal, and white space is bounded: else a search takes longer than the text is.
            name_end=r"<\|message\|>|json\s{0,64}<\|message\|>|<\|constrain\|>\s{0,64}(?:json\s{0,64})?<\|message\|>|"
            r"<\|channel\|>\w{1,64}\s{0,64}(?:<\|constrain\|>\s{0,64})?(?:json\s{0,64})?<\|message\|>",
        ),
    ),
    named_format(
        "deepseek_v3",
        lambda source: "<｜tool▁calls▁begin｜>" in source and "```json" in source,
        _DEEPSEEK,
        NamedStyle(
            head=f"{_DEEPSEEK_CALL}function<｜tool▁sep｜>", first=f"{_DEEPSEEK_CALL}function<｜tool▁sep｜>",
            between="\n```json\n", after="\n```<｜tool▁call▁end｜>", separator="\n",
        ),
    ),
    named_format(
        "deepseek_v31",
        lambda source: "<｜tool▁calls▁begin｜>" in source,
        _DEEPSEEK,
        NamedStyle(
            head=_DEEPSEEK_CALL, first=_DEEPSEEK_CALL, between="<｜tool▁sep｜>", after="<｜tool▁call▁end｜>",
            separator="",
        ),
    ),
    json_format(
        "command_r",
        lambda source: "<|START_ACTION|>" in source,
        Marks(
            opens=("<|START_ACTION|>",), end="<|END_ACTION|>", dropped=("<|START_RESPONSE|>", "<|END_RESPONSE|>"),
        ),
        JsonStyle(
            before='{"tool_call_id": "0", "tool_name": "', between='", "parameters": ', after="}", first="[\n    ",
            separator=",\n    ", last="\n]",
        ),
    ),
    FUNCTIONARY,
    named_format(
        "mistral_named",
        lambda source: "[TOOL_CALLS]" in source and "[ARGS]" in source,
        Marks(opens=("[TOOL_CALLS]",), inner=("[CALL_ID]",)),
        NamedStyle(head="[TOOL_CALLS]", between="[ARGS]", name_end=r"(?:\[CALL_ID\]\w+)?\[ARGS\]", separator=""),
        short_ids=True,
    ),
    json_format(
        "mistral", lambda source: "[TOOL_CALLS]" in source, Marks(opens=("[TOOL_CALLS]",)), LIST, short_ids=True
    ),
    python_format(
        "lfm2",
        lambda source: "<|tool_call_start|>" in source or "<|tool_list_start|>" in source,
        Marks(opens=("<|tool_call_start|>",), end="<|tool_call_end|>"),
    ),
    tagged_format(
        "qwen3_coder",
        lambda source: "<function=" in source and "<parameter=" in source,
        Marks(opens=("<tool_call>",), end="</tool_call>"),
        TagStyle(
            first="\n<function=", head="<function=", name_end=">", after_name=">\n", key="<parameter={}>\n",
            key_form=r"<parameter=([^>\n]{1,512})>", value_end="</parameter>", after_value="\n", closes="</function>",
            padded=True, separator="\n",
        ),
    ),
    tagged_format(
        "glm",
        lambda source: "<arg_key>" in source,
        Marks(opens=("<tool_call>",), end="</tool_call>"),
        TagStyle(
            first="", head="<tool_call>", name_end=r"(?=\n|<)", after_name="\n",
            key="<arg_key>{}</arg_key>\n<arg_value>",
            key_form=r"<arg_key>([^<]*)</arg_key>\s*<arg_value>", value_end="</arg_value>", after_value="\n",
            closes="</tool_call>", padded=False,
        ),
    ),
    named_format(
        "llama_function",
        lambda source: "<function=" in source,
        Marks(opens=("<function=",), end="</function>"),
        NamedStyle(head="<function=", between=">"),
    ),
    json_format(
        "phi4",
        lambda source: "<|/tool_call|>" in source or "<|/tool|>" in source,
        Marks(opens=("<|tool_call|>", "functools"), end="<|/tool_call|>"),
        LIST,
    ),
    json_format("granite", lambda source: "<|tool_call|>" in source, Marks(opens=("<|tool_call|>",)), LIST),
    json_format(
        "nemotron", lambda source: "<TOOLCALL>" in source, Marks(opens=("<TOOLCALL>",), end="</TOOLCALL>"), LIST
    ),
    json_format(
        "hermes",
        lambda source: "<tool_call>" in source,
        # Qwen2.5-Coder writes its calls without the markers that its template asks for.
        Marks(opens=("<tool_call>",), end="</tool_call>", at_start=_BARE),
        JsonStyle(first="\n", last="\n"),
    ),
    python_format(
        "pythonic",
        lambda source: "func_name1(params_name1=" in source,
        Marks(opens=("<|python_start|>",), at_start=("[",)),
    ),
    json_format(
        "llama3",
        lambda source: "<|python_tag|>" in source or "Environment: ipython" in source or '"parameters": ' in source,
        Marks(opens=("<|python_tag|>",), at_start=_BARE),
        JsonStyle(between='", "parameters": ', separator="; "),
    ),
    json_format("json", lambda source: "tools" in source, Marks(at_start=_BARE), JsonStyle(separator="\n")),
)  # fmt: skip


def format_named(name: str) -> ToolFormat | None:
    """The entry of this name."""
    return next((one for one in FORMATS if one.name == name), None)


def find_format(source: str) -> ToolFormat | None:
    """The format of a chat template; None where it knows of no tools."""
    if "tools" not in source:
        return None
    return next((one for one in FORMATS if one.found(source)), None)
