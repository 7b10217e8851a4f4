"""Every error that a caller of erllama_py can meet, each with its facts in fields.

All derive from `ErllamaError`. Catch a family (`ModelLoadError`, `RequestError`, `ModelUnavailable`) or
one class; read the fields rather than the text. Foreign errors (ctypes, the operating system, a template
engine) are translated at their border and travel as the `__cause__` of one of these.

This file hands them out; each family has a file.
"""

from erllama_py.errors.base import (
    KINDS,
    ErllamaError,
)
from erllama_py.errors.loading import (
    AlreadyLoaded,
    FingerprintMismatch,
    InsufficientMemory,
    ModelFetchError,
    ModelFileNotFound,
    ModelLoadError,
    NotAGGUF,
    QuantMismatch,
    TruncatedGGUF,
    UnsupportedModel,
)
from erllama_py.errors.models import (
    CannotRank,
    EmbeddingOnly,
    ModelCrashed,
    ModelNotLoaded,
    ModelStuck,
    ModelUnavailable,
    QueueFull,
    TokenizerOnly,
)
from erllama_py.errors.options import (
    InvalidOption,
    TierMismatch,
    TierNotFound,
)
from erllama_py.errors.requests import (
    BUSY,
    ChatTemplateError,
    ContextOverflow,
    DeadlinePassed,
    DecodeFailed,
    EmptyPrompt,
    InputTooLong,
    InvalidGrammar,
    InvalidSchema,
    InvalidText,
    NoEmbedding,
    RequestError,
    SamplerFailed,
    SessionBusy,
    SessionEnded,
    StreamMisused,
    TokenOutOfRange,
)
from erllama_py.errors.tiers import (
    CacheUnavailable,
    RowUnavailable,
    TierError,
    TierFailed,
    TierFull,
    TierLocked,
    TierStuck,
    TierTaken,
)
from erllama_py.errors.trees import (
    RestartLimitReached,
    RuntimeClosed,
    RuntimeFailed,
    RuntimeReused,
    SupervisedStuck,
    WrongLoop,
)

__all__ = [
    "BUSY",
    "KINDS",
    "AlreadyLoaded",
    "CacheUnavailable",
    "CannotRank",
    "ChatTemplateError",
    "ContextOverflow",
    "DeadlinePassed",
    "DecodeFailed",
    "EmbeddingOnly",
    "EmptyPrompt",
    "ErllamaError",
    "FingerprintMismatch",
    "InputTooLong",
    "InsufficientMemory",
    "InvalidGrammar",
    "InvalidOption",
    "InvalidSchema",
    "InvalidText",
    "ModelCrashed",
    "ModelFetchError",
    "ModelFileNotFound",
    "ModelLoadError",
    "ModelNotLoaded",
    "ModelStuck",
    "ModelUnavailable",
    "NoEmbedding",
    "NotAGGUF",
    "QuantMismatch",
    "QueueFull",
    "RequestError",
    "RestartLimitReached",
    "RowUnavailable",
    "RuntimeClosed",
    "RuntimeFailed",
    "RuntimeReused",
    "SamplerFailed",
    "SessionBusy",
    "SessionEnded",
    "StreamMisused",
    "SupervisedStuck",
    "TierError",
    "TierFailed",
    "TierFull",
    "TierLocked",
    "TierMismatch",
    "TierNotFound",
    "TierStuck",
    "TierTaken",
    "TokenOutOfRange",
    "TokenizerOnly",
    "TruncatedGGUF",
    "UnsupportedModel",
    "WrongLoop",
]
