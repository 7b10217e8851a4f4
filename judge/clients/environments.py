"""Environments in which clients run: made once for their packages, and found again."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from pathlib import Path

from erllama_py.serve.models import default_home


def python_of(packages: str, folder: Path | None = None) -> Path:
    """The interpreter of an environment with these packages, as pip reads them. Raises `CalledProcessError`."""
    name = re.sub(r"\W+", "-", packages).strip("-") + "-" + hashlib.sha256(packages.encode()).hexdigest()[:8]
    home = (folder or default_home() / "clients") / name
    python, made = home / "bin" / "python", home / "made"
    if not made.exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", home], check=True)
        subprocess.run([python, "-m", "pip", "install", "-qq", *packages.split()], check=True)
        made.touch()
    return python
