"""Directories of a server's own: what clients give it to keep is nobody else's on this machine."""

from __future__ import annotations

import os
from pathlib import Path

PRIVATE = 0o700


def own_directory(directory: Path) -> None:
    """Make the directory where it is not there, and keep others out of it. Raises `OSError`; `PermissionError` where it
    belongs to another user."""
    directory.mkdir(PRIVATE, parents=True, exist_ok=True)
    if not is_ours(directory.stat()):
        raise PermissionError(f"the directory {directory} belongs to another user")
    directory.chmod(PRIVATE)  # it may have been made by hand


def is_ours(facts: os.stat_result) -> bool:
    """Whether a file is of the user that this process runs as."""
    return facts.st_uid == os.geteuid()
