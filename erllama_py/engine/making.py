"""The backend that a configuration names, in this process. The code of each is imported only when one is made."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from erllama_py.engine.backend import Backend
    from erllama_py.engine.llama.probe import FileTry
    from erllama_py.options.model import ModelConfig


def backend_of(
    model_id: str, config: ModelConfig, home: Path | None = None, later: Callable[[FileTry], object] | None = None
) -> Backend:
    """It has not loaded yet; `model_id` names it in logs. What is new to `home` is tried in a child first; who gives
    `later` has its file tried before it loads."""
    if config.backend == "stub" and config.stub.replies:
        from erllama_py.engine.stub_script import Script

        given = config.stub.replies
        return Script(*((given,) if isinstance(given, dict) else given)).backend(model_id, config)
    if config.backend == "stub":
        from erllama_py.engine.stub import StubBackend

        return StubBackend(model_id, config)
    from erllama_py.engine.llama.backend import LlamaBackend

    return LlamaBackend(model_id, config, home, later)


def weights_of(model_id: str, config: ModelConfig, progress: Callable[[float], bool]) -> Backend:
    """A backend that has loaded its weights and has no context, for others to `use_weights_of`. Raises as `load`
    does."""
    if config.backend == "stub":
        backend = backend_of(model_id, config)
        backend.load(progress)
        return backend
    from erllama_py.engine.llama.backend import LlamaBackend

    holder = LlamaBackend(model_id, config)
    holder.load_weights(progress)
    return holder
