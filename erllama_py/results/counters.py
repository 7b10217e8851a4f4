"""What a model has done, and what it holds now, in numbers: what `Model.counters` gives back."""

from __future__ import annotations

from erllama_py.results.completion import CacheHitKind, FinishReason
from erllama_py.results.plain import Result


class ModelCounters(Result, frozen=True, kw_only=True):
    """What one load of a model has done, and what it does now.

    Counts begin at 0 with the load and only grow, over crashes and restarts of the model; a new load of the same id
    begins again. What is computed for reproducible requests is counted in. Of embeddings and rankings there are only
    the numbers that say so.
    """

    requests: int
    """Requests that have reached it; of several replies to one prompt each is one. What is refused before, a wrong
    option or a prompt that is too long, is not counted. They are: finished, failed, refused, waiting, parked or
    active."""
    finished: dict[FinishReason, int]
    """Requests that were answered, by their `finish_reason`; those that were cancelled are among them."""
    failed: int
    """Requests that ended with an error: one of their own, or a crash of the model."""
    refused: int
    """Requests that got `QueueFull` or `SessionBusy`."""
    continued: int
    """How often a request, or a call for embeddings, went on after a crash of what computed it."""
    prompt_tokens: int
    """Tokens of the prompts of finished requests, whether they were computed or not."""
    reused_tokens: int
    """Of these, tokens that were in cells already or were read from the cache."""
    hits: dict[CacheHitKind, int]
    """Finished requests that had a sequence, by what they began with; `"cold"`: with nothing."""
    restored_bytes: int
    """Bytes of rows that were put back for finished requests."""
    computed_tokens: int
    """Tokens of prompts that were computed, counted as it happens."""
    generated_tokens: int
    """Tokens of replies, counted as they are drawn."""
    decodes: int
    """Decodes that were done: ticks of its engine in which it computed."""
    decoded_tokens: int
    """Tokens in these decodes, of prompts and of replies, of all sequences."""
    decode_seconds: float
    """Seconds that decodes took, failed and stopped ones too."""
    parks: int
    """How often a request was taken out of its cells for others."""
    saved_rows: int
    """Ranges of cells that were copied out and handed to the cache, which may still drop one: see `lost_rows`."""
    saved_bytes: int
    """Bytes of these."""
    skipped_rows: int
    """Ranges that were due and not copied out, because no buffer was free, their cells were gone, or copying them would
    have taken longer than it is worth: see `ModelInfo.save_limits`."""
    lost_rows: int
    """Rows that were handed over and not stored, because there was no room, or their tier failed."""
    embeddings: int
    """Calls of `embed`, and of `rerank` where a head ranks, that were answered."""
    embeddings_failed: int
    """Such calls that failed while they were computed."""
    embedding_tokens: int
    """Tokens of the inputs of those that were answered."""
    loads: int
    """How often it was loaded: once, and once more after each crash that it came back from."""
    load_seconds: float
    """Seconds that all these loads took."""
    restarts: int
    """How often its supervisor has begun it again after a crash."""

    waiting: int
    """Now: requests that have not begun."""
    parked: int
    """Now: requests that have begun and have no sequence."""
    active: int
    """Now: requests that have a sequence."""
    embedding: int
    """Now: calls of `embed` and `rerank` that are not answered."""
    sequences: int
    """Sequences that its contexts have; 0 while it is not up, as with all that follow."""
    sequences_kept: int
    """Now: sequences without a request whose cells are kept, for the next one."""
    cells: int
    """KV cells that its contexts have. A recurrent state counts as if it had cells for the whole context."""
    cells_in_use: int
    """Now: cells that are promised to requests or hold something, shared ones counted once."""
    cells_kept: int
    """Now: of these, cells that no request uses."""

    @property
    def tokens_per_decode(self) -> float:
        """How many tokens a decode has had on average; 0.0 before the first."""
        return self.decoded_tokens / self.decodes if self.decodes else 0.0
