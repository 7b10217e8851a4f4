"""`erllama config check`: whether a configuration file can be served, and what it comes to."""

from __future__ import annotations

from pathlib import Path

import msgspec
from rich.markup import escape

from erllama_py.memory import available_memory
from erllama_py.serve.cli import screen
from erllama_py.serve.cli.downloads import pulled
from erllama_py.serve.cli.ending import DONE
from erllama_py.serve.cli.serve import with_cache
from erllama_py.serve.config import Config, ConfigError, SizedModel, check_served, read_config, sized, with_pulled
from erllama_py.serve.demand.fitting import needed_bytes
from erllama_py.serve.demand.memory import bound, misfit_of


class Checked(msgspec.Struct, frozen=True, kw_only=True):
    """A model as `--json` tells of it. Sizes are in bytes."""

    name: str
    aliases: tuple[str, ...]
    path: str | None
    description: str
    n_ctx: int
    n_seq_max: int
    weights_bytes: int
    context_bytes: int
    tier: str


def check(file: Path, /, *, json: bool = False) -> int:
    """Check a configuration file, and the header of each model's file, and show what they come to.

    Parameters
    ----------
    file
        The TOML file.
    json
        Print the models with their sizes as JSON.
    """
    config = read_config(file)
    if not config.models:
        raise ConfigError(str(file), "models", "there is no model to serve")
    config, found = servable(config)
    models = [_checked(one) for one in found]
    if json:
        screen.print_json(models)
    else:
        _show(file, config, models)
    return DONE


def servable(config: Config) -> tuple[Config, list[SizedModel]]:
    """A configuration with the files of its models and a cache, and what its models are. Nothing is downloaded.

    Raises what `erllama serve` would raise.
    """
    check_served(config)
    config = with_pulled(config, lambda reference: pulled(reference, offline=True).path)
    config = with_cache(config, given_cache=None)
    found = sized(config)
    config = msgspec.structs.replace(config, models=tuple(one.model for one in found))
    if (misfit := misfit_of(config, bound(config, available_memory()))) is not None:
        raise misfit
    return config, found


def _checked(one: SizedModel) -> Checked:
    options, context = one.model.options, one.model.options.get("context_opts", {})
    return Checked(
        name=one.model.name, aliases=one.model.aliases, path=options.get("model_path"),
        description=one.file.description if one.file else "stub", n_ctx=context.get("n_ctx", 8192),
        n_seq_max=context.get("n_seq_max", 4), weights_bytes=one.file.size if one.file else 0,
        context_bytes=one.context_bytes, tier=options["tier_srv"],
    )  # fmt: skip


def _show(file: Path, config: Config, models: list[Checked]) -> None:
    console = screen.out()
    console.print(
        f"{escape(str(file))} can be served: {screen.count(len(models), 'model')}, "
        f"{screen.count(len(config.tiers), 'tier')}"
    )
    if config.access.keys:
        console.print(f"  {screen.count(len(config.access.keys), 'key')}")
    for one in models:
        also = f" ({', '.join(one.aliases)})" if one.aliases else ""
        context = (
            f"{one.n_ctx:,} tokens for {screen.count(one.n_seq_max, 'sequence')}, {screen.amount(one.context_bytes)}"
        )
        console.print(
            f"  [bold]{escape(one.name)}[/bold]{escape(also)}: {escape(one.description)}, "
            f"{screen.amount(one.weights_bytes)}; {context}; saves to {escape(one.tier)}"
        )
    for name, tier in config.tiers.items():
        console.print(f"  {escape(name)}: {tier.kind}, {escape(str(tier.root))}, {screen.amount(tier.quota_bytes)}")
    free = available_memory()
    console.print(f"  {_memory(config, free)}; {screen.amount(free)} are free")


def _memory(config: Config, free: int) -> str:
    """What its models take: those on demand take turns where the budget has not room for all. Pure."""
    total = sum(needed_bytes(one) for one in config.models)
    at_start = sum(needed_bytes(one) for one in config.models if one.load == "start")
    if at_start == total:
        return f"{screen.amount(total)} of memory in total"
    memory = bound(config, free)
    most = total if memory.budget is None else min(total, memory.budget - memory.reserved)
    return f"{screen.amount(at_start)} of memory from the start, {screen.amount(most)} at most with models on demand"
