"""What tests of an application need beside the public names: models that say what a test wants, the types of a backend.

    script = Script({"weather": "Sunny.", "": "I do not know."})
    async with Runtime(backend_factory=script.backend) as runtime:
        model = await runtime.load_model("m", {"backend": "stub"})

A backend factory is called with the id and the configuration of each model when it is loaded, loaded again or begins a
second context, and returns a `Backend` that has not loaded yet. `make_backend` is the one that a runtime has by itself.
"""

from erllama_py.engine import BackendFactory, make_backend
from erllama_py.engine.backend import (
    Backend,
    BackendFailure,
    CannotCapture,
    DecodeStatus,
    FileFacts,
    Likeliest,
    LoadCancelled,
    ModelFacts,
    Sampler,
    Slice,
    Vocabulary,
)
from erllama_py.engine.stub import StubBackend
from erllama_py.engine.stub_script import Reply, Script

__all__ = [
    "Backend",
    "BackendFactory",
    "BackendFailure",
    "CannotCapture",
    "DecodeStatus",
    "FileFacts",
    "Likeliest",
    "LoadCancelled",
    "ModelFacts",
    "Reply",
    "Sampler",
    "Script",
    "Slice",
    "StubBackend",
    "Vocabulary",
    "make_backend",
]
