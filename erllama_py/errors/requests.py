"""Errors of one request, which alone fails."""

from __future__ import annotations

from dataclasses import dataclass

from erllama_py.errors.base import ErllamaError


class RequestError(ErllamaError):
    """A family: this one request cannot be served; the model and its other requests go on."""

    problem: str

    text = "{problem}"


class EmptyPrompt(RequestError):
    """The prompt has no tokens."""


class InvalidText(RequestError):
    """Text that has no UTF-8 form (a lone surrogate), or that the model's tokenizer does not stand: with some, 100,000
    letters, signs or spaces in a row. Or bytes where text was due."""


class TokenOutOfRange(RequestError):
    """A token id that is not in the model's vocabulary of `n_vocab` tokens."""

    token: int = -1
    n_vocab: int = 0


class ContextOverflow(RequestError):
    """The prompt does not leave room for one new token in the context. All counts are in tokens."""

    prompt_tokens: int = 0
    n_ctx: int = 0


class DeadlinePassed(RequestError):
    """The `deadline` of a call whose answer cannot be partial has passed; its requests are cancelled."""

    seconds: float = 0.0


class InputTooLong(RequestError):
    """An input of `embed` or `rerank` that the model cannot take whole: `index` says which; `truncate` cuts it.

    `tokens` and `limit` are counts of tokens.
    """

    index: int = 0
    tokens: int = 0
    limit: int = 0


class NoEmbedding(RequestError):
    """The model's output for input `index` is not a number."""

    index: int = 0


class InvalidGrammar(RequestError):
    """What the reply is to follow cannot be: it does not parse, no reply can follow it, or it is beyond a limit."""


@dataclass(eq=False)
class InvalidSchema(InvalidGrammar):
    """A JSON schema that no grammar can hold: `keyword` is what it fails on, `path` where, as a JSON pointer; `tool` is
    the name of the tool whose schema it is, if it is one's."""

    keyword: str = ""
    path: str = "#"
    tool: str = ""


class SamplerFailed(RequestError):
    """No token could be drawn, e.g. because the grammar allows none."""


class DecodeFailed(RequestError):
    """The model could not be run over this request's tokens, while it could over those of others."""


class ChatTemplateError(RequestError):
    """The model has no chat template, or it refused or failed on these messages."""


class OutOfResources(RequestError):
    """The system had no memory, file descriptor or thread left that this request needs; it may go well a little later.
    `__cause__` is what the system said."""


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
