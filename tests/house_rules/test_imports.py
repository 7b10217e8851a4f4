"""Which room may import which, and through which doors. The tables are the rule; the tests walk the syntax trees.

Arrows point down:

    serve → the public names
    runtime → tree → handle → model → scheduler → cache → tiers → actors → leaves
                              model, scheduler → engine → leaves        watch → cache
"""

from __future__ import annotations

import ast

import pytest
from helpers.package_imports import dotted, imports
from helpers.project import PACKAGE, label, sources, syntax

OF_WATCH = {"watch.log", "watch.live", "watch.spans", "watch.tracer"}
LEAVES = {"options", "errors", "results", "chat", "buffers", "shared_memory", "cpus", "memory", "home"} | OF_WATCH

# Room (or file at the top of the package) -> what it may import apart from itself. "" is the package itself: the
# public names. Four files of `watch` are leaves: all rooms write through `log`, and calls make spans by the others.
ARROWS: dict[str, set[str]] = {
    "": {"runtime", "build_check", "model_file", "pulling", "tree", "handle", "cache", "actors"} | LEAVES,
    "serve": {"", "watch.live", "watch.log", "watch.tracer", "gguf_bytes", "mapped_files", "memory"},
    "testing": {"engine"},
    "build_check": {"engine", "actors", "cpus", "results"},
    "model_file": {"engine", "actors", "pulling"} | LEAVES,
    "pulling": {"hub", "actors"} | LEAVES,
    "hub": {"errors", "results", "options", "watch.log", "mapped_files"},
    "mapped_files": set(),
    "runtime": {
        "tree",
        "pulling",
        "switch_interval",
        "handle",
        "model",
        "scheduler",
        "cache",
        "tiers",
        "watch",
        "engine",
        "actors",
    }
    | LEAVES,
    "tree": {"handle", "model", "scheduler", "cache", "tiers", "watch", "engine", "actors"} | LEAVES,
    "handle": {"model", "scheduler", "cache", "engine", "actors"} | LEAVES,
    "model": {"scheduler", "cache", "engine", "actors"} | LEAVES,  # never tiers: rows are the cache's business
    "scheduler": {"cache", "engine"} | LEAVES,
    "cache": {"tiers", "actors"} | LEAVES,
    "tiers": {"actors"} | LEAVES,
    "watch": {"cache", "actors"} | LEAVES,
    "engine": {
        "chat",
        "options",
        "cpus",
        "cgroups",
        "errors",
        "results",
        "watch.log",
        "buffers",
        "shared_memory",
        "stacks",
        "own_data",
        "gguf_bytes",
    },
    "cpus": {"options", "cgroups"},
    "memory": {"cgroups"},
    "cgroups": set(),
    "actors": {"stacks"},  # else a library of its own
    "chat": {"errors"},
    "watch.log": {"options", "errors"},
    "watch.live": {"watch.spans", "watch.tracer"},
    "watch.spans": {"options", "results"},
    "watch.tracer": set(),
    "options": {"errors", "memory"},
    "buffers": {"shared_memory"},
    "shared_memory": set(),
    "results": {"options", "errors"},
    "errors": set(),
    "home": set(),
    "gguf_bytes": set(),
    "stacks": {"own_data"},
    "own_data": set(),
    "switch_interval": set(),
}

# Between rooms: what may be imported from outside, apart from what a room's `__init__` hands out. The tree puts the
# rooms together and may enter all of them; `chat` and `options` are leaves, and all of their modules are doors.
DOORS: dict[str, set[str]] = {
    "engine": {
        "backend",
        "drawn",
        "embedding",
        "engines",
        "evidence",
        "failure",
        "heartbeat",
        "inspection",
        "pooling",
        "process.spare",
        "jobs",
        "rates",
        "fingerprint",
        "structure",
        "stub",
        "stub_script",
        "token_array",
        "work",
    },
    "handle": {"metering", "model", "session", "stream", "tool_run", "caller", "by_id", "supervised"},
    "model": {
        "actor",
        "blame",
        "board",
        "companions",
        "counting",
        "embedder",
        "embedders",
        "open_request",
        "registry",
        "request",
        "suspects",
        "trials",
    },
    "scheduler": {"cells", "machine", "outcomes", "messages", "state", "stages", "reuse", "transcript"},
    "cache": {"messages", "client", "directory", "handle", "keys", "policy"},
    "tiers": {"messages", "offline", "registry"},
    "watch": {"live", "log", "pressure", "spans", "tracer"},
    "hub": set(),
    "actors": set(),
    "serve": set(),
}
ENTERS_ALL_ROOMS = {"tree"}

# Inside `serve`: room -> the rooms of it that it may import. Files at its top stand for themselves; APIs never see each
# other, and what is common to all names none of them.
SERVE_ARROWS: dict[str, set[str]] = {
    "core": set(),
    "openai": {"core"},
    "responses": {"core"},
    "anthropic": {"core"},
    "ollama": {"core"},
    "batches": {"core"},
    "resuming": {"core"},
    "access": {"core"},
    "operations": {"core"},
    "page": {"core", "operations"},
    "config": {"core", "access"},
    "demand": {"core", "config"},
    "running": {"core", "access", "config", "app", "demand"},
    "shapes": {"core", "openai", "responses", "anthropic", "ollama"},
    "app": {
        "shapes",
        "core",
        "openai",
        "responses",
        "batches",
        "anthropic",
        "ollama",
        "resuming",
        "access",
        "operations",
        "page",
        "config",
        "demand",
    },
}

LLAMA_CPP_IMPORTERS = {"engine/llama/native.py"}  # in a child: engine/children/bindings.py, by name


def room(module: str) -> str:
    """The room, or the file at the top, that a dotted module inside the package belongs to."""
    return module if module in LEAVES else module.partition(".")[0]


def arrow_problem(importer: str, module: str) -> str | None:
    """Why module `importer` may not import `module`; None if it may."""
    mine, theirs = room(importer), room(module)
    if mine == theirs or (module.startswith("watch.") and mine == "watch"):
        return None
    allowed = ARROWS.get(mine)
    if allowed is None:
        return f"{mine!r} is in no table: add it to ARROWS"
    return None if theirs in allowed else f"{mine or 'the package'} may not import {theirs or 'the public names'}"


def door_problem(importer: str, module: str) -> str | None:
    """Why `module` is no door; None if it is one, or is inside the importer's own room."""
    inside, _, name = module.partition(".")
    if not name or inside == importer.partition(".")[0] or inside not in DOORS or room(importer) in ENTERS_ALL_ROOMS:
        return None
    return None if name in DOORS[inside] else f"{module} is no door of {inside}"


ALL = [found for path in sources("erllama_py") for found in imports(path)]


def test_arrows_point_down() -> None:
    """Each import of the package's own modules is one that the table allows."""
    problems = [(found, arrow_problem(dotted(found.importer), found.module)) for found in ALL]
    assert [f"{label(found.importer)}:{found.line}: {why}" for found, why in problems if why] == []


def test_apis_of_the_server_know_what_is_common_and_not_each_other() -> None:
    """So that one can be read, changed or left out by itself."""
    problems = []
    for found in ALL:
        mine, theirs = dotted(found.importer).split("."), found.module.split(".")
        if mine[0] == theirs[0] == "serve" and len(mine) > 1 and len(theirs) > 1 and mine[1] != theirs[1]:
            allowed = SERVE_ARROWS.get(mine[1])
            if allowed is not None and theirs[1] not in allowed:
                problems.append(f"{label(found.importer)}:{found.line}: serve.{mine[1]} may not import {theirs[1]}")
    assert problems == []


def test_between_rooms_one_goes_through_the_door() -> None:
    """What is not a door is private to its room."""
    problems = [(found, door_problem(dotted(found.importer), found.module)) for found in ALL]
    assert [f"{label(found.importer)}:{found.line}: {why}" for found, why in problems if why] == []


def test_one_file_alone_imports_llama_cpp() -> None:
    """Everything that could end the process without notice goes through one border."""
    importers = set()
    for path in sources("erllama_py"):
        for node in ast.walk(syntax(path)):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if any(name.partition(".")[0] == "llama_cpp" for name in names):
                importers.add(path.relative_to(PACKAGE).as_posix())
    assert importers <= LLAMA_CPP_IMPORTERS


def circles(imported: dict[str, set[str]]) -> list[list[str]]:
    """The modules that reach each other, circle by circle."""

    def reach(start: str) -> set[str]:
        found, open_ = set[str](), [start]
        while open_:
            new = imported.get(open_.pop(), set()) - found
            found |= new
            open_ += new
        return found

    reached = {module: reach(module) for module in imported}
    among = {frozenset(other for other in reached[one] if one in reached.get(other, ())) for one in reached}
    return sorted(sorted(circle) for circle in among if circle)


def test_no_imports_go_in_a_circle() -> None:
    """Imports for type checkers alone count too: a module can be understood after those that it imports."""
    imported: dict[str, set[str]] = {}
    for found in ALL:
        imported.setdefault(dotted(found.importer), set()).add(found.module)
    assert circles(imported) == []


def test_the_table_itself_has_no_circle() -> None:
    """Its arrows have a direction."""
    assert circles(ARROWS) == []


def test_the_circle_rule_finds_circles() -> None:
    """The rule itself: two that import each other, three in a row that come back, and neighbours of both."""
    row = {"a": {"b"}, "b": {"c"}, "x": {"a"}}
    assert circles(row) == []
    assert circles({**row, "c": {"a"}, "y": {"z"}, "z": {"y", "a"}}) == [["a", "b", "c"], ["y", "z"]]


@pytest.mark.parametrize(
    ("importer", "module", "problem"),
    [
        ("model.actor", "engine.jobs", None),
        ("model.actor", "engine.llama.backend", "engine.llama.backend is no door of engine"),
        ("engine.llama.backend", "engine.llama.native", None),
        ("tree", "model.actor", None),
        ("model.loading", "cache.keys", None),
        ("model.loading", "cache.eviction", "cache.eviction is no door of cache"),
    ],
)
def test_the_door_rule_tells_doors_from_walls(importer: str, module: str, problem: str | None) -> None:
    """The rule itself, on cases of each kind."""
    assert door_problem(importer, module) == problem


@pytest.mark.parametrize(
    ("importer", "module", "allowed"),
    [
        ("model.actor", "engine.jobs", True),
        ("model.actor", "tiers.messages", False),
        ("engine.thread", "scheduler.messages", False),
        ("scheduler.machine", "actors.actor", False),
        ("model.actor", "handle.model", False),
        ("engine.thread", "watch.log", True),
        ("engine.thread", "watch.pressure", False),
        ("engine.thread", "cache.keys", False),
        ("actors.actor", "errors", False),
        ("serve.cli", "", True),
        ("serve.cli", "runtime", False),
        ("serve.cli", "serve.demo", True),
        ("chat.template", "options", False),
        ("newcomer", "errors", False),
    ],
)
def test_the_arrow_rule_tells_up_from_down(importer: str, module: str, allowed: bool) -> None:
    """The rule itself, on cases of each kind."""
    assert (arrow_problem(importer, module) is None) == allowed
