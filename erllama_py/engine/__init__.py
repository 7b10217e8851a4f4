"""The room with the threads: one per loaded model, which owns the model's llama.cpp context.

Doors: `backend` (what an inference library must offer), `jobs` (what goes in and comes out), `thread` (the
thread itself), and `make_backend` here. Everything else is private to the room.
"""

from __future__ import annotations

from collections.abc import Callable

from erllama_py.engine.backend import Backend
from erllama_py.options.model import ModelConfig

BackendFactory = Callable[[str, ModelConfig], Backend]


def make_backend(model_id: str, config: ModelConfig) -> Backend:
    """The backend that a configuration names, which has not loaded yet; `model_id` names it in logs.

    The llama.cpp bindings are imported only when one is made.
    """
    if config.backend == "stub":
        from erllama_py.engine.stub import StubBackend

        return StubBackend(model_id, config)
    from erllama_py.engine.llama import LlamaBackend

    return LlamaBackend(model_id, config)
