"""Every error that a caller of erllama_py can meet, each with its facts in fields.

All derive from `ErllamaError`. Catch a family (`ModelLoadError`, `RequestError`, `ModelUnavailable`) or
one class; read the fields rather than the text. Foreign errors (ctypes, the operating system, a template
engine) are translated at their border and travel as the `__cause__` of one of these.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, dataclass_transform

# Each error of this library by the name of its class, for those that come from another process.
KINDS: dict[str, type[ErllamaError]] = {}


@dataclass_transform(eq_default=False)
@dataclass(eq=False)
class ErllamaError(Exception):
    """The root of all errors of this library."""

    text = ""  # `describe`, with the fields filled in

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        dataclass(eq=False)(cls)
        KINDS.setdefault(cls.__name__, cls)

    def __post_init__(self) -> None:
        # `args` holds the fields in order, so that errors can be pickled and copied.
        self.args = tuple(getattr(self, field.name) for field in fields(self))

    def __str__(self) -> str:
        return str(self.describe())  # a field may be no text, where a backend has filled it

    def describe(self) -> str:
        """One sentence with the facts."""
        return self.text.format_map(vars(self)) if self.text else type(self).__name__


KINDS[ErllamaError.__name__] = ErllamaError


# --- options -----------------------------------------------------------------------------------------


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


class TierNotFound(ErllamaError):
    """`tier_srv` names no tier that is running."""

    tier_srv: str
    running: tuple[str, ...]

    def describe(self) -> str:
        return f"no tier is running under the name {self.tier_srv!r}; running: {', '.join(self.running) or 'none'}"


class TierMismatch(ErllamaError):
    """`tier` is not the kind of the tier that `tier_srv` names."""

    tier_srv: str
    asked: str
    running: str

    text = "tier_srv names {tier_srv!r}, a tier of the kind {running!r}, but tier is {asked!r}"


# --- loading -----------------------------------------------------------------------------------------


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
    """The file at `model_path` is not a GGUF file."""


class TruncatedGGUF(ModelLoadError):
    """The file is shorter than its own header says."""


class UnsupportedModel(ModelLoadError):
    """A GGUF file whose architecture or content this llama.cpp build cannot run."""


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


# --- tiers -------------------------------------------------------------------------------------------


class TierError(ErllamaError):
    """A family: a tier cannot do what was asked. A request never fails with one: it goes on without the tier."""

    tier: str
    problem: str

    text = "tier {tier!r}: {problem}"


class TierLocked(TierError):
    """This directory is open already, in another process or in this one; it belongs to one tier at a time."""


class TierFailed(TierError):
    """The store cannot be opened, read or written; the operating system's error is the `__cause__`."""


class TierStuck(TierFailed):
    """The tier's device has not answered for `seconds`. What was asked for is still done once it answers again."""

    seconds: float = 0.0


class TierFull(TierError):
    """The row does not fit into the quota, or onto the device."""


class TierTaken(TierError):
    """A tier of this name runs already, or has failed and is still there."""


class RowUnavailable(TierError):
    """The row is gone or was found to be bad; `key` is its key."""

    key: bytes = b""


class CacheUnavailable(ErllamaError):
    """The cache is restarting, or the runtime is closed. Requests never see it: they go on without the cache."""

    text = "the cache is not running"


# --- fetching ----------------------------------------------------------------------------------------


class ModelFetchError(ErllamaError):
    """A model file, asked for by its short `name`, could not be fetched: no index, no room, or other bytes than
    expected. Nothing but whole, checked files is ever kept."""

    name: str
    problem: str

    text = "cannot fetch the model {name!r}: {problem}"


# --- a model that cannot be used -----------------------------------------------------------------------


class ModelUnavailable(ErllamaError):
    """A family: the model that was asked cannot answer."""

    model_id: str

    text = "the model {model_id!r} is not available"


class ModelNotLoaded(ModelUnavailable):
    """No model with this id is loaded: it never was, or it was unloaded (open calls get this too)."""

    text = "no model with the id {model_id!r} is loaded"


class ModelCrashed(ModelUnavailable):
    """The model ended while it had this request; `__cause__` is what ended it.

    The supervisor restarts the model unless `gave_up` is true: then it has crashed too often
    and stays down until it is unloaded and loaded again.
    """

    problem: str
    gave_up: bool = False

    def describe(self) -> str:
        outlook = "and is not restarted any more" if self.gave_up else "and is being restarted"
        return f"the model {self.model_id!r} crashed ({self.problem}) {outlook}"


class ModelStuck(ModelUnavailable):
    """The model's engine thread did not end in time: its memory stays taken, and its id with it."""

    text = "the engine of {model_id!r} does not end; its memory is not free"


class QueueFull(ModelUnavailable):
    """The model has as many requests waiting as it accepts; with `queue_wait` the next one waits for room."""

    waiting: int
    capacity: int

    text = "the queue of {model_id!r} is full, {waiting} of {capacity} requests wait; queue_wait=True waits for room"


class TokenizerOnly(ModelUnavailable):
    """The model was loaded with `vocab_only` and has no weights to generate with."""

    text = "the model {model_id!r} was loaded with vocab_only: it tokenizes, but cannot generate"


# --- one request ---------------------------------------------------------------------------------------


class RequestError(ErllamaError):
    """A family: this one request cannot be served; the model and its other requests go on."""

    problem: str

    text = "{problem}"


class EmptyPrompt(RequestError):
    """The prompt has no tokens."""


class InvalidText(RequestError):
    """Text that has no UTF-8 form (a lone surrogate), or bytes where text was due."""


class TokenOutOfRange(RequestError):
    """A token id that is not in the model's vocabulary of `n_vocab` tokens."""

    token: int = -1
    n_vocab: int = 0


class ContextOverflow(RequestError):
    """The prompt does not leave room for one new token in the context. All counts are in tokens."""

    prompt_tokens: int = 0
    n_ctx: int = 0


class InvalidGrammar(RequestError):
    """What the reply is to follow cannot be: it does not parse, no reply can follow it, or it is beyond a limit."""


@dataclass(eq=False)
class InvalidSchema(InvalidGrammar):
    """A JSON schema that no grammar can hold: `keyword` is what it fails on, `path` where, as a JSON pointer."""

    keyword: str = ""
    path: str = "#"


class SamplerFailed(RequestError):
    """No token could be drawn, e.g. because the grammar allows none."""


class DecodeFailed(RequestError):
    """The model could not be run over this request's tokens, while it could over those of others."""


class ChatTemplateError(RequestError):
    """The model has no chat template, or it refused or failed on these messages."""


class StreamMisused(RequestError):
    """A stream was used outside its block, or entered twice."""


BUSY = "a turn is under way; session_wait=True waits for it"


class SessionBusy(RequestError):
    """A turn of this session is under way; with `session_wait` the next one waits for it."""

    session_id: str = ""

    text = "session {session_id!r}: {problem}"


class SessionEnded(RequestError):
    """A turn of a `Session` that was ended."""

    session_id: str = ""


# --- a runtime and its tree ----------------------------------------------------------------------


class RuntimeClosed(ErllamaError):
    """The runtime is closed, closing, or was never opened."""

    text = "the runtime is not open: its calls belong inside `async with Runtime() as runtime`"


class WrongLoop(ErllamaError):
    """A runtime, or something of it, was used outside the event loop that it was opened in.

    `home` says where it lives, `here` where it was used. From another thread, hand the call over with
    `asyncio.run_coroutine_threadsafe` or `anyio.from_thread.run`; for another `asyncio.run`, open another runtime.
    """

    home: str
    here: str

    def describe(self) -> str:
        advice = "hand the call over with asyncio.run_coroutine_threadsafe, or open a runtime in each asyncio.run"
        return f"the runtime lives in {self.home}, and was used in {self.here}: {advice}"


class RuntimeReused(ErllamaError):
    """A runtime was entered a second time; make a new one."""

    text = "a runtime can be entered once; make a new one"


class RuntimeFailed(ErllamaError):
    """The supervision tree gave up; `__cause__` is the failure that restarts did not cure."""

    problem: str

    text = "the supervision tree gave up: {problem}"


class RestartLimitReached(ErllamaError):
    """A supervised function ended again after `restarts` restarts within `period` seconds, and was given up.

    `__cause__` is its last error. `returned`: it raised nothing, but returned, and was restarted for being permanent.
    """

    name: str
    restarts: int
    period: float
    returned: bool = False

    def describe(self) -> str:
        after = f"after {self.restarts} restarts within {self.period:g} s"
        if self.returned:
            return f'{self.name!r} returned {after}; under restart="permanent" returning is a reason to restart'
        return f"{self.name!r} failed {after}: {self.__cause__!r}"


class SupervisedStuck(ErllamaError):
    """A supervised function did not end within `seconds` of being stopped; it runs on, and stays in the tree."""

    name: str
    seconds: float

    text = "{name!r} did not end within {seconds:g} s of being stopped, and still runs"
