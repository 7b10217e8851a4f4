"""What is known of models that were pulled from the Hugging Face hub."""

from __future__ import annotations

from erllama_py.results.plain import Result


class PullProgress(Result, frozen=True):
    """How far a download has got."""

    file: str
    """The file of the repository that comes now."""
    done: int
    """Bytes of the model that are there, those of an earlier try among them."""
    total: int
    """Bytes of all files of the model."""


class PulledModel(Result, frozen=True, kw_only=True):
    """A model that was pulled, and lies in the cache of the hub on this machine."""

    reference: str
    """What `model_path` takes, such as `"hf:owner/repo:Q4_K_M"`."""
    path: str
    """Its GGUF file; of a model in several files, the first."""
    files: tuple[str, ...]
    """The paths of all its files in the repository."""
    size: int
    """Bytes of all its files."""
    quant: str | None
    """Its quantisation by the name of its file; `None` where that does not say."""
    revision: str
    """The commit of the repository, 40 hex digits."""
    last_used: float | None = None
    """When it was last read, in seconds since 1970, as exactly as the file system notes that."""
    downloaded: int = 0
    """Bytes that this call has downloaded; 0 where all was there."""


class UnfinishedPull(Result, frozen=True):
    """A file that a download has left which broke off, or which goes on right now."""

    reference: str
    """The repository, as `"hf:owner/repo"`."""
    path: str
    """Where its bytes are."""
    size: int
    """How many have come."""
    changed: float
    """When the last of them came, in seconds since 1970."""
