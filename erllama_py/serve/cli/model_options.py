"""The models that a command names, and how they are loaded: what `run`, `complete` and `serve` have in common."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import erllama_py as erllama
from erllama_py.serve.cli.ending import UsageError
from erllama_py.serve.cli.screen import fetching, loading
from erllama_py.serve.config import Config, ServedModel, name_of, with_sizes
from erllama_py.serve.models import MODELS, fetch

TIER = "cache"  # the name of the tier that --cache makes


def find_model(given: str) -> Path:
    """The file that a command line means: a path, or one of the small models that can be fetched, by its name.

    Raises `ModelFetchError`, `UsageError`.
    """
    if is_fetched(given):
        with fetching(given) as show:
            return fetch(given, progress=show)
    path = Path(given).expanduser().absolute()
    if "." not in given and "/" not in given and not path.exists():
        raise UsageError(f"there is no file {given!r}; models that are fetched are {', '.join(MODELS)}")
    return path


def is_fetched(given: str) -> bool:
    """Whether this is the name of a small model, and no file."""
    return given in MODELS and not Path(given).exists()


def reply_options(*, tokens: int | None, temperature: float | None, seed: int | None) -> dict[str, Any]:
    """What is said of a reply, as `stream_chat` takes it. Raises `UsageError`."""
    positive(tokens=tokens)
    for name, value in (("temperature", temperature), ("seed", seed)):
        if value is not None and not value >= 0:  # NaN too
            raise UsageError(f"--{name}: expected 0 or more, got {value}")
    options = {"response_tokens": tokens, "temperature": temperature, "seed": seed}
    return {name: value for name, value in options.items() if value is not None}


def positive(**given: int | None) -> dict[str, int]:
    """Those numbers that were given, by the names of their options. Raises `UsageError`."""
    for name, value in given.items():
        if value is not None and value < 1:
            raise UsageError(f"--{name.replace('_', '-')}: expected 1 or more, got {value}")
    return {name: value for name, value in given.items() if value is not None}


def model_from(
    path: Path, *, context: int | None = None, threads: int | None = None, sequences: int | None = None,
    gpu_layers: int | None = None, tier: str | None = None,
) -> ServedModel:  # fmt: skip
    """A model by what a command line says of it; its sizes may be open still."""
    names = {"context": "n_ctx", "threads": "n_threads", "sequences": "n_seq_max"}
    given = positive(context=context, threads=threads, sequences=sequences)
    options: dict[str, Any] = {
        "model_path": str(path),
        "context_opts": {names[name]: value for name, value in given.items()},
        "tier_srv": tier or "ram",
        "tier": "disk" if tier else "ram",
    }
    if gpu_layers is not None:
        options["model_opts"] = {"n_gpu_layers": gpu_layers}
    erllama.parse_options(options, erllama.ModelConfig)
    return ServedModel(name=name_of(str(path)), options=options)


def single_user(model: str, *, context: int | None, threads: int | None, cache: str | None) -> Config:
    """One model for one user: one sequence, and a context as large as suits the model and the free memory."""
    tiers: dict[str, erllama.TierSpec] = {}
    if cache is not None:
        tiers[TIER] = erllama.parse_options({"kind": "disk", "root": cache}, erllama.TierSpec)
    one = model_from(find_model(model), context=context, threads=threads, tier=TIER if tiers else None)
    config = Config(models=(one,), tiers=tiers)
    return with_sizes(config, sequences=1)


@asynccontextmanager
async def opened(config: Config) -> AsyncIterator[erllama.Model]:
    """The only model of a configuration, loaded, in a runtime of its own."""
    async with erllama.Runtime(**config.runtime_options()) as runtime:
        yield await load(runtime, config.models[0])


async def load(runtime: erllama.Runtime, model: ServedModel) -> erllama.Model:
    """Load a model, with a bar where there is a terminal."""
    with loading(model.name) as show:
        return await runtime.load_model(model.name, model.config, on_progress=show)
