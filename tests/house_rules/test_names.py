"""Rules about names: what is public is documented, what is a setting is read, what is an error is exported."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from pathlib import Path
from pkgutil import iter_modules

import msgspec
import reference
from helpers.project import PACKAGE, TOP, fenced, sources, syntax

import erllama_py
from erllama_py import errors, options, tree
from erllama_py.results.plain import Result

# Options that nothing outside of `options` reads, each with the reason.
READ_AT_THE_DOOR = {
    "ModelConfig.context_size": "a second name of n_ctx: compared with it at the door",
    "ModelConfig.tier": "compared with the tier that runs, by with_tier",
    "_Plain.ram_quota_bytes": "the quota of the tier in memory, RuntimeOptions.ram",
}


def settings() -> dict[str, tuple[str, ...]]:
    """The fields of every struct in the room of options, by struct; what only gives others their path has none."""
    modules = [importlib.import_module(f"{options.__name__}.{found.name}") for found in iter_modules(options.__path__)]
    structs = [
        thing
        for module in modules
        for thing in vars(module).values()
        if inspect.isclass(thing) and issubclass(thing, msgspec.Struct) and thing.__module__ == module.__name__
    ]
    return {struct.__name__: struct.__struct_fields__ for struct in structs}


def test_the_public_names_are_sorted_exist_and_have_docstrings() -> None:
    """`__all__` is the contract: each name is there, and says what it is."""
    names = erllama_py.__all__
    assert list(names) == sorted(names)
    things = {name: getattr(erllama_py, name) for name in names}
    assert [name for name, thing in things.items() if not inspect.getdoc(thing)] == []


def test_public_classes_have_documented_methods() -> None:
    """Each public method or property that is ours has a docstring, its own or that of what it overrides."""
    missing = []
    for name in erllama_py.__all__:
        thing = getattr(erllama_py, name)
        for member, value in vars(thing).items() if inspect.isclass(thing) else ():
            ours = inspect.isfunction(value) or isinstance(value, property)
            if ours and not member.startswith("_") and not inspect.getdoc(getattr(thing, member)):
                missing.append(f"{name}.{member}")
    assert missing == []


def test_every_error_is_a_public_name() -> None:
    """Whoever meets an error can name it in an `except`."""
    classes = {
        name
        for name, thing in vars(errors).items()
        if inspect.isclass(thing) and issubclass(thing, errors.ErllamaError)
    }
    assert classes - set(erllama_py.__all__) == set()


def test_the_reference_is_what_the_package_says() -> None:
    """`make format` writes docs/reference.md."""
    assert (TOP / "docs" / "reference.md").read_text() == reference.page(), (
        "run: make format, or python -m scripts.reference"
    )


def test_the_reference_shows_every_public_method_and_field() -> None:
    """Those of handles with their signatures, those of options, results and errors with their types."""
    page = (TOP / "docs" / "reference.md").read_text()
    sections = {name: text for name, text in re.findall(r"^### `(\w+)`\n(.*?)(?=^### |^## |\Z)", page, re.M | re.S)}
    assert sorted(sections) == sorted(erllama_py.__all__)
    missing = []
    for name, text in sections.items():
        thing = getattr(erllama_py, name)
        for field in getattr(thing, "__struct_fields__", ()) or getattr(thing, "__dataclass_fields__", ()):
            missing += [] if re.search(rf"^\| `{field}` \| `.+` ?.*\|$", text, re.M) else [f"{name}.{field}"]
        if not inspect.isclass(thing) or issubclass(thing, Exception | dict):
            continue
        # What all results have in common is there for encoders alone.
        bases = [one for one in thing.__mro__ if one.__module__.startswith("erllama_py") and one is not Result]
        for base in bases:
            for member, value in vars(base).items():
                shown = rf"^(?:async )?{member}(?:\(|: )"
                if not member.startswith("_") and (inspect.isfunction(value) or isinstance(value, property)):
                    missing += [] if re.search(shown, text, re.M) else [f"{name}.{member}"]
    assert missing == []


def read_names(path: Path) -> set[str]:
    """The attributes that a file reads; where it calls `getattr`, the names that it lists as strings count too."""
    nodes = list(ast.walk(syntax(path)))
    read = {node.attr for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)}
    if any(isinstance(node, ast.Name) and node.id == "getattr" for node in nodes):
        read |= {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    return read


def test_every_setting_is_read_by_code() -> None:
    """A setting that nothing reads is a broken promise."""
    # The room itself touches every one of them to check it, which is not what is meant.
    readers = [path for path in sources("erllama_py") if PACKAGE / "options" not in path.parents]
    read = set().union(*map(read_names, readers))
    named = {f"{struct}.{field}": field for struct, fields in settings().items() for field in fields}
    assert {
        "ModelConfig.policy", "RequestOptions.seed", "RuntimeOptions.ram", "DiskTier.root", "PressureOpts.source",
    } <= set(named)  # fmt: skip
    assert [name for name, field in named.items() if field not in read and name not in READ_AT_THE_DOOR] == []
    assert set(READ_AT_THE_DOOR) - set(named) == set(), "an exception for an option that is gone"


def drawn() -> str:
    """`erllama_py.tree.TREE`, as a tree."""
    lines = [f"{tree.ROOT} (one_for_one)"]
    for branch in tree.TREE:
        last = branch is tree.TREE[-1]
        kind = f"{branch.strategy}, not vital" if isinstance(branch, tree.Group) else "dynamic, one_for_one"
        lines.append(f"{'└' if last else '├'}── {branch.name} ({kind})")
        children = (
            [f"{name}: {what}" for name, what in branch.holds] if isinstance(branch, tree.Group) else [branch.holds]
        )
        for child in children:
            lines.append(f"{' ' if last else '│'}   {'└' if child is children[-1] else '├'}── {child}")
    return "\n".join(lines)


def test_the_drawn_tree_is_the_tree() -> None:
    """The block marked `tree` in the internals."""
    drawings = [text for page in (TOP / "docs" / "internals").rglob("*.md") for _, text, _ in fenced(page, "tree")]
    if (TOP / "docs" / "internals").is_dir():
        assert [drawing.strip() for drawing in drawings] == [drawn()]


def test_the_newest_entry_of_the_changelog_is_this_version() -> None:
    """A version without an entry, or an entry without a version, is an accident."""
    newest = re.search(r"^## \[([^\]]+)\]", (TOP / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest is not None
    assert newest[1] == erllama_py.__version__
