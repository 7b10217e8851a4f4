"""The room with the threads: one per loaded model, which owns the model's llama.cpp context.

Doors: `backend` (what an inference library must offer), `jobs` (what goes in and comes out), `thread` (the
thread itself), and `make_backend`, `inspected` and `checked_build` here. Everything else is private to the room.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from erllama_py.engine.backend import Backend
from erllama_py.engine.inspection import Inspection
from erllama_py.options.model import ModelConfig
from erllama_py.results import BuildInfo

BackendFactory = Callable[[str, ModelConfig], Backend]


def make_backend(model_id: str, config: ModelConfig, *, home: Path | None = None) -> Backend:
    """The backend that a configuration names, which has not loaded yet; `model_id` names it in logs.

    What is new to `home` is tried in a child first, where the configuration does not say otherwise. The llama.cpp
    bindings are imported only when one is made.
    """
    if config.backend == "stub" and config.stub.replies:
        from erllama_py.engine.stub_script import Script

        given = config.stub.replies
        return Script(*((given,) if isinstance(given, dict) else given)).backend(model_id, config)
    if config.backend == "stub":
        from erllama_py.engine.stub import StubBackend

        return StubBackend(model_id, config)
    from erllama_py.engine.llama import LlamaBackend

    return LlamaBackend(model_id, config, home)


def inspected(
    path: str, home: Path | None, wanted: Callable[[], bool] = lambda: True
) -> AbstractContextManager[Inspection]:
    """Look at the GGUF file at `path`; blocks for a third of a second at most, as long as reading a vocabulary takes.

    What is new to `home` is tried in a child first, which takes as long again; the child is ended, and `LoadCancelled`
    raised, once this is not `wanted` any more. Raises as `Backend.inspect` and `Backend.load` do. The llama.cpp
    bindings are imported only now.
    """
    from erllama_py.engine.llama.inspection import inspected as by_llama

    return by_llama(path, home, wanted)


def checked_build(wanted: Callable[[], bool] = lambda: True) -> BuildInfo:
    """Try the build of llama.cpp in children, and ask what it is; blocks for seconds. The bindings are not imported."""
    from erllama_py.engine.llama.build_check import checked_build as by_llama

    return by_llama(wanted)
