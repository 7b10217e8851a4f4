"""Every series of `/metrics`: its name, type, labels, and what it is. The operations guide lists them."""

from __future__ import annotations

from typing import Literal

import msgspec


class Series(msgspec.Struct, frozen=True):
    """One of them. The name of a counter is without the `_total` that it is given; units are seconds, bytes, tokens."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()

    @property
    def shown(self) -> str:
        """Its name on the page."""
        return f"{self.name}_total" if self.kind == "counter" else self.name


def _counter(name: str, text: str, *labels: str) -> Series:
    return Series(f"erllama_{name}", "counter", text, labels)


def _gauge(name: str, text: str, *labels: str) -> Series:
    return Series(f"erllama_{name}", "gauge", text, labels)


def _histogram(name: str, text: str, *labels: str) -> Series:
    return Series(f"erllama_{name}", "histogram", text, labels)


# --- requests over HTTP --------------------------------------------------------------------------------------

REQUESTS = _counter("http_requests", "Requests that are over; status 499: the client left.", "api", "route", "status")
IN_PROGRESS = _gauge("http_requests_in_progress", "Requests that are open, streams among them.", "api", "route")
DURATION = _histogram("http_request_duration_seconds", "From a request to its last byte.", "api", "route")
OPEN_LIMIT = _gauge("http_requests_limit", "Requests that may be open at a time; the next one gets 429.")
DRAINING = _gauge("http_draining", "1 once the server takes no new requests because it shuts down.")
FIRST = _histogram("time_to_first_token_seconds", "From a request to the first piece of its reply.", "model")
GAP = _histogram("inter_token_seconds", "Between two pieces of a stream, as its connection gets them.", "model")
REPLIES = _counter("replies", "Replies that were sent whole.", "api", "model", "finish_reason")
PROMPT = _counter("http_prompt_tokens", "Tokens of the prompts of these.", "api", "model")
CACHED = _counter("http_cached_tokens", "Of these, tokens that were not computed.", "api", "model")
GENERATED = _counter("http_generated_tokens", "Tokens of these replies.", "api", "model")
LASTING = _gauge("http_lasting_streams", "Streams that can be taken up again.")
LASTING_BYTES = _gauge("http_lasting_stream_bytes", "What is kept of these.")
RESUMED = _counter("http_streams_resumed", "Streams that were taken up again.", "api")
EXPIRED = _counter("http_streams_expired", "Streams whose client did not come back for the rest in time.", "api")

BATCHES = _gauge("batches_open", "Batches that are not over.")
BATCH_LINES = _counter("batch_lines", "Lines of batches that are answered; failed: with an error.", "result")

# --- models: fields of `ModelCounters` -----------------------------------------------------------------------

MODEL: dict[str, Series] = {
    "requests": _counter("model_requests", "Requests that reached the model, from everywhere.", "model"),
    "finished": _counter("model_requests_finished", "Requests that were answered.", "model", "finish_reason"),
    "failed": _counter("model_requests_failed", "Requests that ended with an error.", "model"),
    "refused": _counter("model_requests_refused", "Requests refused: queue full, session busy.", "model"),
    "continued": _counter("model_requests_continued", "Times that a request went on after a crash.", "model"),
    "prompt_tokens": _counter("model_prompt_tokens", "Tokens of the prompts of finished requests.", "model"),
    "reused_tokens": _counter("model_reused_tokens", "Of these, tokens that were not computed.", "model"),
    "computed_tokens": _counter("model_computed_tokens", "Tokens of prompts that were computed.", "model"),
    "generated_tokens": _counter("model_generated_tokens", "Tokens of replies, as they are drawn.", "model"),
    "hits": _counter("model_hits", "Finished requests by what they began with; cold: nothing.", "model", "kind"),
    "restored_bytes": _counter("model_restored_bytes", "Bytes of rows put back into cells.", "model"),
    "decodes": _counter("model_ticks", "Decodes that were done.", "model"),
    "decoded_tokens": _counter("model_tick_tokens", "Tokens in these decodes, of all sequences.", "model"),
    "decode_seconds": _counter("model_tick_seconds", "Seconds in decodes.", "model"),
    "parks": _counter("model_parks", "Requests taken out of their cells for others.", "model"),
    "saved_rows": _counter("model_saved_rows", "Ranges of cells copied out to be saved.", "model"),
    "saved_bytes": _counter("model_saved_bytes", "Bytes of these.", "model"),
    "skipped_rows": _counter("model_skipped_rows", "Ranges that were due and not copied out.", "model"),
    "lost_rows": _counter("model_lost_rows", "Rows copied out and not stored.", "model"),
    "embeddings": _counter("model_embeddings", "Calls of embed and rerank that were answered.", "model"),
    "embeddings_failed": _counter("model_embeddings_failed", "Such calls that failed.", "model"),
    "embedding_tokens": _counter("model_embedding_tokens", "Tokens of those that were answered.", "model"),
    "loads": _counter("model_loads", "Loads, those after a crash among them.", "model"),
    "load_seconds": _counter("model_load_seconds", "Seconds of these.", "model"),
    "restarts": _counter("model_restarts", "How often its supervisor has begun it again after a crash.", "model"),
    "waiting": _gauge("model_requests_waiting", "Requests that have not begun: the queue.", "model"),
    "parked": _gauge("model_requests_parked", "Requests that have begun and have no sequence.", "model"),
    "active": _gauge("model_requests_active", "Requests that have a sequence.", "model"),
    "embedding": _gauge("model_embeddings_open", "Calls of embed and rerank that are not answered.", "model"),
    "sequences": _gauge("model_sequences", "Sequences that its contexts have.", "model"),
    "sequences_kept": _gauge("model_sequences_kept", "Sequences kept for a next request.", "model"),
    "cells": _gauge("model_kv_cells", "KV cells that its contexts have.", "model"),
    "cells_in_use": _gauge("model_kv_cells_in_use", "KV cells that hold something or are promised.", "model"),
    "cells_kept": _gauge("model_kv_cells_kept", "Of these, cells that no request uses.", "model"),
}
PHASE = _gauge("model_phase", "1 for what the model does now.", "model", "phase")
WEIGHTS = _gauge("model_weights_bytes", "Bytes of its weights.", "model")
MEMORY = _gauge("model_memory_bytes", "Estimated bytes of weights and KV cells together.", "model")
SERVED = _gauge("served_model", "1 for where a model stands, loaded or not.", "model", "state")
SERVED_BYTES = _gauge("served_model_bytes", "Bytes that it takes while it is loaded, as estimated.", "model")
SERVED_OPEN = _gauge("served_model_requests", "Requests over HTTP that have it.", "model")
SERVED_WAITING = _gauge("served_model_requests_waiting", "Requests that wait until it is loaded.", "model")
SERVED_LOADS = _counter("served_model_loads", "Loads, by how they ended: loaded, failed.", "model", "result")
SERVED_UNLOADS = _counter("served_model_unloads", "Unloads, by why; memory: a swap, for another model.", "model", "why")
BUDGET = _gauge("memory_budget_bytes", "What models, tiers in memory and buffers may take together.")
BUDGET_RESERVED = _gauge("memory_reserved_bytes", "Of this, what tiers in memory and buffers may take.")
BUDGET_USED = _gauge("memory_models_bytes", "What models take of it now.")
MODELS = _gauge("models_loaded", "Models that are loaded, crashed ones among them.")

# --- the cache: kinds of its counters ------------------------------------------------------------------------

CACHE_UP = _gauge("cache_up", "0 while the cache restarts; its counters begin at 0 then.")
CACHE: dict[str, Series] = {
    "hits": _counter("cache_hits", "Requests that began with something cached.", "kind"),
    "hits.tier": _counter("cache_tier_hits", "Hits by the tier of their last row.", "tier"),
    "misses": _counter("cache_misses", "Requests that began with nothing, by why.", "reason"),
    "turns": _counter("cache_turns", "Conversations with replies, by whether one was recognised.", "result"),
    "saves": _counter("cache_saved_rows", "Rows stored, by what for; duplicate: they were there.", "reason"),
    "saves.bytes": _counter("cache_saved_bytes", "Bytes stored.", "tier"),
    "saves.dropped": _counter("cache_dropped_rows", "Rows that were not saved, by why.", "reason"),
    "keeps": _counter("cache_kept_rows", "Rows to be kept for a time: rows, renewed, refused for room.", "result"),
    "healed": _counter("cache_healed_rows", "Rows whose hits or times of use could not be.", "kind"),
    "evicted": _counter("cache_evicted_rows", "Rows evicted.", "tier"),
    "evicted_bytes": _counter("cache_evicted_bytes", "Bytes of these.", "tier"),
    "replaced": _counter("cache_replaced_rows", "Rows whose place a later row of their chat has taken.", "tier"),
    "bad": _counter("cache_bad_rows", "Damaged or lost rows.", "kind"),
    "seconds": _counter("cache_work_seconds", "Seconds looking up, copying out, putting back.", "work"),
    "restored.rows": _counter("cache_restored_rows", "Rows put back into cells."),
    "restored.tokens": _counter("cache_restored_tokens", "Tokens of these."),
    "restored.bytes": _counter("cache_restored_bytes", "Bytes of these."),
}
TIER_QUOTA = _gauge("tier_quota_bytes", "What the rows of a tier may take.", "tier", "kind")
TIER_USED = _gauge("tier_used_bytes", "What they take.", "tier", "kind")
TIER_ROWS = _gauge("tier_rows", "How many there are.", "tier", "kind")
TIER_OPENED = _gauge("tier_opened_ratio", "How much of a tier was scanned since its start.", "tier", "kind")
TIER_WRITABLE = _gauge("tier_writable", "0 while a tier cannot be written.", "tier", "kind")

# --- the rest ------------------------------------------------------------------------------------------------

RESTARTS = _counter("supervised_restarts", "Restarts of each part of the supervision tree.", "supervisor", "child")
UP = _gauge("supervised_up", "Whether that part runs.", "supervisor", "child")
PRESSURE_USED = _gauge("pressure_used_bytes", "Memory in use, as the pressure monitor read it last.")
PRESSURE_TOTAL = _gauge("pressure_total_bytes", "Memory in total, as it read it.")
PRESSURE_EVICTIONS = _counter("pressure_evictions", "Evictions because memory was short.")
PRESSURE_BYTES = _counter("pressure_evicted_bytes", "Bytes that these freed.")
INFO = _gauge("build_info", "1; the version of erllama_py.", "version")

ALL: tuple[Series, ...] = (
    INFO, REQUESTS, IN_PROGRESS, DURATION, OPEN_LIMIT, DRAINING, FIRST, GAP, REPLIES, PROMPT, CACHED, GENERATED,
    BATCHES, BATCH_LINES,
    LASTING, LASTING_BYTES, RESUMED, EXPIRED,
    SERVED, SERVED_BYTES, SERVED_OPEN, SERVED_WAITING, SERVED_LOADS, SERVED_UNLOADS, BUDGET, BUDGET_RESERVED,
    BUDGET_USED, MODELS, PHASE, WEIGHTS, MEMORY, *MODEL.values(), CACHE_UP, *CACHE.values(), TIER_QUOTA, TIER_USED,
    TIER_ROWS, TIER_OPENED, TIER_WRITABLE, RESTARTS, UP, PRESSURE_USED, PRESSURE_TOTAL, PRESSURE_EVICTIONS,
    PRESSURE_BYTES,
)  # fmt: skip
