"""Fills the tables of docs/guides/configuration.md: every key of the configuration file, out of its structs.

A table stands between `<!-- keys: PLACE -->` and `<!-- /keys -->`. `make format` writes the page, a test holds it to
what this makes of the structs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from types import GenericAlias, NoneType
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import msgspec
from reference import bounds, field_docs, is_union, shown

import erllama_py as erllama
from erllama_py.serve.config import Config, ModelTable, RuntimeTable

PAGE = Path(__file__).resolve().parent.parent / "docs" / "guides" / "configuration.md"
TABLE = re.compile(r"(<!-- keys: (\S+) -->\n).*?(<!-- /keys -->)", re.DOTALL)

INT32 = ", ≤ 2,147,483,647"  # what llama.cpp can hold: no bound that anybody meets
# Keys that are not for a file: what another key says, and the stand-in for tests.
LEFT_OUT = {
    "models": {"model_path", "backend", "stub", "context_size"},
}


def sections() -> dict[str, type[msgspec.Struct]]:
    """The struct of each table of the file, by its place."""
    kinds = get_type_hints(Config)
    found: dict[str, type[msgspec.Struct]] = {"server": kinds["server"], "runtime": RuntimeTable}
    if "access" in kinds:
        found["access"] = kinds["access"]
        found["access.keys"] = get_args(get_type_hints(kinds["access"])["keys"])[0]
    return found | {
        "models": ModelTable,
        "models.model_opts": erllama.ModelOpts,
        "models.context_opts": erllama.ContextOpts,
        "models.scheduler": erllama.SchedulerOpts,
        "models.process_opts": erllama.ProcessOpts,
        "models.restarts": erllama.RestartOpts,
        "tiers": erllama.DiskTier,
        "policy": erllama.PolicyOpts,
        "pressure": erllama.PressureOpts,
    }


def rows(place: str) -> Iterator[str]:
    """The table of one place."""
    kind = sections()[place]
    hints, docs = get_type_hints(kind, include_extras=True), field_docs(kind)
    yield "| key | type | default | what it is |"
    yield "|---|---|---|---|"
    if place == "tiers":
        yield "| `kind` | `disk` or `ram_file` | | The kind: a disk, or a memory file system such as `/dev/shm`. |"
    own = kind.__annotations__  # what a table has beside the options of the library comes first
    for field in sorted(msgspec.structs.fields(kind), key=lambda one: one.name not in own):
        if field.name not in LEFT_OUT.get(place, ()):
            cells = (f"`{field.name}`", type_of(hints[field.name]), default_of(field), docs.get(field.name, ""))
            yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def type_of(kind: Any) -> str:
    """A type as the author of a file knows it, with its bounds."""
    limits = f", {found}" if (found := bounds(kind).removesuffix(INT32)) else ""
    plain = stripped(kind)
    if isinstance(plain, type) and issubclass(plain, msgspec.Struct):
        return "table"
    names = {"bytes": "text", "str": "text", "int": "whole number", "float": "number", "bool": "true or false"}
    text = shown(plain)
    if text.startswith("tuple["):
        inner = get_args(plain)[0]
        is_struct = isinstance(inner, type) and issubclass(inner, msgspec.Struct)
        return "list of tables" if is_struct else f"list of {names.get(shown(inner), shown(inner))}s{limits}"
    if text.startswith("Literal["):
        return " or ".join(f"`{one}`" for one in get_args(plain))
    return names.get(text, f"`{text}`") + limits


def stripped(kind: Any) -> Any:
    """A type without its bounds, and without None, which a file cannot say."""
    if get_origin(kind) is Annotated:
        return stripped(get_args(kind)[0])
    if is_union(kind):
        rest = [one for one in get_args(kind) if one is not NoneType]
        return stripped(rest[0]) if len(rest) == 1 else kind
    if get_origin(kind) is tuple:
        return GenericAlias(tuple, (stripped(get_args(kind)[0]), ...))
    return kind


def default_of(field: Any) -> str:
    """A default as a file would say it; empty where there is none."""
    default = field.default
    if default is msgspec.NODEFAULT or default is msgspec.UNSET or default is None:
        return ""
    if isinstance(default, msgspec.Struct) or default == ():
        return ""
    text = str(default).lower() if isinstance(default, bool) else repr(default)
    return f"`{text}`".replace("'", '"')


def page() -> str:
    """The page with its tables as they should be."""
    return TABLE.sub(lambda found: found[1] + "\n" + "\n".join(rows(found[2])) + "\n\n" + found[3], PAGE.read_text())


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
