"""`erllama serve`: models behind an HTTP server, with no more said than their files."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from cyclopts import Parameter

import erllama_py as erllama
from erllama_py.serve.cli import screen
from erllama_py.serve.cli.downloads import pulled
from erllama_py.serve.cli.ending import UsageError
from erllama_py.serve.cli.model_options import (
    TIER,
    context_options,
    find_model,
    is_fetched,
    model_from,
    weights_options,
)
from erllama_py.serve.config import (
    Config,
    ServedModel,
    check_exposure,
    check_served,
    is_of_hub,
    read_config,
    sized,
    with_environment,
    with_isolation,
    with_pulled,
)
from erllama_py.serve.config.sizing import disk_quota
from erllama_py.serve.core.settings import ListenOpts
from erllama_py.serve.models import default_home

NO_TIER = "none"


def serve(
    *models: str, alias: tuple[str, ...] = (), host: str | None = None, port: int | None = None,
    cache: str | None = None, config: Path | None = None, context: int | None = None, sequences: int | None = None,
    threads: int | None = None, gpu_layers: Annotated[int | None, Parameter(allow_leading_hyphen=True)] = None,
    on_demand: bool = False, memory_budget: str | None = None,
    keep_alive: Annotated[str | None, Parameter(allow_leading_hyphen=True)] = None,
    isolation: Literal["thread", "process"] | None = None, spare: bool = False, insecure: bool = False,
    log: Literal["text", "json"] = "text",
    log_level: Literal["debug", "info", "warning", "error"] = "info",
) -> int:  # fmt: skip
    """Serve models over HTTP, to the clients of OpenAI, Anthropic and Ollama.

    Parameters
    ----------
    models
        GGUF files; models of the Hugging Face hub, as hf:owner/repo:Q4_K_M; or names of small models that can be
        fetched: smollm2, gemma3, minilm.
    alias
        Another name for the model, such as one that a client insists on; can be repeated. Of several models,
        NAME=MODEL says which is meant, by its name or file.
    host
        The address to listen on. [default: 127.0.0.1]
    port
        The port; 0 takes one that is free. [default: 8080]
    cache
        The directory that keeps what was computed over restarts; "none" keeps it in memory alone. By default it is
        kv/PORT in $ERLLAMA_HOME, or in ~/.cache/erllama. Answers of /v1/responses are then kept in responses/PORT
        there, files and batches in files/PORT.
    config
        A TOML file; options of the command line go before what it says.
    context
        Tokens of each model's context, which its clients share; by default as many as the model was trained for, or
        as fit into the free memory; 0 for as many as it was trained for, whatever fits.
    sequences
        Replies of each model that are computed side by side; 8 by default.
    threads
        CPU threads of each model; by default as many as compute fastest.
    gpu_layers
        Layers of each model on the GPU; -1 for all.
    on_demand
        Load each model of the command line at its first request, and unload it when nobody uses it.
    memory_budget
        What all models, tiers in memory and buffers may take together, such as 8GiB: models that nobody uses are
        unloaded for others.
    keep_alive
        How long a model that is loaded on demand stays without a request: seconds, or 30s, 5m, 1h; 0 for not at all,
        -1 or forever for without end. [default: 5m]
    isolation
        Where models run whose table in the file does not say: on threads of the server, or each in a process of its
        own, so that a crash of native code costs one model a pause. [default: process on Linux, else thread]
    spare
        Keep a second process ready for each model in a process: after a crash it comes back without a load.
    insecure
        Serve other machines without any key.
    log
        How the log is written to the standard error: for people, or an object of JSON for each line.
    log_level
        From which level on. At info each request has a line, which holds nothing of what was asked or answered.
    """
    options = context_options(context=context, sequences=sequences, threads=threads)
    said: dict[str, Any] = {name: value for name, value in (("isolation", isolation), ("spare", spare)) if value}

    def read() -> Config:
        """What file, environment and command line come to, now."""
        given = read_config(config, said) if config is not None else Config(models=(), server=ListenOpts(**said))
        given = with_environment(given, os.environ)
        settled = settle(
            given, [_loaded(named(one), on_demand=on_demand) for one in models], aliases=alias, host=host, port=port,
            cache=cache, context_opts=options, gpu_layers=gpu_layers,
        )  # fmt: skip
        settled = with_memory(settled, memory_budget=memory_budget, keep_alive=keep_alive)
        if insecure:
            settled = msgspec.structs.replace(settled, access=msgspec.structs.replace(settled.access, insecure=True))
        if not settled.models:
            raise UsageError("there is no model to serve: name a GGUF file, or a --config with models")
        check_served(settled)
        settled = with_responses(settled, given_cache=cache)
        return with_pulled(settled, lambda reference: pulled(reference).path)

    from erllama_py.serve.cli.hosting import host as run_server  # starlette and uvicorn are for this command alone

    first = with_cache(read(), given_cache=cache)
    if cache is None and not first.tiers:
        screen.note(f"what is computed is kept in memory alone: {why_in_memory(first)}")
    chosen = sized(first)
    served = msgspec.structs.replace(first, models=tuple(one.model for one in chosen))
    reread = None if config is None else partial(_read_again, read, first)
    return run_server(served, chosen, reread=reread, style=log, level=log_level)


def _loaded(model: ServedModel, *, on_demand: bool) -> ServedModel:
    return msgspec.structs.replace(model, load="demand" if on_demand else "start")


def _read_again(read: Callable[[], Config], first: Config) -> Config:
    """What is to hold from now on. The tier that was made for a server without one stays as it was made: how large it
    is depends on the disk. Raises `InvalidOption`, where a command line could not be taken, and `InsecureHost`, also
    where the server listens until it is started again."""
    try:
        again = read()
    except UsageError as error:
        raise erllama.InvalidOption("the command line", str(error)) from None
    check_exposure(first.server, again.access)
    made = first.tiers.get(TIER)
    return again if made is None or TIER in again.tiers else with_tier(again, made)


def with_memory(config: Config, *, memory_budget: str | None, keep_alive: str | None) -> Config:
    """The configuration with what the command line says of memory. Raises `UsageError`."""
    given = {"ERLLAMA_MEMORY_BUDGET": memory_budget or "", "ERLLAMA_KEEP_ALIVE": keep_alive or ""}
    try:
        return with_environment(config, given)  # they are written in the same way
    except erllama.InvalidOption as error:
        option = "--memory-budget" if error.option == "ERLLAMA_MEMORY_BUDGET" else "--keep-alive"
        raise UsageError(f"{option}: {error.problem}") from None


def settle(
    config: Config, models: Sequence[ServedModel], *, aliases: Sequence[str], host: str | None, port: int | None,
    cache: str | None, context_opts: Mapping[str, Any], gpu_layers: int | None,
) -> Config:  # fmt: skip
    """What the file says, with what the command line says before it. Raises `UsageError`."""
    listening = {name: value for name, value in (("host", host), ("port", port)) if value is not None}
    server = {**msgspec.structs.asdict(config.server), **listening}
    try:
        checked = erllama.parse_options(server, type(config.server))
    except erllama.InvalidOption as error:
        raise UsageError(f"--{error.option}: {error.problem}") from None
    tier = next(iter(config.tiers), None)
    added = [_isolated(_in_tier(model, config, tier), config) for model in models]
    weights = weights_options(gpu_layers=gpu_layers)
    known = [_override(model, context_opts=context_opts, model_opts=weights) for model in (*config.models, *added)]
    return msgspec.structs.replace(config, server=checked, models=tuple(_with_aliases(known, aliases)))


def named(given: str) -> ServedModel:
    """A model of the command line. One that was fetched or pulled is known by the name that it was given by, too."""
    if Path(given).suffix == ".toml":
        raise UsageError(f"{given}: a configuration file is named by --config")
    model = model_from(find_model(given))
    return msgspec.structs.replace(model, aliases=(given,)) if is_fetched(given) or is_of_hub(given) else model


def _in_tier(model: ServedModel, config: Config, tier: str | None) -> ServedModel:
    """A model of the command line, which saves to the first tier of the file, where that has one."""
    if tier is None:
        return model
    options = {**model.options, "tier_srv": tier, "tier": config.tiers[tier].kind}
    return msgspec.structs.replace(model, options=options)


def _isolated(model: ServedModel, config: Config) -> ServedModel:
    return msgspec.structs.replace(model, options=with_isolation(model.options, config.server))


def _override(model: ServedModel, **given: Mapping[str, Any]) -> ServedModel:
    options = dict(model.options)
    for name, values in given.items():
        if values:
            options[name] = {**options.get(name, {}), **values}
    try:
        erllama.parse_options(options, erllama.ModelConfig)
    except erllama.InvalidOption as error:
        raise UsageError(f"{model.name}: {error.option}: {error.problem}") from None
    return msgspec.structs.replace(model, options=options)


def _with_aliases(models: Sequence[ServedModel], aliases: Sequence[str]) -> list[ServedModel]:
    """The models with the other names that the command line gives them. Raises `UsageError`."""
    more: dict[str, tuple[str, ...]] = {model.name: model.aliases for model in models}
    for given in aliases:
        alias, equals, wanted = given.partition("=")
        if not equals and len(models) != 1:
            raise UsageError(f"--alias {alias}: there are {len(models)} models: say which one by {alias}=MODEL")
        meant = [model.name for model in models if not equals or wanted in _called(model)]
        if not meant or not alias:
            raise UsageError(f"--alias {given}: it is NAME=MODEL, and the models are {', '.join(more)}")
        if alias not in more[meant[0]]:
            more[meant[0]] += (alias,)
    return [msgspec.structs.replace(model, aliases=more[model.name]) for model in models]


def _called(model: ServedModel) -> tuple[str, ...]:
    """What a command line may call a model."""
    path = Path(model.options.get("model_path") or "")
    return (model.name, *model.aliases, path.name, str(path))


def with_cache(config: Config, *, given_cache: str | None) -> Config:
    """The configuration with a tier on the disk for its models, unless it has tiers, or none is wanted.

    A server that is started twice has another port, and so another directory.
    """
    if given_cache == NO_TIER or (given_cache is None and config.tiers):
        return config
    if given_cache is None:
        root = _home(config) / "kv" / str(config.server.port)
        quota = disk_quota(_free(root))
        if quota is None or not _is_writable(root):
            return config
        table: dict[str, Any] = {"kind": "disk", "root": str(root), "quota_bytes": quota}
    else:
        table = {"kind": "disk", "root": given_cache}
    return with_tier(config, erllama.parse_options(table, erllama.TierSpec, "--cache"))


def with_tier(config: Config, tier: erllama.TierSpec) -> Config:
    """The configuration with a tier that all its models save to."""
    models = [
        msgspec.structs.replace(model, options={**model.options, "tier_srv": TIER, "tier": "disk"})
        for model in config.models
    ]
    return msgspec.structs.replace(config, tiers={TIER: tier, **config.tiers}, models=tuple(models))


def with_responses(config: Config, *, given_cache: str | None) -> Config:
    """The configuration with directories for the answers of `/v1/responses`, and for files and batches, unless it has
    them, or nothing of it is to outlive the process: no cache, or tiers in memory alone."""
    server, home = config.server, _home(config)
    forgets = bool(config.tiers) and all(tier.kind != "disk" for tier in config.tiers.values())
    if given_cache == NO_TIER or (given_cache is None and (forgets or not _is_writable(home))):
        return config
    port = str(server.port)
    server = msgspec.structs.replace(
        server, responses_directory=server.responses_directory or str(home / "responses" / port),
        files_directory=server.files_directory or str(home / "files" / port),
    )  # fmt: skip
    return msgspec.structs.replace(config, server=server)


def why_in_memory(config: Config) -> str:
    """Why a server that nobody told where to keep it keeps what is computed in memory alone."""
    home = _home(config)
    return f"the disk of {home} is almost full" if _is_writable(home) else f"no file can be written in {home}"


def _home(config: Config) -> Path:
    return Path(config.runtime.home) if config.runtime.home else default_home()


def _free(root: Path) -> int:
    """Free bytes of the disk that a directory is on, or would be."""
    return shutil.disk_usage(_nearest(root)).free


def _is_writable(root: Path) -> bool:
    """Whether files can be made in a directory, or where it would be made."""
    return os.access(_nearest(root), os.W_OK | os.X_OK)


def _nearest(root: Path) -> Path:
    """A directory, or the nearest one above it that is there."""
    return next((one for one in (root, *root.parents) if one.exists()), Path("/"))
