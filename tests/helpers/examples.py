"""How many examples the longest properties look at."""

from __future__ import annotations

import os


def examples(few: int) -> int:
    """`few`, times what `ERLLAMA_EXAMPLES` says."""
    return few * int(os.environ.get("ERLLAMA_EXAMPLES", "1"))
