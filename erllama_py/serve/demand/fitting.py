"""Whether a model fits into the memory that models may take, and what would help where it does not.

`smaller_context` reads a file's header, so it blocks: from a coroutine, call it in a worker thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import erllama_py as erllama
from erllama_py.serve.config import ServedModel
from erllama_py.serve.core.amounts import amount

LEAST_CELLS = 512  # a smaller context answers nothing


class DoesNotFit(erllama.ErllamaError):
    """A model takes more memory than models may take: it can never be loaded.

    It takes `needed` bytes, and `room` are left beside models that stay or are loaded from the start, if there are any,
    and beside the `reserved` ones that tiers in memory and buffers may take. With a context of `n_ctx` tokens it would
    fit; `None`: with none.
    """

    model_id: str
    needed: int
    room: int
    beside: tuple[str, ...] = ()
    n_ctx: int | None = None
    reserved: int = 0

    def describe(self) -> str:
        beside = ", ".join((f"{amount(self.reserved)} for saved rows and buffers", *map(repr, self.beside)))
        left = f"the memory budget leaves {amount(max(0, self.room))} for it beside {beside}"
        helps = helps_by(self.n_ctx) or "a larger memory_budget_bytes, or a smaller model, would help"
        return f"the model {self.model_id!r} takes {amount(self.needed)} and {left}: {helps}"


def helps_by(n_ctx: int | None) -> str:
    """What to say of a context with which a model would fit."""
    return "" if n_ctx is None else f"it would fit with context_opts.n_ctx = {n_ctx}"


def needed_bytes(model: ServedModel) -> int:
    """What a model takes while it is loaded, as its configuration says, or its file; 0 where nobody has looked."""
    if model.memory_bytes is not None:
        return model.memory_bytes
    return model.context_bytes + (model.file.size if model.file is not None else 0)


def misfit(models: Sequence[ServedModel], room: int) -> DoesNotFit | None:
    """The first of some models that can never be loaded within `room` bytes: beside those that are pinned, or, where it
    is to be there from the start, beside those before it that are too."""
    pinned = [model for model in models if model.pinned and model.load == "start"]
    before = list[ServedModel]()
    for model in models:
        among = before if model.load == "start" else pinned
        left = room - sum(map(needed_bytes, among))
        if needed_bytes(model) > left:
            return DoesNotFit(model.name, needed_bytes(model), left, tuple(one.name for one in among))
        if model.load == "start":
            before.append(model)
    return None


def smaller_context(model: ServedModel, room: int) -> int | None:
    """The largest context, by halves of its own, with which a model takes at most `room` bytes; `None`: there is none.

    It blocks. Raises as `inspect_model` does.
    """
    if model.memory_bytes is not None or model.file is None or not model.file.can_generate:
        return None
    options: dict[str, Any] = model.options.get("context_opts", {})
    sizes = [options["n_ctx"] // 2]
    while sizes[-1] // 2 >= LEAST_CELLS:
        sizes.append(sizes[-1] // 2)
    given: Any = {**options, "n_ctx": sizes[-1]}
    found = erllama.inspect_model(model.file.path, context_opts=given, context_sizes=sizes, probe=False)
    costs = zip(sizes, found.contexts, strict=True)
    return next((n for n, one in costs if model.file.size + one.cell_bytes + one.compute_bytes <= room), None)


def explained(model: ServedModel, error: erllama.InsufficientMemory) -> erllama.InsufficientMemory:
    """The error of a load, with what would help. It blocks as `smaller_context` does."""
    if model.options.get("process_opts", {}).get("memory_bytes") == error.available:
        # what is needed is a lower bound: which context would fit beside the interpreter nobody knows
        helps = "a larger process_opts.memory_bytes would help, or a smaller context_opts.n_ctx"
    else:
        n_ctx = None
        with suppress(erllama.ErllamaError):
            n_ctx = smaller_context(model, needed_bytes(model) - (error.needed - error.available))
        helps = helps_by(n_ctx) or "a smaller model, or less beside it, would help"
    return erllama.InsufficientMemory(error.model_path, f"{error.problem}: {helps}", error.needed, error.available)
