"""The models that a command names, and how they are loaded: what `run`, `complete` and `serve` have in common."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import msgspec
from cyclopts import Parameter

import erllama_py as erllama
from erllama_py.serve.cli.downloads import pulled
from erllama_py.serve.cli.ending import UsageError
from erllama_py.serve.cli.screen import fetching, loading
from erllama_py.serve.config import Config, ServedModel, is_of_hub, name_of, with_sizes
from erllama_py.serve.models import MODELS, fetch

TIER = "cache"  # the name of the tier that --cache makes
# Options of the command line by their names in the library, where they differ.
_NAMES = {
    "context": "n_ctx", "threads": "n_threads", "sequences": "n_seq_max", "gpu_layers": "n_gpu_layers",
    "tokens": "response_tokens",
}  # fmt: skip


Seed = Annotated[int | None, Parameter(allow_leading_hyphen=True)]
"""-1 is any, as elsewhere."""


def find_model(given: str) -> Path:
    """The file that a command line means: a path, a model of the hub (`hf:…`), or one of the small models that can be
    fetched, by its name.

    Raises `ModelFetchError`, `PullError`, `UsageError`.
    """
    if is_of_hub(given):
        return Path(pulled(given).path)
    if is_fetched(given):
        with fetching(given) as show:
            return fetch(given, progress=show)
    path = Path(given).expanduser().absolute()
    if "." not in given and "/" not in given and not path.exists():
        others = f"models that are fetched are {', '.join(MODELS)}, those of the hub hf:owner/repo:Q4_K_M"
        raise UsageError(f"there is no file {given!r}; {others}")
    return path


def is_fetched(given: str) -> bool:
    """Whether this is the name of a small model, and no file."""
    return given in MODELS and not Path(given).exists()


def reply_options(
    *, tokens: int | None = None, temperature: float | None = None, seed: int | None = None
) -> dict[str, Any]:
    """What is said of a reply, as `stream_chat` takes it. Raises `UsageError`."""
    return _checked(erllama.RequestOptions, tokens=tokens, temperature=temperature, seed=seed)


def context_options(
    *, context: int | None = None, threads: int | None = None, sequences: int | None = None
) -> dict[str, Any]:
    """What is said of a context, as `context_opts` take it. Raises `UsageError`."""
    return _checked(erllama.ContextOpts, context=context, threads=threads, sequences=sequences)


def weights_options(*, gpu_layers: int | None = None) -> dict[str, Any]:
    """What is said of the weights, as `model_opts` take it. Raises `UsageError`."""
    return _checked(erllama.ModelOpts, gpu_layers=gpu_layers)


def _checked(kind: type[msgspec.Struct], **given: float | None) -> dict[str, Any]:
    """Those that were given, by their names in the library, whose bounds are theirs."""
    names = {_NAMES.get(name, name): name for name in given}
    options = {name: given[own] for name, own in names.items() if given[own] is not None}
    try:
        erllama.parse_options(options, kind)
    except erllama.InvalidOption as error:
        if error.option not in names:
            raise
        raise UsageError(f"--{names[error.option].replace('_', '-')}: {error.problem}") from None
    return options


def model_from(
    path: Path, *, context: int | None = None, threads: int | None = None, sequences: int | None = None,
    gpu_layers: int | None = None, tier: str | None = None,
) -> ServedModel:  # fmt: skip
    """A model by what a command line says of it; its sizes may be open still."""
    options: dict[str, Any] = {
        "model_path": str(path),
        "context_opts": context_options(context=context, threads=threads, sequences=sequences),
        "tier_srv": tier or "ram",
        "tier": "disk" if tier else "ram",
    }
    if weights := weights_options(gpu_layers=gpu_layers):
        options["model_opts"] = weights
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
