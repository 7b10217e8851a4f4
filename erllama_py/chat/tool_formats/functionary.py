"""Functionary v3: what a reply is for is said in front of it, `>>>f` for a tool and `>>>all` for the user. Pure.

The prompt ends in `>>>`, so the reply begins with a name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from erllama_py.chat.lark_rules import LarkRules, literal
from erllama_py.chat.tool_formats.base import Form, Marks, Offered, Read, ToolFormat
from erllama_py.chat.tool_formats.named_calls import read_named

_HEAD, _NAME_END = re.compile(r">>>|\A"), re.compile(r"\n")


def _marks(names: Sequence[str]) -> Marks:
    opens, at_start = tuple(f">>>{name}\n" for name in names), tuple(f"{name}\n" for name in names)
    return Marks(
        opens=opens, at_start=at_start, dropped=(">>>all\n",), dropped_at_start=("all\n",), banned=(">>>",),
        heads=(">>>",),
    )  # fmt: skip


def _read(section: str, tools: Mapping[str, dict[str, Any]], over: bool) -> list[Read]:
    return read_named(section, _HEAD, _NAME_END, over)


def _forms(tools: Sequence[Offered], rules: LarkRules, several: bool) -> list[Form]:
    calls = {tool.name: rules.schema(tool.schema) for tool in tools}
    more = ""
    if several:
        heads = {literal(f"\n>>>{name}\n"): call for name, call in calls.items()}
        more = rules.rule(" | ".join(f"{head} {call}" for head, call in heads.items())) + "*"
    forms = [Form(f">>>{name}\n", f"{call} {more}") for name, call in calls.items()]
    return [*forms, *(Form("", f"{literal(name + chr(10))} {call} {more}") for name, call in calls.items())]


FUNCTIONARY = ToolFormat(
    name="functionary", found=lambda source: ">>>all" in source or "'>>>' + " in source, marks=_marks, reader=_read,
    forms=_forms,
)  # fmt: skip
