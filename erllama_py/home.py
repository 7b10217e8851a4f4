"""Where erllama keeps what outlives the process."""

from __future__ import annotations

import os
from pathlib import Path


def home_folder(home: str | os.PathLike[str] | None = None) -> Path:
    """Where erllama keeps what it remembers: `home`, else `$ERLLAMA_HOME`, else `~/.cache/erllama`."""
    return Path(os.path.expanduser(home or os.environ.get("ERLLAMA_HOME") or "~/.cache/erllama"))
