"""Which backend a configuration names. The llama.cpp bindings are imported only when one is made."""

from __future__ import annotations

from collections.abc import Callable

from erllama_py.engine.backend import Backend
from erllama_py.options.model import ModelConfig

BackendFactory = Callable[[str, ModelConfig], Backend]


def make_backend(model_id: str, config: ModelConfig) -> Backend:
    """A backend that has not loaded yet; `model_id` names it in logs."""
    if config.backend == "stub":
        from erllama_py.engine.stub import StubBackend

        return StubBackend(model_id, config)
    from erllama_py.engine.llama import LlamaBackend

    return LlamaBackend(model_id, config)
