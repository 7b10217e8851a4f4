"""How the conversations of a loaded model are written: the answer of `chat_format`."""

from __future__ import annotations

from erllama_py.options.model import ToolFormatName
from erllama_py.results.plain import Result


class ChatFormat(Result, frozen=True, kw_only=True):
    """What a model's chat template and vocabulary say of conversations; what its configuration says goes first."""

    template: str | None
    """The source of its default chat template, in Jinja."""
    templates: tuple[str, ...]
    """The names of others."""
    tool_format: ToolFormatName | None
    """How it writes calls of tools; `None` where no template of it shows tools."""
    thinking: tuple[str, str] | None
    """What opens and closes a block of thinking; `None` where it has no markers."""
    thinking_switch: str | None
    """The variable of the template that turns thinking on and off; `None` where there is none."""
    thinking_off: bool
    """Whether that can turn it off: whether `thinking=False` may be asked for."""
