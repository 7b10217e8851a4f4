"""Children that do what a test says: a copy of the package's folder in links, with a task of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from erllama_py.engine.children import spawn
from helpers.project import PACKAGE

_TASK = '''
"""Runs the code that it is given."""
def run(given):
    names = {}
    exec(given["code"], names)
    return names.get("code", 0)
'''


@contextmanager
def child_tasks(folder: Path) -> Iterator[None]:
    """Meanwhile there is a task `does`, which runs the Python code `{"code": …}`, and ends with its `code`."""
    children = folder / "erllama_py" / "engine" / "children"
    children.mkdir(parents=True)
    for source, target in (
        (PACKAGE, folder / "erllama_py"),
        (PACKAGE / "engine", folder / "erllama_py" / "engine"),
        (PACKAGE / "engine" / "children", children),
    ):
        for path in source.iterdir():
            if not (target / path.name).exists():
                (target / path.name).symlink_to(path)
    (children / "does.py").write_text(_TASK)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spawn, "_PACKAGE", folder / "erllama_py")
        yield
