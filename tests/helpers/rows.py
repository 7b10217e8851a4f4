"""Rows without bytes, for the cache's decisions: descriptions of spans of made-up conversations."""

from __future__ import annotations

from collections.abc import Sequence

from erllama_py.cache.keys import TOKEN_BYTES, Identity, pack_tokens, prefix_keys
from erllama_py.tiers.messages import RowMeta, SaveReason, StoredRow

IDENTITY = Identity(b"f" * 32, 4, b"c" * 32)


def meta(
    tokens: Sequence[int], start: int, end: int, *, identity: Identity = IDENTITY, build: str = "b1",
    payload_bytes: int = 1000, prefill_seconds: float = 1.0, reason: SaveReason = "cold",
) -> RowMeta:  # fmt: skip
    """The row that holds positions `[start, end)` of `tokens`."""
    packed = pack_tokens(tokens)
    parent, key = prefix_keys(identity, packed, (start, end))
    return RowMeta(
        key=key, parent=parent, start=start, end=end, tokens=packed[TOKEN_BYTES * start : TOKEN_BYTES * end],
        fingerprint=identity.fingerprint, quant_bits=identity.quant_bits, ctx_params_hash=identity.ctx_params_hash,
        build=build, payload_bytes=payload_bytes, logits_bytes=0, reason=reason, created_at=0.0,
        prefill_seconds=prefill_seconds,
    )  # fmt: skip


def stored(row: RowMeta, nbytes: int = 1000, *, hits: int = 0, used_at: float = 0.0) -> StoredRow:
    """The row as a tier reports it."""
    return StoredRow(meta=row, nbytes=nbytes, hits=hits, used_at=used_at)


def chain(tokens: Sequence[int], *ends: int) -> list[RowMeta]:
    """The rows of `tokens` that end at `ends`, the first from 0."""
    return [meta(tokens, start, end) for start, end in zip((0, *ends), ends, strict=False)]
