"""What the package's files import from each other, read from their syntax trees."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import NamedTuple

from helpers.project import PACKAGE, syntax


class Import(NamedTuple):
    """One import: where it stands, and the dotted module inside the package (`""` is the package itself)."""

    importer: Path
    line: int
    module: str


def dotted(path: Path) -> str:
    """The module of a file inside the package."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_module(module: str) -> bool:
    """Whether there is a file or a folder for it."""
    place = PACKAGE.joinpath(*module.split("."))
    return place.is_dir() or place.with_suffix(".py").is_file()


def imports(path: Path) -> list[Import]:
    """What a file imports from the package, with `from a import b` resolved to `a.b` where `b` is a module."""
    found = []
    for node in ast.walk(syntax(path)):
        if not isinstance(node, ast.Import | ast.ImportFrom):
            continue
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif node.level:
            names = ["erllama_py.relative_imports_are_not_used"]
        elif (node.module or "").partition(".")[0] == "erllama_py":
            base = (node.module or "").removeprefix("erllama_py").removeprefix(".")
            for alias in node.names:
                inner = f"{base}.{alias.name}".removeprefix(".")
                names.append(f"erllama_py.{inner}" if is_module(inner) else f"erllama_py.{base}".rstrip("."))
        for name in names:
            if name.partition(".")[0] == "erllama_py":
                found.append(Import(path, node.lineno, name.removeprefix("erllama_py").removeprefix(".")))
    return found
