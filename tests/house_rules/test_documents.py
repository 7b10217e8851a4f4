"""What documents name must exist: files, tests, modules, classes, settings, verbs of make, and pages of the site."""

from __future__ import annotations

import ast
import builtins
import importlib
import re
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from helpers.project import TOP, documents, label, prose, sources, syntax
from helpers.span_names import span_names
from msgspec import Struct

import erllama_py

# Classes of other libraries that the documents speak of.
FOREIGN = {"EventSource", "FastAPI", "StreamingResponse", "TaskGroup", "CancelScope", "Starlette"}
ROOTS = ("tests", "docs", "benchmarks", "judge", "scripts", "erllama_py", ".ci")


@cache
def defined() -> set[str]:
    """Every class, function, constant and type alias that some file of ours defines."""
    names = set()
    for path in sources():
        for node in ast.walk(syntax(path)):
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                names.add(node.name)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                names.add(node.id)
    return names


@cache
def alerts() -> set[str]:
    """The alerts that come with the server."""
    return set(
        re.findall(r"^ +- alert: (\w+)$", (TOP / "deploy" / "prometheus" / "alerts.yml").read_text(), re.MULTILINE)
    )


def resolves(name: str) -> bool:
    """Whether a dotted name that starts with the package leads somewhere, through modules and then attributes."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            thing: object = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for part in parts[length:]:
            fields = getattr(thing, "__struct_fields__", ())
            if part in fields or part in getattr(thing, "__annotations__", ()):
                return True
            if not hasattr(thing, part):
                return False
            thing = getattr(thing, part)
        return True
    return False


def problem(name: str) -> str | None:
    """What is wrong with something between backticks; None if it exists, or is not a kind of name we know."""
    word = name.removesuffix("()")
    if re.fullmatch(r"[\w.\-]+(/[\w.\-]+)+/?", word) and word.startswith(tuple(f"{root}/" for root in ROOTS)):
        return None if (TOP / word).exists() else "no such file"
    if match := re.fullmatch(r"(?:erllama_py|erllama)((?:\.\w+)+)", word):
        return None if word in span_names() or resolves("erllama_py" + match[1]) else "no such name"
    if match := re.fullmatch(r"make (\w+)", word):
        targets = re.findall(r"^(\w+):", (TOP / "Makefile").read_text(), re.MULTILINE)
        return None if match[1] in targets else "no such target"
    if re.fullmatch(r"test_\w+", word):
        return None if word in defined() or any(path.stem == word for path in sources("tests")) else "no such test"
    if match := re.fullmatch(r"(model_opts|context_opts|policy|stub)\.(\w+)", word):
        return None if match[2] in option_names(match[1]) else "no such option"
    if match := re.fullmatch(r"((?:[A-Z]+[a-z0-9]+){2,}|[A-Z]\w*Error)(\.\w+)*", word):
        known = match[1] in defined() | FOREIGN | alerts() or hasattr(builtins, match[1])
        return None if known else "no such class"
    return None


def option_names(section: str) -> tuple[str, ...]:
    """The options of one section of a model's configuration."""
    structs: dict[str, type[Struct]] = {
        "model_opts": erllama_py.ModelOpts,
        "context_opts": erllama_py.ContextOpts,
        "policy": erllama_py.PolicyOpts,
        "stub": erllama_py.StubOpts,
    }
    return structs[section].__struct_fields__


def spoken() -> Iterator[tuple[Path, str]]:
    """Everything between backticks, outside of fenced blocks."""
    for page in documents():
        for name in re.findall(r"`([^`\n]+)`", prose(page)):
            yield page, name


def test_what_the_documents_name_exists() -> None:
    """Files, dotted names, tests, options, classes and verbs of make."""
    wrong = [f"{label(page)}: `{name}`: {why}" for page, name in spoken() if (why := problem(name))]
    assert wrong == []


def test_links_to_files_of_the_project_lead_somewhere() -> None:
    """Relative links, also where they leave the site."""
    wrong = []
    for page in documents():
        for target in re.findall(r"\]\(([^)#\s]+)", prose(page)):
            if not re.match(r"[a-z]+:", target) and not (page.parent / target).exists():
                wrong.append(f"{label(page)}: {target}")
    assert wrong == []


def test_every_page_of_the_site_is_in_its_navigation() -> None:
    """And nothing else is: the builder checks links, but not this."""

    def pages(entry: object) -> Iterator[str]:
        if isinstance(entry, str):
            yield entry
        elif isinstance(entry, dict | list):
            for inner in entry.values() if isinstance(entry, dict) else entry:
                yield from pages(inner)

    navigation = tomllib.loads((TOP / "zensical.toml").read_text())["project"]["nav"]
    there = {page.relative_to(TOP / "docs").as_posix() for page in (TOP / "docs").rglob("*.md")}
    assert set(pages(navigation)) == there


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("tests/house_rules/test_documents.py", None),
        ("tests/house_rules/test_nothing.py", "no such file"),
        ("erllama_py.errors.ModelLoadError", None),
        ("erllama.ModelLoadError", None),
        ("erllama_py.errors.ModelExploded", "no such name"),
        ("make quick", None),
        ("make haste", "no such target"),
        ("test_the_changelog", "no such test"),
        ("context_opts.n_ctx", None),
        ("context_opts.n_cxt", "no such option"),
        ("ModelLoadError", None),
        ("LoadingError", "no such class"),
        ("ModelActorThatNeverWas", "no such class"),
        ("ValueError", None),
        ("pip install", None),
    ],
)
def test_the_check_tells_what_exists_from_what_does_not(name: str, why: str | None) -> None:
    """The check itself, on names of each kind."""
    assert problem(name) == why


def test_the_map_names_every_file_of_the_package() -> None:
    """A stranger finds each room on `docs/internals/map.md`, and nothing that is gone."""
    named = set(re.findall(r"^\| `(erllama_py/[^`]+)` \|", (TOP / "docs/internals/map.md").read_text(), re.MULTILINE))
    assert named == {path.relative_to(TOP).as_posix() for path in (TOP / "erllama_py").rglob("*.py")}
