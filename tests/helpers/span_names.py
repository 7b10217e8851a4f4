"""The names of spans and of their attributes, as the code has them."""

from __future__ import annotations

import re
from functools import cache

from helpers.project import TOP

FILES = (
    "watch/spans.py", "watch/live.py", "handle/tracing.py", "serve/operations/tracing.py", "serve/core/exchange.py",
)  # fmt: skip
NAME = re.compile(r'"((?:gen_ai|erllama|http|url|error)\.[\w.]+)"')
NO_NAMES = {"http.response.start", "erllama.facts"}
PHASES = ("prepare", "queue", "find_prefix", "restore", "prefill", "decode", "save")
OTHERS = {f"erllama.{name}" for name in (*PHASES, "first_token", "load")}
"""Names of spans and events, which are no attributes."""


@cache
def span_names() -> frozenset[str]:
    """All that the code gives to spans."""
    texts = [(TOP / "erllama_py" / file).read_text() for file in FILES]
    return frozenset(name for text in texts for name in NAME.findall(text)) - NO_NAMES
