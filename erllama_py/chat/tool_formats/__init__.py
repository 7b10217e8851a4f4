"""How models write calls of tools: a table of formats, each with its markers, a reader and a grammar."""

from erllama_py.chat.tool_formats.base import Form, Marks, Offered, Read, ToolFormat
from erllama_py.chat.tool_formats.table import FORMATS, find_format, format_named

__all__ = ["FORMATS", "Form", "Marks", "Offered", "Read", "ToolFormat", "find_format", "format_named"]
