"""`erllama pull`: models downloaded before they are needed, or looked for in a newer version."""

from __future__ import annotations

import sys

import msgspec

import erllama_py as erllama
from erllama_py.serve.cli import screen
from erllama_py.serve.cli.downloads import pulled, showing
from erllama_py.serve.cli.elsewhere import of_model
from erllama_py.serve.cli.ending import DONE, UsageError
from erllama_py.serve.cli.model_options import is_fetched
from erllama_py.serve.config import is_of_hub
from erllama_py.serve.models import MODELS, fetch, fetched


class Brought(msgspec.Struct, frozen=True, kw_only=True):
    """A model as `--json` tells of it. Sizes are in bytes."""

    name: str
    path: str
    size: int
    downloaded: int
    """0 where it was there."""
    revision: str | None = None
    """The commit of its repository."""


def pull(*models: str, json: bool = False) -> int:
    """Download models from the Hugging Face hub.

    The paths of their files are printed. One that is there is looked for in a newer version. A download that breaks off
    goes on where it was the next time.

    Parameters
    ----------
    models
        hf:owner/repo, hf:owner/repo:Q4_K_M or hf:owner/repo/file.gguf; or the names of small models: smollm2, gemma3,
        minilm.
    json
        Print what has come as JSON, and no progress.
    """
    if not models:
        raise UsageError("name a model, such as hf:owner/repo:Q4_K_M; see: erllama pull --help")
    brought = [_brought(one, quiet=json) for one in models]
    if json:
        screen.print_json(brought)
    return DONE


def _brought(given: str, *, quiet: bool) -> Brought:
    found = _small(given, quiet=quiet) if is_fetched(given) else _of_hub(given, quiet=quiet)
    if not quiet:
        how = f"{screen.amount(found.downloaded)} downloaded" if found.downloaded else "it is there"
        print(f"{found.name}: {how}", file=sys.stderr, flush=True)
        print(found.path, flush=True)
    return found


def _small(name: str, *, quiet: bool) -> Brought:
    there = name in fetched()
    with showing(name, quiet=quiet) as show:
        report = None if show is None else lambda done, total: show(erllama.PullProgress(name, done, total))
        path = fetch(name, progress=report)
    size = path.stat().st_size
    return Brought(name=name, path=str(path), size=size, downloaded=0 if there else size)


def _of_hub(given: str, *, quiet: bool) -> Brought:
    if not is_of_hub(given) or given.startswith("hf://"):
        known = f"neither a model of the hub, as hf:owner/repo:Q4_K_M, nor one of {', '.join(MODELS)}"
        raise UsageError(f"{given!r} is {known}{of_model(given)}")
    model = pulled(given, quiet=quiet, update=True)
    return Brought(
        name=model.reference, path=model.path, size=model.size, downloaded=model.downloaded, revision=model.revision
    )
