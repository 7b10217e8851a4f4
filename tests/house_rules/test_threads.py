"""Rules about threads: the application's are not ours, and what blocks goes through one file."""

from __future__ import annotations

import ast

from helpers.project import PACKAGE, label, sources, syntax

# What hands work to threads that belong to the application: the default limiter of anyio, the loop's default executor.
TAKEN_FROM_THE_APPLICATION = {"to_thread", "run_in_executor", "current_default_thread_limiter", "set_default_executor"}
OUR_THREADS = PACKAGE / "actors" / "threads.py"
# One thread for its whole life.
BEGINS_A_THREAD = {PACKAGE / "engine" / "thread.py", PACKAGE / "engine" / "process" / "wire" / "channel.py"}
# One for a call, which waits for it.
FOR_A_CALL = {PACKAGE / "stacks.py"}
# A server's files, whose threads end with it or with what they read; and children, on both sides: these threads end
# with the child.
BEGINS_THREADS = {
    PACKAGE / "serve" / "responses" / "directory.py",
    PACKAGE / "serve" / "demand" / "reading.py",
    PACKAGE / "serve" / "batches" / "disk.py",
    PACKAGE / "engine" / "children" / "entry.py",
    PACKAGE / "engine" / "children" / "probe_file.py",
    PACKAGE / "engine" / "process" / "life" / "child_process.py",
    PACKAGE / "engine" / "process" / "inside" / "embedder_server.py",
    PACKAGE / "engine" / "process" / "inside" / "engine_server.py",
    PACKAGE / "engine" / "process" / "inside" / "host.py",
    PACKAGE / "engine" / "process" / "inside" / "preparing.py",
    PACKAGE / "engine" / "process" / "words.py",
}


def test_no_work_is_handed_to_threads_of_the_application() -> None:
    """Where it uses them up, and its calls wait for something here, nothing would go on any more."""
    found = []
    for path in set(sources("erllama_py")) - {OUR_THREADS}:
        for node in ast.walk(syntax(path)):
            names = {node.attr} if isinstance(node, ast.Attribute) else set()
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {part for alias in node.names for part in alias.name.split(".")}
                names |= set((getattr(node, "module", "") or "").split("."))
            if names & TAKEN_FROM_THE_APPLICATION:
                found.append(f"{label(path)}:{getattr(node, 'lineno', 0)}")
    assert found == []


def test_files_are_read_and_written_on_threads_that_are_named() -> None:
    """`aiofiles` takes the application's where no executor is given, and to close what `async with` has opened."""
    found = []
    for path in sources("erllama_py"):
        for node in ast.walk(syntax(path)):
            managed = [item.context_expr for item in node.items] if isinstance(node, ast.AsyncWith) else []
            bare = isinstance(node, ast.Call) and "executor" not in {keyword.arg for keyword in node.keywords}
            for call in managed if managed else [node] if bare else []:
                if isinstance(call, ast.Call) and ast.unparse(call.func).startswith("aiofiles."):
                    found.append(f"{label(path)}:{call.lineno}")
    assert found == []


def test_threads_are_begun_where_the_list_says() -> None:
    """A thread without an owner is never ended."""
    found = set()
    for path in sources("erllama_py"):
        for node in ast.walk(syntax(path)):
            made = node.func if isinstance(node, ast.Call) else None
            name = made.attr if isinstance(made, ast.Attribute) else made.id if isinstance(made, ast.Name) else ""
            if name in ("Thread", "ThreadPoolExecutor"):
                found.add(path)
    assert found == BEGINS_A_THREAD | FOR_A_CALL | BEGINS_THREADS | {OUR_THREADS}


def test_aiofiles_works_on_threads_that_it_is_given() -> None:
    """Without an executor it takes those of the event loop, which are the application's."""
    found = []
    for path in sources("erllama_py"):
        for node in ast.walk(syntax(path)):
            if not isinstance(node, ast.Call) or not ast.unparse(node.func).startswith("aiofiles."):
                continue
            if all(word.arg != "executor" for word in node.keywords):
                found.append(f"{label(path)}:{node.lineno}")
    assert found == []
