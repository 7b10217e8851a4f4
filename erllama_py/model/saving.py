"""From a range that was copied out of the cells to the row that is saved. Pure."""

from __future__ import annotations

from erllama_py.cache.keys import TOKEN_BYTES, prefix_keys
from erllama_py.cache.messages import RowMeta
from erllama_py.scheduler.messages import SaveRow


def row_meta(save: SaveRow, build: str, now: float) -> RowMeta:
    """Everything about the row but its bytes. `now` is unix time in seconds."""
    captured, identity = save.captured, save.identity
    assert captured.payload is not None
    parent, key = prefix_keys(identity, save.tokens, (captured.start, captured.end))
    return RowMeta(
        key=key,
        parent=parent,
        start=captured.start,
        end=captured.end,
        tokens=save.tokens[TOKEN_BYTES * captured.start : TOKEN_BYTES * captured.end],
        fingerprint=identity.fingerprint,
        quant_bits=identity.quant_bits,
        ctx_params_hash=identity.ctx_params_hash,
        build=build,
        payload_bytes=len(captured.payload),
        logits_bytes=len(save.logits or b""),
        reason=captured.reason,
        created_at=now,
        prefill_seconds=captured.compute_seconds,
    )
