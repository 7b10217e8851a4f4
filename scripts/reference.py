"""Writes docs/reference.md: every public name, with the signature of every method, and the type of every field.

What a class says comes from its docstring, what a field says from the string that follows it. A house rule holds the
page to what this makes of the package. `make format` writes it.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import re
import runpy
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints, is_typeddict

import msgspec

import erllama_py
from erllama_py.handle.by_id import ModelCalls
from erllama_py.handle.probes import Probes

PAGE = Path(__file__).resolve().parent.parent / "docs" / "reference.md"
FACES = ["Runtime", "Model", "Session", "Stream", "ToolRun", "Supervised", "Cache", "CacheDirectory"]
HEAD = """# Reference

Every public name, all of them in `erllama_py`; what is not here is private. `make format` writes this page from the
docstrings.
"""


def shown(kind: Any) -> str:
    """A type as one would write it, the same under every version of Python."""
    origin, inner = get_origin(kind), get_args(kind)
    if kind is None or kind is NoneType:
        return "None"
    if isinstance(kind, str):
        return kind
    if isinstance(kind, list):
        return f"[{', '.join(map(shown, kind))}]"
    if is_union(kind):
        return " | ".join(map(shown, inner))
    if origin is Literal:
        return f"Literal[{', '.join(map(value, inner))}]"
    name = "..." if kind is ... else getattr(origin or kind, "__name__", str(kind))
    return f"{name}[{', '.join(map(shown, inner))}]" if origin else name


def value(default: object) -> str:
    """A default as one would write it."""
    if isinstance(default, msgspec.Struct):
        return f"{type(default).__name__}()"
    return json.dumps(default) if isinstance(default, str) else getattr(default, "__name__", repr(default))


def bounds(kind: Any) -> str:
    """What a value of an annotated type, or of one of a union of them, is held to."""
    if get_origin(kind) is not Annotated:
        return next((found for one in get_args(kind) if (found := bounds(one))), "") if is_union(kind) else ""
    metas = [meta for meta in get_args(kind)[1:] if isinstance(meta, msgspec.Meta)]
    words = []
    for meta in metas:
        for name, word in {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}.items():
            if (limit := getattr(meta, name)) is not None:
                words.append(f"{word} {limit:,}")
        for name, word in {"min_length": "at least", "max_length": "at most"}.items():
            if (limit := getattr(meta, name)) is not None:
                words.append(f"{word} {limit:,} long")
    return ", ".join(words)


def is_union(kind: Any) -> bool:
    """Whether a type is `A | B`, however it was written."""
    return get_origin(kind) in (Union, UnionType)


def hints_of(function: Callable[..., Any]) -> dict[str, Any]:
    """The types in a signature; as they are written, where one of them is known to type checkers alone."""
    try:
        return get_type_hints(inspect.unwrap(function))
    except AttributeError:
        return inspect.get_annotations(inspect.unwrap(function))


def call(name: str, function: Callable[..., Any], *, bound: bool = True) -> str:
    """The call of a method, less its first argument, or of a function, on lines that fit a page."""
    hints = hints_of(function)
    parameters = list(inspect.signature(function).parameters.values())[bound:]
    shaped = [one.replace(annotation=inspect.Parameter.empty) for one in parameters]
    texts: list[str] = []
    star = False
    for one, bare in zip(parameters, shaped, strict=True):
        if one.kind is one.KEYWORD_ONLY and not star:
            texts, star = [*texts, "*"], True
        star = star or one.kind is one.VAR_POSITIONAL
        kind = "Model | str" if one.name == "model" and one.kind is one.POSITIONAL_ONLY else shown(hints[one.name])
        label = str(bare).partition("=")[0]
        default = "" if one.default is one.empty else f" = {value(one.default)}"
        texts.append(f"{label}: {kind}{default}")
    awaited = "async " if inspect.iscoroutinefunction(inspect.unwrap(function)) else ""
    returns = shown(hints["return"])
    line = f"{awaited}{name}({', '.join(texts)}) -> {returns}"
    if len(line) > 100:
        line = f"{awaited}{name}(\n" + "".join(f"    {text},\n" for text in texts) + f") -> {returns}"
    return line


def fenced(*lines: str) -> str:
    """Lines as a block of Python that nobody runs: the tests run those marked `python`."""
    return "\n".join(("```py", *lines, "```"))


def field_docs(kind: type) -> dict[str, str]:
    """The strings that follow the fields of a class and of those that it is derived from."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if not base.__module__.startswith("erllama_py"):
            continue
        body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]
        assert isinstance(body, ast.ClassDef)
        for field, after in zip(body.body, body.body[1:], strict=False):
            match field, after:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                    found[name] = " ".join(inspect.cleandoc(text).split())
    return found


def defaults(kind: type) -> dict[str, str]:
    """The fields of a class, and the default of each; an empty text where it must be given."""
    if issubclass(kind, msgspec.Struct):
        empty = msgspec.NODEFAULT
        return {
            one.name: "" if one.default is empty else f"`{value(one.default)}`" for one in msgspec.structs.fields(kind)
        }
    if dataclasses.is_dataclass(kind):
        missing = dataclasses.MISSING
        return {
            one.name: "" if one.default is missing else f"`{value(one.default)}`" for one in dataclasses.fields(kind)
        }
    return dict.fromkeys(get_type_hints(kind), "") if is_typeddict(kind) else {}


def fields(kind: type) -> Iterator[str]:
    """The fields of a class as a table."""
    rows, hints, docs = defaults(kind), get_type_hints(kind, include_extras=True), field_docs(kind)
    plain = get_type_hints(kind)
    if (struct := getattr(erllama_py, kind.__name__.removesuffix("Dict"), kind)) is not kind:
        rows = {name: default for name, default in rows.items() if plain[name] != get_type_hints(struct).get(name)}
        yield f"It has the fields of `{struct.__name__}`, of the same types{' but for these:' if rows else '.'}\n"
    if not rows:
        return
    wide = any(rows.values())
    yield "| field | type |" + (" default |" if wide else "") + (" what it is |" if docs else "")
    yield "|---|---|" + ("---|" if wide else "") + ("---|" if docs else "")
    for name, default in rows.items():
        limits = f", {found}" if (found := bounds(hints[name])) else ""
        cells = [
            f"`{name}`",
            f"`{shown(plain[name])}`{limits}",
            *([default] if wide else []),
            *([docs.get(name, "")] if docs else []),
        ]
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
    yield ""


def methods(kind: type) -> Iterator[str]:
    """The public methods and properties of a class, each under a heading of its own."""
    if kind is erllama_py.Runtime:
        calls = [call(name, method) for name, method in vars(ModelCalls).items() if not name.startswith("_")]
        yield "The methods of `Model`, by handle or id; they raise `ModelNotLoaded` for an id that is not loaded:\n"
        yield fenced(*calls) + "\n"
    parts = [one for one in kind.__mro__ if one in (kind, Probes)]
    for name, member in [item for part in parts for item in vars(part).items()]:
        if name.startswith("_") or not (inspect.isfunction(member) or isinstance(member, property)):
            continue
        yield f"#### `{kind.__name__}.{name}`\n"
        if isinstance(member, property):
            assert member.fget is not None
            yield fenced(f"{name}: {shown(hints_of(member.fget)['return'])}") + "\n"
        else:
            yield fenced(call(name, member)) + "\n"
        yield (inspect.getdoc(getattr(kind, name)) or "") + "\n"


def entry(name: str) -> Iterator[str]:
    """One public name."""
    thing = getattr(erllama_py, name)
    yield f"### `{name}`\n"
    if inspect.isfunction(thing):
        yield fenced(call(name, thing, bound=False)) + "\n"
        yield (inspect.getdoc(thing) or "") + "\n"
        return
    if not isinstance(thing, type):
        yield f"`{shown(thing)}`\n\nWhat a stream yields.\n"
        return
    if issubclass(thing, erllama_py.ErllamaError) and (family := thing.__mro__[1]) is not erllama_py.ErllamaError:
        yield f"{'An' if family is Exception else 'A'} `{family.__name__}`.\n"
    yield (inspect.getdoc(thing) or "") + "\n"
    if thing is erllama_py.Runtime:
        yield fenced(call("Runtime", thing.__init__).removesuffix(" -> None")) + "\n"
    yield from fields(thing)
    if not issubclass(thing, erllama_py.ErllamaError):
        yield from methods(thing)


def group(name: str) -> str:
    """The part of the page that a name belongs to."""
    thing = getattr(erllama_py, name)
    if name in FACES or inspect.isfunction(thing):
        return "What one calls"
    if isinstance(thing, type) and issubclass(thing, erllama_py.ErllamaError):
        return "Errors"
    if is_typeddict(thing):
        return "Options as mappings"
    module = getattr(thing, "__module__", "")
    return "Options" if module.startswith("erllama_py.options") or name == "RestartLimits" else "Results"


def page() -> str:
    """The whole page."""
    parts = dict.fromkeys(("What one calls", "Options", "Results", "Errors", "Options as mappings"), "")
    for name in [*FACES, *(name for name in erllama_py.__all__ if name not in FACES)]:
        parts[group(name)] += "\n".join(entry(name)) + "\n"
    text = HEAD + "".join(f"\n## {part}\n\n{body}" for part, body in parts.items())
    return re.sub(r"\n{3,}", "\n\n", text).rstrip() + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    sys.path.insert(0, str(Path(__file__).parent))  # as tests have it
    for other in ("configuration.py", "commands.py"):
        runpy.run_path(str(Path(__file__).with_name(other)), run_name="__main__")
