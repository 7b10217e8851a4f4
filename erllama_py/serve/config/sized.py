"""The sizes that a configuration leaves open, settled by looking at the files of its models and at this machine.

It reads headers and vocabularies, so it blocks, some tenths of a second a model: from a coroutine, call it in a worker
thread.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

import erllama_py as erllama
from erllama_py.memory import available_memory
from erllama_py.serve.config.sizing import LEAST_BUDGET, MOST_BATCH, budget, choose_size
from erllama_py.serve.config.tables import Config, ServedModel


class SizedModel(msgspec.Struct, frozen=True, kw_only=True):
    """A model with its size, and what its file says; None for a stub, which has none."""

    model: ServedModel
    file: erllama.ModelFile | None = None
    context_bytes: int = 0
    """What its context takes."""


def sized(config: Config, *, sequences: int | None = None, available: int | None = None) -> list[SizedModel]:
    """Each model with every size settled; `sequences` are for models that do not say, `available` the bytes of memory.

    Raises the `ModelLoadError`s of `inspect_model`.
    """
    stamped = [msgspec.structs.replace(model, stamp=stamp_of(model)) for model in config.models]
    files = [inspected(model) for model in stamped]
    memory = available_memory() if available is None else available
    if config.server.memory_budget_bytes is not None:
        memory = min(memory, config.server.memory_budget_bytes - config.reserved_bytes(memory))
    always = [file for model, file in zip(stamped, files, strict=True) if model.load == "start"]
    beside = sum(file.size for file in always if file is not None)
    found = []
    for model, file in zip(stamped, files, strict=True):
        weights, models = beside, len(always)
        if model.load == "demand":  # it shares the memory with those that are always there, not with others of its kind
            weights, models = beside + (file.size if file is not None else 0), models + 1
        found.append(size_model(model, file, budget(memory, weights, models), sequences))
    return found


def with_sizes(config: Config, *, sequences: int | None = None) -> Config:
    """A configuration with every size settled, as `sized` does. It looks at no file where nothing is open and memory
    has no bound."""
    if all(_is_settled(model) for model in config.models) and not config.is_bounded:
        return config
    if all(model.file is not None or "model_path" not in model.options for model in config.models):
        return config  # it was looked at
    models = tuple(one.model for one in sized(config, sequences=sequences))
    return msgspec.structs.replace(config, models=models)


def stamp_of(model: ServedModel) -> tuple[int, int] | None:
    """What of the model's file changes when it is replaced; None where it cannot be looked at, or is on the hub."""
    try:
        status = os.stat(model.options["model_path"])
    except (OSError, KeyError):
        return None
    return status.st_mtime_ns, status.st_size


def is_replaced(model: ServedModel) -> bool:
    """Whether the model's file is another one than when it was looked at."""
    return model.stamp is not None and stamp_of(model) not in (None, model.stamp)


def refreshed(model: ServedModel) -> ServedModel:
    """The model as its file is now, whose context may take what it took before; itself where the file is the same.

    Raises the `ModelLoadError`s of `inspect_model`.
    """
    if not is_replaced(model):
        return model
    again = msgspec.structs.replace(model, options=model.written, stamp=stamp_of(model))
    return size_model(again, inspected(again), max(LEAST_BUDGET, model.context_bytes)).model


def _is_settled(model: ServedModel) -> bool:
    context: Mapping[str, Any] = model.options.get("context_opts", {})
    return "model_path" not in model.options or {"n_ctx", "n_seq_max"} <= context.keys()


def inspected(model: ServedModel) -> erllama.ModelFile | None:
    """What the model's file says; None for a stub."""
    path = model.options.get("model_path")
    return None if path is None else erllama.inspect_model(path, context_sizes=[], probe=_is_tried(model))


def _is_tried(model: ServedModel) -> bool:
    return bool(model.options.get("probe", True))


def size_model(
    model: ServedModel, file: erllama.ModelFile | None, room: int, sequences: int | None = None
) -> SizedModel:
    """One model, whose context may take `room` bytes."""
    if file is None:
        return SizedModel(model=model)
    given: Mapping[str, Any] = model.options.get("context_opts", {})
    if not file.can_generate:
        batch = min(max(file.n_ctx_train, 512), MOST_BATCH)
        return _with(model, file, {"n_ctx": batch, "n_batch": batch, "n_seq_max": 1, **given}, 0)
    if given.get("n_ctx") == 0 and file.n_ctx_train:
        given = {**given, "n_ctx": file.n_ctx_train}
    wanted = given.get("n_seq_max", sequences)

    def costs(n_seq_max: int, cells: Sequence[int]) -> list[int]:
        options: Any = {**given, "n_seq_max": n_seq_max, "n_ctx": cells[-1]}
        contexts = erllama.inspect_model(
            file.path, context_opts=options, context_sizes=cells, probe=_is_tried(model)
        ).contexts
        return [one.cell_bytes + one.compute_bytes for one in contexts]

    size = choose_size(file.n_ctx_train, costs, room, n_ctx=given.get("n_ctx"), n_seq_max=wanted)
    return _with(model, file, {**given, "n_ctx": size.n_ctx, "n_seq_max": size.n_seq_max}, size.nbytes)


def _with(model: ServedModel, file: erllama.ModelFile, context: Mapping[str, Any], nbytes: int) -> SizedModel:
    options = {**model.options, "context_opts": dict(context)}
    settled = msgspec.structs.replace(model, options=options, given=model.written, file=file, context_bytes=nbytes)
    return SizedModel(model=settled, file=file, context_bytes=nbytes)
