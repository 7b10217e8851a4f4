"""Errors of loads: what is wrong with a file, or with what was said of it; and of fetching one."""

from __future__ import annotations

from erllama_py.errors.base import ErllamaError


class AlreadyLoaded(ErllamaError):
    """A model with this id is loaded, or is being loaded right now."""

    model_id: str

    text = "a model with the id {model_id!r} is loaded or loading already"


class ModelLoadError(ErllamaError):
    """The model could not be loaded; the subclasses say why where the reason is known."""

    model_path: str
    problem: str

    text = "cannot load {model_path}: {problem}"


class ModelFileNotFound(ModelLoadError):
    """There is no regular, readable file at `model_path`."""


class NotAGGUF(ModelLoadError):
    """The file at `model_path` is not a GGUF file, or one whose header contradicts itself."""


class TruncatedGGUF(ModelLoadError):
    """The file is shorter than its own header says."""


class UnsupportedModel(ModelLoadError):
    """A GGUF file whose architecture or content this llama.cpp build cannot run."""


class UnusableBuild(ModelLoadError):
    """The build of llama.cpp that is installed does not work on this CPU: a tiny model, tried in a process of its own,
    has ended that process by `signal` ("SIGILL"), or came to wrong numbers, with `signal` None. `problem` has what to
    install instead."""

    signal: str | None = None


class InsufficientMemory(ModelLoadError):
    """Weights and context would not fit into memory. `needed` and `available` are in bytes."""

    needed: int = 0
    available: int = 0


class FingerprintMismatch(ErllamaError):
    """The file at `model_path` does not have the fingerprint that was given. Both are 64 hex digits."""

    model_path: str
    given: str
    found: str

    text = "{model_path} has the fingerprint {found}, not {given}"


class QuantMismatch(ErllamaError):
    """`quant_type` or `quant_bits` was given and the file says otherwise."""

    option: str
    given: str
    found: str

    text = "{option} was given as {given}, but the file says {found}"


class ModelFetchError(ErllamaError):
    """A model file, asked for by its short `name`, could not be fetched: no index, no room, or other bytes than
    expected. Nothing but whole, checked files is ever kept."""

    name: str
    problem: str

    text = "cannot fetch the model {name!r}: {problem}"
