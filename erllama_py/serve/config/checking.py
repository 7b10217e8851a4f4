"""From the tables of a file to a `Config`: every name known, every value possible, every place in the file named."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

import erllama_py as erllama
from erllama_py.serve.access import AccessOpts, check_keys
from erllama_py.serve.config.errors import ConfigError
from erllama_py.serve.config.isolation import with_isolation
from erllama_py.serve.config.of_hub import is_of_hub
from erllama_py.serve.config.reading import read_tables
from erllama_py.serve.config.tables import Config, ModelTable, RuntimeTable, ServedModel, Tables
from erllama_py.serve.core.amounts import KeepAlive, seconds_of
from erllama_py.serve.core.settings import ListenOpts

_PART = re.compile(r"-\d{5}-of-\d{5}$")  # how the files of a model in several files end
_NO_TOML = re.compile(r" or None\b|\ba callable or ")  # what only Python can write
DOTS = frozenset({".", ".."})  # what URLs take for a way
MOST_NAME = 200  # as a model's id
PATHS = ("uds", "tls_cert", "tls_key", "responses_directory", "files_directory")
_OWN = frozenset(ModelTable.__struct_fields__) - frozenset(erllama.ModelConfig.__struct_fields__)

# What keys of a model are called in the library, where the id is an argument of its own, and elsewhere.
_NAMES = {"model_path": "path", "id": "name", "model_id": "name", "served_model_name": "name", "alias": "aliases"}


def read_config(file: str | os.PathLike[str], said: Mapping[str, Any] | None = None) -> Config:
    """The configuration in a TOML file. What was `said` goes before its `[server]`. It blocks while it reads. Raises
    `ConfigError`."""
    path = Path(file).expanduser().absolute()
    tables = read_tables(path)
    if said and isinstance(tables.get("server", {}), Mapping):
        tables["server"] = {**tables.get("server", {}), **said}
    return check_tables(tables, path)


def check_tables(tables: Mapping[str, Any], file: Path) -> Config:
    """What the tables of `file` mean, which is absolute: paths in it start at its folder. Raises `ConfigError`."""
    with _in_file(file):
        _check_top(tables)
        top = erllama.parse_options(tables, Tables)
        tiers = _check_tiers(top.tiers, file.parent)
        policy = erllama.parse_options(top.policy, erllama.PolicyOpts, "policy") if top.policy else None
        pressure = erllama.parse_options(top.pressure, erllama.PressureOpts, "pressure") if top.pressure else None
        server = _check_server(top.server, file.parent)
        access = _check_access(top.access)
        runtime = erllama.parse_options(top.runtime, RuntimeTable, "runtime")
        if runtime.home is not None:
            runtime = msgspec.structs.replace(runtime, home=_absolute(runtime.home, file.parent, "runtime.home"))
        models = [
            check_model(with_isolation(table, server), f"models[{index}]", file.parent, tiers, top.policy)
            for index, table in enumerate(top.models)
        ]
        check_names(models)
        return Config(
            models=tuple(models), server=server, access=access, tiers=tiers, policy=policy, pressure=pressure,
            runtime=runtime, file=str(file),
        )  # fmt: skip


def _check_top(tables: Mapping[str, Any]) -> None:
    """Refuse a key that belongs into one of the tables, and models under names of theirs, with the form to write."""
    if isinstance(tables.get("models"), Mapping):
        raise erllama.InvalidOption("models", 'models are a list: [[models]] begins each, name = "…" is a key of it')
    if "model" in tables:
        raise erllama.InvalidOption("model", "there is no such option; [[models]] begins each model")
    if "api_key" in tables or "api_keys" in tables:
        raise erllama.InvalidOption("api_key", "there is no such option; `erllama key NAME` makes one for this file")
    for table, kind in (("server", ListenOpts), ("runtime", RuntimeTable)):
        for name in tables:
            if name in kind.__struct_fields__ and name not in Tables.__struct_fields__:
                raise erllama.InvalidOption(name, "there is no such option", f"{table}.{name}")


def _check_server(table: Mapping[str, Any], folder: Path) -> ListenOpts:
    """Where it listens, with the paths of its files."""
    server = erllama.parse_options(table, ListenOpts, "server")
    _check_stay(server.keep_alive, "server.keep_alive")
    paths = {name: getattr(server, name) for name in PATHS}
    absolute = {name: _absolute(path, folder, f"server.{name}") for name, path in paths.items() if path is not None}
    return msgspec.structs.replace(server, **absolute)


def _check_access(table: Mapping[str, Any]) -> AccessOpts:
    access = erllama.parse_options(table, AccessOpts, "access")
    if (problem := check_keys(access.keys)) is not None:
        raise erllama.InvalidOption(f"access.{problem[0]}", problem[1])
    return access


def check_model(
    table: Mapping[str, Any], place: str, folder: Path, tiers: Mapping[str, erllama.TierSpec], policy: Mapping[str, Any]
) -> ServedModel:
    """One model, with its tier and its gates settled. Raises `InvalidOption` with the `place` before it."""
    for other in _NAMES:
        if other in table:
            raise erllama.InvalidOption(f"{place}.{other}", "there is no such option", f"{place}.{_NAMES[other]}")
    own = erllama.parse_options(table, ModelTable, place)
    options = {name: value for name, value in table.items() if name not in _OWN}
    if own.path is not None:
        options["model_path"] = _file_or_reference(own.path, folder, f"{place}.path")
    elif own.backend == "llama":
        raise erllama.InvalidOption(f"{place}.path", "a model needs the path of its GGUF file")
    name = own.name or (name_of(options["model_path"]) if own.path else own.backend)
    options |= _tier_of(table, place, tiers)
    if policy:
        options["policy"] = {**policy, **table.get("policy", {})}
    erllama.parse_options(options, erllama.ModelConfig, place)
    if own.keep_alive is not None:
        _check_stay(own.keep_alive, f"{place}.keep_alive")
        if own.pinned:
            raise erllama.InvalidOption(f"{place}.keep_alive", "a model that is pinned always stays: leave one out")
    return ServedModel(
        name=name, options=options, aliases=own.aliases, load=own.load, keep_alive=own.keep_alive, pinned=own.pinned,
        memory_bytes=own.memory_bytes,
    )  # fmt: skip


def _check_stay(given: KeepAlive, place: str) -> None:
    try:
        seconds_of(given)
    except ValueError as error:
        raise erllama.InvalidOption(place, str(error)) from None


def name_of(path: str) -> str:
    """What a model is called by its file, or by its name on the hub, unless it is given a name."""
    if is_of_hub(path):
        return erllama.HubReference.parse(path).name
    stem = _PART.sub("", Path(path).name.removesuffix(".gguf"))
    shown = "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in stem)[:MOST_NAME]
    return "model" if shown in ("", *DOTS) else shown


def check_names(models: list[ServedModel]) -> None:
    """No two models answer to the same name, and a URL can name each. Raises `InvalidOption`."""
    taken: dict[str, str] = {}
    for index, model in enumerate(models):
        named = [(f"models[{index}].name", model.name)]
        named += [(f"models[{index}].aliases[{number}]", alias) for number, alias in enumerate(model.aliases)]
        for place, name in named:
            if not name.isprintable():
                raise erllama.InvalidOption(place, "expected printable characters")
            if not DOTS.isdisjoint(name.split("/")):
                raise erllama.InvalidOption(
                    place, "expected neither '.' nor '..' between slashes: no URL could name it"
                )
            if name in taken:
                raise erllama.InvalidOption(place, f"{name!r} is {taken[name]} already: each model needs its own")
            taken[name] = place


def check_allowed(config: Config) -> None:
    """Keys name models that are served: one with a slip in it would be of no use. Raises `InvalidOption`."""
    served = {name for model in config.models for name in (model.name, *model.aliases)}
    for index, key in enumerate(config.access.keys):
        for number, name in enumerate(key.models or ()):
            if name not in served:
                problem = f"no model is called {name!r}; there are {', '.join(sorted(served))}"
                raise erllama.InvalidOption(f"access.keys[{index}].models[{number}]", problem)


def _tier_of(table: Mapping[str, Any], place: str, tiers: Mapping[str, erllama.TierSpec]) -> dict[str, str]:
    """The tier of a model and its kind: the first of the file where it names none, `"ram"` where there is none."""
    kinds = {"ram": "ram", **{name: spec.kind for name, spec in tiers.items()}}
    named = table.get("tier_srv", next(iter(tiers), "ram"))
    if named not in kinds:
        raise erllama.InvalidOption(f"{place}.tier_srv", f"no tier is called {named!r}; there are {', '.join(kinds)}")
    kind = kinds[named]
    if table.get("tier", kind) != kind:
        problem = f"{named!r} is a tier of the kind {kind!r}; without this key it is found"
        raise erllama.InvalidOption(f"{place}.tier", problem)
    return {"tier_srv": named, "tier": kind}


def _check_tiers(tables: Mapping[str, Mapping[str, Any]], folder: Path) -> dict[str, erllama.TierSpec]:
    tiers: dict[str, erllama.TierSpec] = {}
    roots: dict[str, str] = {}
    for name, table in tables.items():
        place = f"tiers.{name}"
        if name == "ram":
            raise erllama.InvalidOption(place, "every server has the tier 'ram'; runtime.ram_quota_bytes bounds it")
        if isinstance(table.get("root"), str):
            table = {**table, "root": _absolute(table["root"], folder, f"{place}.root")}
        tiers[name] = tier = erllama.parse_options(table, erllama.TierSpec, place)
        if (other := roots.setdefault(str(tier.root), place)) != place:
            raise erllama.InvalidOption(f"{place}.root", f"{other} lies in this directory: each tier needs its own")
    return tiers


def _file_or_reference(path: str, folder: Path, place: str) -> str:
    """The absolute path of a file, or a model of the hub. Raises `InvalidOption`."""
    if not is_of_hub(path):
        return _absolute(path, folder, place)
    try:
        return str(erllama.HubReference.parse(path))
    except erllama.InvalidOption as error:
        raise erllama.InvalidOption(place, error.problem) from None


def _absolute(path: str, folder: Path, place: str) -> str:
    """A path from the folder of the file, a `~` at its beginning replaced."""
    if not path or "\0" in path:
        raise erllama.InvalidOption(place, "a path is not empty and has no NUL character")
    return os.path.normpath(folder / os.path.expanduser(path))


@contextmanager
def _in_file(file: Path) -> Iterator[None]:
    try:
        yield
    except erllama.InvalidOption as error:
        place = "" if error.option == "options" else error.option
        raise ConfigError(str(file), place, _NO_TOML.sub("", error.problem), error.nearest) from None
