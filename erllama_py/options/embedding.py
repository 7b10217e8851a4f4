"""The options of `embed` and `rerank`, checked once, at the door."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from msgspec import Meta

from erllama_py.options.check import Count, Deadline, OnCrash, Options, check_utf8, convert
from erllama_py.options.model import Salt
from erllama_py.options.names import given_at


class InputOptions(Options, frozen=True):
    """What `embed` and `rerank` have in common."""

    truncate: bool | Literal["start", "end"] = False
    """What becomes of an input that the model cannot take whole: False refuses it with `InputTooLong`; `"end"`, or
    True, cuts off its end; `"start"` its beginning. Of a pair that is ranked, the document is cut."""
    deadline: Deadline | None = None
    """Seconds from the call, after which it raises `DeadlinePassed`."""
    on_crash: OnCrash = "continue"
    """What becomes of it when what computes it crashes: `"continue"`, it is computed again once that is back; `"fail"`,
    it raises `ModelCrashed`. One that crashes it again and again fails too."""


@given_at("it is an option of `embed`")
class EmbedOptions(InputOptions, frozen=True):
    """What `embed` takes beside its inputs."""

    pooling: Literal["mean", "cls", "last", "none"] | None = None
    """How the vectors of tokens become that of their text: their mean, the first, the last, or not at all (`"none"`: an
    array of vectors for each input). `None`: as the model's file says, else the mean."""
    normalize: bool = True
    """Scale each vector to length 1, so that a dot product is a cosine."""
    dimensions: Count | None = None
    """Keep the first so many numbers of each vector, before it is scaled: for models that were trained for it
    (Matryoshka)."""


@given_at("it is an option of `rerank`")
class RerankOptions(InputOptions, frozen=True):
    """What `rerank` takes beside the query and the documents."""

    method: Literal["model", "embeddings", "score"] | None = None
    """What scores a document: `"model"`, the model's own head; `"embeddings"`, the cosine of its vector and the
    query's; `"score"`, how likely the query is after it, as log-probability of a token. `None`: the model's head;
    without one, an error that tells of the others."""
    top_n: Count | None = None
    """Give the best so many documents; `None`: all."""
    cache_salt: Salt | None = None
    """In place of the model's `cache_salt`, for this call: `"score"` saves what it computes of a document."""
    priority: Annotated[int, Meta(ge=-1000, le=1000)] = 0
    """Of the scores of `"score"`: higher goes first; among equals, the one that came first."""


def parse_embed_options(options: Mapping[str, object]) -> EmbedOptions:
    """Check the options of one `embed`. Raises `InvalidOption`."""
    return convert(options, EmbedOptions)


def parse_rerank_options(options: Mapping[str, object]) -> RerankOptions:
    """Check the options of one `rerank`. Raises `InvalidOption`."""
    checked = convert(options, RerankOptions)
    if checked.cache_salt is not None:
        check_utf8("cache_salt", checked.cache_salt)
    return checked
