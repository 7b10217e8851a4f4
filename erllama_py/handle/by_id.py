"""What a runtime forwards to its models: `runtime.X(model_or_id, …)` is `model.X(…)`, for every public method."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import update_wrapper
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from erllama_py.handle.model import Model

P = ParamSpec("P")
R = TypeVar("R")
C = TypeVar("C", bound=Callable[..., object])


class Finder(Protocol):
    """Knows the models by id."""

    def model(self, model: Model | str, /) -> Model:
        """The handle of a loaded model. Raises `ModelNotLoaded`."""


def by_id(method: Callable[Concatenate[Model, P], R]) -> Callable[Concatenate[Finder, Model | str, P], R]:
    """A method of `Model` as one that takes a handle or an id first, with its signature and its docstring."""

    def call(finder: Finder, model: Model | str, /, *args: P.args, **options: P.kwargs) -> R:
        return method(finder.model(model), *args, **options)

    return _like(call, method)


def probe(name: str, get: Callable[[Model], R]) -> Callable[[Finder, Model | str], R]:
    """A property of `Model` as a method that takes a handle or an id, with its docstring."""

    def read(finder: Finder, model: Model | str, /) -> R:
        return get(finder.model(model))

    return _like(read, getattr(Model, name).fget)


def _like(call: C, method: Callable[..., object]) -> C:
    """`call`, which takes a model first, with the name, the docstring and the further arguments of `method`."""
    first = list(inspect.signature(call).parameters.values())[:2]
    signature = inspect.signature(method)
    further = list(signature.parameters.values())[1:]
    update_wrapper(call, method)
    vars(call)["__signature__"] = signature.replace(parameters=[*first, *further])
    return call


class ModelCalls:
    """The calls of `Model`, by handle or id. All raise `ModelNotLoaded` for an id that is not loaded."""

    complete = by_id(Model.complete)
    stream = by_id(Model.stream)
    chat = by_id(Model.chat)
    stream_chat = by_id(Model.stream_chat)
    run_tools = by_id(Model.run_tools)
    session = by_id(Model.session)
    prefill_only = by_id(Model.prefill_only)
    score = by_id(Model.score)
    choose = by_id(Model.choose)
    embed = by_id(Model.embed)
    rerank = by_id(Model.rerank)
    cancel = by_id(Model.cancel)
    end_thinking = by_id(Model.end_thinking)
    verify_thinking = by_id(Model.verify_thinking)
    end_session = by_id(Model.end_session)
    evict = by_id(Model.evict)
    unload = by_id(Model.unload)
    inject_fault = by_id(Model.inject_fault)
    tokenize = by_id(Model.tokenize)
    detokenize = by_id(Model.detokenize)
    apply_chat_template = by_id(Model.apply_chat_template)
    chat_format = by_id(Model.chat_format)
    explain = by_id(Model.explain)
    list_cached_prefixes = by_id(Model.list_cached_prefixes)
    model_info = probe("info", lambda model: model.info)
    model_counters = probe("counters", lambda model: model.counters)
    model_sequences = probe("sequences", lambda model: model.sequences)
    phase = probe("phase", lambda model: model.phase)
    pending_len = probe("pending_len", lambda model: model.pending_len)
    last_cache_hit = probe("last_cache_hit", lambda model: model.last_cache_hit)
