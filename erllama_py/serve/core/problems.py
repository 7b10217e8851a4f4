"""Every error as an API can say it: a status, a kind, a sentence, and when to try again.

The kinds are words of our own; each API has a table from them to its own types.
"""

from __future__ import annotations

from typing import Literal

import erllama_py as erllama

Kind = Literal[
    "invalid", "unauthenticated", "forbidden", "not_found", "conflict", "too_large", "rate_limited", "overloaded",
    "unavailable", "internal",
]  # fmt: skip

STATUS: dict[Kind, int] = {
    "invalid": 400, "unauthenticated": 401, "forbidden": 403, "not_found": 404, "conflict": 409, "too_large": 413,
    "rate_limited": 429, "overloaded": 429, "unavailable": 503, "internal": 500,
}  # fmt: skip
RETRY_SECONDS = 1
HIDDEN = "the request failed inside the server; its log says why"


class Problem(Exception):
    """Why a request is not answered, as its client is told. Nothing in it is about the machine."""

    def __init__(
        self, kind: Kind, message: str, *, param: str | None = None, code: str | None = None, status: int | None = None,
        retry_after: int | None = None,
    ) -> None:  # fmt: skip
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.param = param
        """The part of the request that is at fault, such as `messages[1].content`."""
        self.code = code
        """A word for programs, such as `context_length_exceeded`."""
        self.status = STATUS[kind] if status is None else status
        self.retry_after = retry_after
        """Seconds after which it may go well."""


# The first class that fits counts: kind, code, whether the same request may go well a little later, and what is said
# where the error's own sentence speaks to a caller of the library, or may hold a path.
_KNOWN: tuple[tuple[type[erllama.ErllamaError], Kind, str | None, bool, str | None], ...] = (
    (erllama.ContextOverflow, "invalid", "context_length_exceeded", False, None),
    (erllama.InputTooLong, "invalid", "context_length_exceeded", False, None),
    (erllama.InvalidOption, "invalid", None, False, None),
    (erllama.SessionBusy, "conflict", "session_busy", True, "a turn of this session is under way"),
    (erllama.DeadlinePassed, "unavailable", "deadline_passed", True, "the time for this request has passed"),
    (erllama.DecodeFailed, "internal", "decode_failed", False, "the model could not compute this request"),
    (erllama.SamplerFailed, "internal", "sampler_failed", False, "no token could be drawn for this request"),
    (erllama.StreamMisused, "internal", None, False, HIDDEN),
    (
        erllama.OutOfResources,
        "unavailable",
        "out_of_resources",
        True,
        "the server is short of memory or threads",
    ),
    (erllama.RequestError, "invalid", None, False, None),
    (erllama.QueueFull, "overloaded", "queue_full", True, "as many requests wait for this model as it accepts"),
    (erllama.EmbeddingOnly, "invalid", "embedding_only", False, None),
    (erllama.CannotRank, "invalid", "cannot_rank", False, "the model has no head that ranks: give a `method`"),
    (erllama.TokenizerOnly, "invalid", "tokenizer_only", False, None),
    (erllama.ModelNotLoaded, "not_found", "model_not_found", False, "this model is not loaded"),
    (erllama.ModelCrashed, "unavailable", "model_crashed", True, "the model crashed; it is being restarted"),
    (erllama.ModelUnavailable, "unavailable", "model_unavailable", True, "the model is not available now"),
    (erllama.InsufficientMemory, "unavailable", "insufficient_memory", True, "there is not enough memory for this"),
    (erllama.CacheUnavailable, "unavailable", "cache_unavailable", True, "the cache is being restarted"),
    (erllama.RuntimeClosed, "unavailable", "closed", True, "the server is not ready"),
)


def problem_of(error: BaseException) -> Problem:
    """What a client is told of an error. Of one that is nobody's fault but the server's, no detail."""
    if isinstance(error, Problem):
        return error
    for known, kind, code, again, text in _KNOWN:
        if isinstance(error, known):
            param = None
            if isinstance(error, erllama.InvalidOption):
                param = error.option
                text = error.problem + (f"; did you mean {error.nearest!r}?" if error.nearest else "")
            if isinstance(error, erllama.ModelCrashed) and error.gave_up:
                again, text = False, "the model crashed too often and is not restarted any more"
            elif isinstance(error, erllama.ModelCrashed) and error.by_request:
                again, text = False, "the model crashed at this request, several times"
            return Problem(
                kind, text or str(error), param=param, code=code, retry_after=RETRY_SECONDS if again else None
            )
    return Problem("internal", HIDDEN)


def shutting_down() -> Problem:
    """What a request is told that comes too late, or is ended with nothing to show."""
    return Problem("unavailable", "the server is shutting down", code="shutting_down", retry_after=5)


def stopped() -> Problem:
    """What a request is told that its own client has stopped, while there was nothing of its reply. Clients ask again
    after 409 and 503 by themselves, and not after this."""
    return Problem("invalid", "the request was stopped before its reply began", code="request_stopped")
