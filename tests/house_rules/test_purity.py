"""A module that says it is pure is: it sees no clock, loop, thread, file or log, and neither does what it imports.

Said with the word "pure" in the module's docstring; the scheduler's room is, whatever its docstrings say. So what is
decided there can be tested as a table, and replayed.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from helpers.package_imports import dotted, imports
from helpers.project import PACKAGE, label, sources, syntax

# What acts or changes by itself. The first are not for anything that a pure module imports either.
CLOCKS_LOOPS_LOGS = {
    "aiofiles", "anyio", "asyncio", "concurrent", "contextvars", "datetime", "logging", "multiprocessing", "queue",
    "random", "sched", "secrets", "select", "selectors", "signal", "socket", "structlog", "subprocess", "threading",
    "time", "uuid",
}  # fmt: skip
FILES = {"fcntl", "glob", "io", "mmap", "os", "pathlib", "psutil", "resource", "shutil", "tempfile"}
ACTING_CALLS = {"breakpoint", "exec", "eval", "input", "open", "print"}


def outside(path: Path) -> set[str]:
    """The packages outside ours that a file imports, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(syntax(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").partition(".")[0])
    return found


def acts(path: Path) -> list[str]:
    """What a file does that a pure one does not."""
    said = [f"imports {name}" for name in sorted(outside(path) & (CLOCKS_LOOPS_LOGS | FILES))]
    for node in ast.walk(syntax(path)):
        if isinstance(node, ast.AsyncFunctionDef | ast.Await | ast.AsyncFor | ast.AsyncWith):
            said.append(f"waits, in line {node.lineno}")
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ACTING_CALLS:
            said.append(f"calls {node.func.id}, in line {node.lineno}")
        elif isinstance(node, ast.Global | ast.Nonlocal):
            said.append(f"changes what lies outside a function, in line {node.lineno}")
    return said


def is_pure(path: Path) -> bool:
    """Whether a file has to be."""
    says = re.search(r"\bpure\b", ast.get_docstring(syntax(path)) or "", re.IGNORECASE)
    return says is not None or path.is_relative_to(PACKAGE / "scheduler")


FILES_OF_OURS = {dotted(path): path for path in sources("erllama_py")}
PURE = {module: path for module, path in FILES_OF_OURS.items() if is_pure(path)}


def reached(module: str) -> set[str]:
    """The modules of ours that one imports, by way of others too."""
    seen, ahead = set[str](), [module]
    while ahead:
        here = ahead.pop()
        if here in seen or here not in FILES_OF_OURS:
            continue
        seen.add(here)
        ahead += [found.module for found in imports(FILES_OF_OURS[here])]
    return seen


@pytest.mark.parametrize("module", PURE)
def test_what_says_that_it_is_pure_does_nothing(module: str) -> None:
    """No import, call or wait of it acts, or gives another answer the next time."""
    assert [f"{label(PURE[module])} {what}" for what in acts(PURE[module])] == []


@pytest.mark.parametrize("module", PURE)
def test_what_is_pure_sees_no_clock_loop_or_log_through_others(module: str) -> None:
    """Options know paths, and a pure module may import nothing else that is impure."""
    found = {other: outside(FILES_OF_OURS[other]) & CLOCKS_LOOPS_LOGS for other in reached(module)}
    assert {other: names for other, names in found.items() if names} == {}


def test_the_scheduler_and_the_policies_are_among_them() -> None:
    """Else nothing would be checked."""
    assert {"scheduler.machine", "cache.policy", "engine.tick_plan", "tiers.row_file"} <= PURE.keys()


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        ("import time", "imports time"),
        ("def f():\n    from os import path", "imports os"),
        ("async def f(): pass", "waits, in line 1"),
        ("print(1)", "calls print, in line 1"),
        ("def f():\n    global a", "changes what lies outside a function, in line 2"),
        ("from collections.abc import Sequence", None),
    ],
)
def test_the_rule_tells_deeds_from_thoughts(code: str, problem: str | None, tmp_path: Path) -> None:
    """The rule itself, on cases of each kind."""
    (tmp_path / "a.py").write_text(code)
    assert acts(tmp_path / "a.py") == ([problem] if problem else [])
