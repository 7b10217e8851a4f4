"""Every error that a caller of erllama_py can meet, each with its facts in fields.

All derive from `ErllamaError`. Catch a family (`ModelLoadError`, `RequestError`, `ModelUnavailable`) or
one class; read the fields rather than the text. Foreign errors (ctypes, the operating system, a template
engine) are translated at their border and travel as the `__cause__` of one of these.
"""

from __future__ import annotations

from dataclasses import dataclass

from erllama_py.errors.base import KINDS as KINDS
from erllama_py.errors.base import ErllamaError as ErllamaError
from erllama_py.errors.tree import RestartLimitReached as RestartLimitReached
from erllama_py.errors.tree import RuntimeClosed as RuntimeClosed
from erllama_py.errors.tree import RuntimeFailed as RuntimeFailed
from erllama_py.errors.tree import RuntimeReused as RuntimeReused
from erllama_py.errors.tree import SupervisedStuck as SupervisedStuck
from erllama_py.errors.tree import WrongLoop as WrongLoop

# --- options -----------------------------------------------------------------------------------------


@dataclass(eq=False)
class InvalidOption(ErllamaError):
    """An option is unknown, of the wrong type, or has a value that cannot work.

    `option` is the path of the option (`"context_opts.n_ctx"`), `nearest` the closest known name where the
    name itself was not known.
    """

    option: str
    problem: str
    nearest: str | None = None

    def describe(self) -> str:
        hint = f"; did you mean {self.nearest!r}?" if self.nearest else ""
        return f"option {self.option!r}: {self.problem}{hint}"


@dataclass(eq=False)
class TierNotFound(ErllamaError):
    """`tier_srv` names no tier that is running."""

    tier_srv: str
    running: tuple[str, ...]

    def describe(self) -> str:
        return f"no tier is running under the name {self.tier_srv!r}; running: {', '.join(self.running) or 'none'}"


@dataclass(eq=False)
class TierMismatch(ErllamaError):
    """`tier` is not the kind of the tier that `tier_srv` names."""

    tier_srv: str
    asked: str
    running: str

    def describe(self) -> str:
        return f"tier_srv names {self.tier_srv!r}, a tier of the kind {self.running!r}, but tier is {self.asked!r}"


# --- loading -----------------------------------------------------------------------------------------


@dataclass(eq=False)
class AlreadyLoaded(ErllamaError):
    """A model with this id is loaded, or is being loaded right now."""

    model_id: str

    def describe(self) -> str:
        return f"a model with the id {self.model_id!r} is loaded or loading already"


@dataclass(eq=False)
class ModelLoadError(ErllamaError):
    """The model could not be loaded; the subclasses say why where the reason is known."""

    model_path: str
    problem: str

    def describe(self) -> str:
        return f"cannot load {self.model_path}: {self.problem}"


class ModelFileNotFound(ModelLoadError):
    """There is no regular, readable file at `model_path`."""


class NotAGGUF(ModelLoadError):
    """The file at `model_path` is not a GGUF file."""


class TruncatedGGUF(ModelLoadError):
    """The file is shorter than its own header says."""


class UnsupportedModel(ModelLoadError):
    """A GGUF file whose architecture or content this llama.cpp build cannot run."""


@dataclass(eq=False)
class InsufficientMemory(ModelLoadError):
    """Weights and context would not fit into memory. `needed` and `available` are in bytes."""

    needed: int = 0
    available: int = 0


@dataclass(eq=False)
class FingerprintMismatch(ErllamaError):
    """The file at `model_path` does not have the fingerprint that was given. Both are 64 hex digits."""

    model_path: str
    given: str
    found: str

    def describe(self) -> str:
        return f"{self.model_path} has the fingerprint {self.found}, not {self.given}"


@dataclass(eq=False)
class QuantMismatch(ErllamaError):
    """`quant_type` or `quant_bits` was given and the file says otherwise."""

    option: str
    given: str
    found: str

    def describe(self) -> str:
        return f"{self.option} was given as {self.given}, but the file says {self.found}"


# --- tiers -------------------------------------------------------------------------------------------


@dataclass(eq=False)
class TierError(ErllamaError):
    """A family: a tier cannot do what was asked. A request never fails with one: it goes on without the tier."""

    tier: str
    problem: str

    def describe(self) -> str:
        return f"tier {self.tier!r}: {self.problem}"


class TierLocked(TierError):
    """This directory is open already, in another process or in this one; it belongs to one tier at a time."""


class TierFailed(TierError):
    """The store cannot be opened, read or written; the operating system's error is the `__cause__`."""


@dataclass(eq=False)
class TierStuck(TierFailed):
    """The tier's device has not answered for `seconds`. What was asked for is still done where it answers again."""

    seconds: float = 0.0


class TierFull(TierError):
    """The row does not fit into the quota, or onto the device."""


class TierTaken(TierError):
    """A tier of this name runs already, or has failed and is still there."""


@dataclass(eq=False)
class RowUnavailable(TierError):
    """The row is gone or was found to be bad; `key` is its key."""

    key: bytes = b""


@dataclass(eq=False)
class CacheUnavailable(ErllamaError):
    """The cache is restarting, or the runtime is closed. Requests never see it: they go on without the cache."""

    def describe(self) -> str:
        return "the cache is not running"


# --- fetching ----------------------------------------------------------------------------------------


@dataclass(eq=False)
class ModelFetchError(ErllamaError):
    """A model file could not be fetched: no index, no room on the disk, or other bytes than were expected.

    `name` is the short name that was asked for; nothing but whole, checked files is ever kept.
    """

    name: str
    problem: str

    def describe(self) -> str:
        return f"cannot fetch the model {self.name!r}: {self.problem}"


# --- a model that cannot be used -----------------------------------------------------------------------


@dataclass(eq=False)
class ModelUnavailable(ErllamaError):
    """A family: the model that was asked cannot answer."""

    model_id: str

    def describe(self) -> str:
        return f"the model {self.model_id!r} is not available"


class ModelNotLoaded(ModelUnavailable):
    """No model with this id is loaded: it never was, or it was unloaded (open calls get this too)."""

    def describe(self) -> str:
        return f"no model with the id {self.model_id!r} is loaded"


@dataclass(eq=False)
class ModelCrashed(ModelUnavailable):
    """The model ended while it had this request; `__cause__` is what ended it.

    The supervisor brings the model back by itself unless `gave_up` is true: then it has crashed too often
    and stays down until it is unloaded and loaded again.
    """

    problem: str
    gave_up: bool = False

    def describe(self) -> str:
        outlook = "and is not restarted any more" if self.gave_up else "and is being restarted"
        return f"the model {self.model_id!r} crashed ({self.problem}) {outlook}"


class ModelStuck(ModelUnavailable):
    """The model's engine thread did not end in time: its memory stays taken, and its id with it."""

    def describe(self) -> str:
        return f"the engine of {self.model_id!r} does not end; its memory is not free"


@dataclass(eq=False)
class QueueFull(ModelUnavailable):
    """The model has as many requests waiting as it accepts; with `queue_wait` the next one waits for room."""

    waiting: int
    capacity: int

    def describe(self) -> str:
        full = f"the queue of {self.model_id!r} is full, {self.waiting} of {self.capacity} requests wait"
        return f"{full}; queue_wait=True waits for room"


@dataclass(eq=False)
class TokenizerOnly(ModelUnavailable):
    """The model was loaded with `vocab_only` and has no weights to generate with."""

    def describe(self) -> str:
        return f"the model {self.model_id!r} was loaded with vocab_only: it tokenizes, but cannot generate"


# --- one request ---------------------------------------------------------------------------------------


@dataclass(eq=False)
class RequestError(ErllamaError):
    """A family: this one request cannot be served; the model and its other requests go on."""

    problem: str

    def describe(self) -> str:
        return self.problem


class EmptyPrompt(RequestError):
    """The prompt has no tokens."""


class InvalidText(RequestError):
    """Text that has no UTF-8 form (a lone surrogate), or bytes where text was due."""


@dataclass(eq=False)
class TokenOutOfRange(RequestError):
    """A token id that is not in the model's vocabulary of `n_vocab` tokens."""

    token: int = -1
    n_vocab: int = 0


@dataclass(eq=False)
class ContextOverflow(RequestError):
    """The prompt does not leave room for one new token in the context. All counts are in tokens."""

    prompt_tokens: int = 0
    n_ctx: int = 0


class InvalidGrammar(RequestError):
    """The GBNF grammar does not parse, or has no root rule."""


class SamplerFailed(RequestError):
    """No token could be drawn, e.g. because the grammar allows none."""


class DecodeFailed(RequestError):
    """The model could not be run over this request's tokens, while it could over those of others."""


class ChatTemplateError(RequestError):
    """The model has no chat template, or it refused or failed on these messages."""


class StreamMisused(RequestError):
    """A stream was used outside its block, or entered twice."""


BUSY = "a turn is under way; session_wait=True waits for it"


@dataclass(eq=False)
class SessionBusy(RequestError):
    """A turn of this session is under way; with `session_wait` the next one waits for it."""

    session_id: str = ""

    def describe(self) -> str:
        return f"session {self.session_id!r}: {self.problem}"


@dataclass(eq=False)
class SessionEnded(RequestError):
    """A turn of a `Session` that was ended."""

    session_id: str = ""
