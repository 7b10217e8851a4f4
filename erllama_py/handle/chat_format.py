"""How a model's conversations are written, as far as callers can make use of it."""

from __future__ import annotations

from typing import cast

from erllama_py.chat.template import DEFAULT
from erllama_py.handle.caller import Caller
from erllama_py.options.model import ToolFormatName
from erllama_py.results import ChatFormat


async def chat_format(caller: Caller) -> ChatFormat:
    """See `Model.chat_format`."""
    template = await caller.template()
    dialect = await caller.dialect(template.source)
    source = await caller.threads.abandon(template.source_with_tools)
    tools = None if source is None else (await caller.dialect(source)).tools
    thinking, switch = caller.board.config.thinking_markers, dialect.switch
    if thinking is None and dialect.thinking is not None:
        thinking = dialect.thinking.opens, dialect.thinking.closes
    return ChatFormat(
        template=template.source, templates=tuple(name for name in template.names if name != DEFAULT),
        tool_format=None if tools is None else cast(ToolFormatName, tools.name), thinking=thinking,
        thinking_switch=None if switch is None else switch.name,
        thinking_off=thinking is not None and switch is not None and switch.off is not None,
    )  # fmt: skip
