"""Errors of models on the Hugging Face hub: why one is not there to be loaded. `model_path` is the reference."""

from __future__ import annotations

from erllama_py.errors.base import ErllamaError
from erllama_py.errors.loading import ModelLoadError


class PullError(ModelLoadError):
    """The model could not be had from the hub; the subclasses say why where the reason is known. What has come so far
    is kept, and the next try goes on there."""

    text = "cannot pull {model_path}: {problem}"


class NotOnHub(PullError):
    """There is no such repository, revision, quantisation or file. `available` are the references that there are
    instead, as `model_path` takes them."""

    available: tuple[str, ...] = ()


class PullDenied(PullError):
    """The repository is gated or private, and there is no token, or one that may not read it."""


class HubUnreachable(PullError):
    """The model is not there, and the hub cannot be asked: no network, `HF_HUB_OFFLINE`, or a hub that has no time."""


class ChecksumMismatch(PullError):
    """A file that came is not the one that the hub lists: its checksum, 64 hex digits, is `found`. It was removed."""

    file: str
    expected: str
    found: str


class NoRoomToPull(PullError):
    """The disk has no room for the model. `needed` and `available` are in bytes."""

    needed: int = 0
    available: int = 0


class NotPulled(PullError):
    """The model is not on this machine, and the hub was not to be asked, or it was to be removed. `available` are the
    references of that repository that are."""

    available: tuple[str, ...] = ()

    text = "{model_path}: {problem}"


class ModelInUse(ErllamaError):
    """A pulled model cannot be removed: the processes `pids` have it mapped into their memory, and its bytes would not
    be free before they end."""

    reference: str
    pids: tuple[int, ...]

    text = "cannot remove {reference}: processes have it in their memory: {pids}"

    def describe(self) -> str:
        return self.text.format(reference=self.reference, pids=", ".join(map(str, self.pids)))
