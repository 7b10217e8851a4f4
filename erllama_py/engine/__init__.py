"""The room with the threads: one per loaded model, which owns the model's llama.cpp context.

Doors: `backend` (what an inference library must offer), `jobs` (what goes in and comes out), `engines` (the engine of
a backend, wherever it runs), and `make_backend`, `make_source`, `inspected`, `checked_build` and `checked_isolation`
here. Everything else is private to the room.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from erllama_py.engine.backend import Backend, ModelSource
from erllama_py.engine.inspection import Inspection
from erllama_py.engine.making import backend_of
from erllama_py.options.model import ModelConfig
from erllama_py.results import BuildInfo, IsolationInfo

BackendFactory = Callable[[str, ModelConfig], Backend]
SourceFactory = Callable[[str, ModelConfig], ModelSource]


def make_backend(model_id: str, config: ModelConfig, *, home: Path | None = None) -> Backend:
    """The backend that a configuration names, in this process, which has not loaded yet; `model_id` names it in logs.

    What is new to `home` is tried in a child first, where the configuration does not say otherwise. The llama.cpp
    bindings are imported only when one is made.
    """
    return backend_of(model_id, config, home)


def make_source(model_id: str, config: ModelConfig, *, home: Path | None = None) -> ModelSource:
    """As `make_backend`, or what stands for one whose engine is to run in a process of its own."""
    if config.isolation == "process":
        from erllama_py.engine.process.backend import RemoteBackend

        return RemoteBackend(model_id, config, home)
    return backend_of(model_id, config, home)


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


def checked_isolation() -> IsolationInfo:
    """Try whether an engine can have a process of its own; blocks for a second."""
    if sys.platform != "linux":
        return IsolationInfo(problem=f"it needs Linux, and this is {sys.platform}")
    from erllama_py.engine.process.trial import tried

    return tried()
