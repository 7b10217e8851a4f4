"""Errors of tiers and the cache."""

from __future__ import annotations

from erllama_py.errors.base import ErllamaError


class TierError(ErllamaError):
    """A family: a tier cannot do what was asked. A request never fails with one: it goes on without the tier."""

    tier: str
    problem: str

    text = "tier {tier!r}: {problem}"


class TierLocked(TierError):
    """This directory is open already, in another process or in this one; it belongs to one tier at a time.

    `holder` is the id of that process, as far as it is known.
    """

    holder: int | None = None


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
    """The row is gone or was found to be bad; `key` is its key, `kind` is `"gone"` or that of a `FileProblem`."""

    key: bytes = b""
    kind: str = "gone"


class CacheUnavailable(ErllamaError):
    """The cache is restarting, or the runtime is closed. Requests never see it: they go on without the cache."""

    text = "the cache is not running"
