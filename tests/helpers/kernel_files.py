"""Files as the kernel shows them, in a folder in place of the machine's own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


def kernel_files(root: Path, files: Mapping[str, str]) -> Path:
    """A tree of files by their paths; its root."""
    for name, text in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return root
