"""Rows as a hostile hand writes them: any content under a sound header, with right checksums and the right name."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import msgspec

from erllama_py.engine.backend import MemoryKind
from erllama_py.engine.llama.state_format import Section, read_state
from erllama_py.tiers import row_file
from erllama_py.tiers.messages import RowMeta

Change = Callable[[RowMeta, bytes, bytes], tuple[bytes, bytes]]  # a payload and logits, out of those of a row


def sections_of(data: bytes | memoryview, memory: MemoryKind) -> tuple[Section, ...] | None:
    """What llama.cpp's bytes say of themselves."""
    view = memoryview(data)
    return read_state(view, attention=memory != "recurrent", recurrent=memory in ("recurrent", "hybrid"))


def rewrite(path: Path, change: Change) -> RowMeta:
    """Write a row's file again with another payload and logits."""
    content = path.read_bytes()
    header = row_file.decode_header(content, len(content), path.name)
    where = header.layout
    payload, logits = content[where.payload_offset : where.logits_offset], content[where.logits_offset :]
    payload, logits = change(header.meta, payload, logits)
    meta = msgspec.structs.replace(header.meta, payload_bytes=len(payload), logits_bytes=len(logits))
    checksums = row_file.checksum(payload), row_file.checksum(logits)
    path.write_bytes(row_file.encode_header(meta, *checksums, header.hits, header.used_at) + payload + logits)
    return meta


def first_numbers(meta: RowMeta, memory: MemoryKind) -> int:
    """Where the first numbers of a tiny model's state begin: keys of a layer, or its recurrent state."""
    cells = meta.end - meta.start
    return 8 + 12 + 8 + 12 if memory == "recurrent" else 8 + 8 + 12 * cells + 8 + 12


def without_numbers(memory: MemoryKind) -> Change:
    """Some of the cells' numbers are none: all bits set is that in every type."""

    def change(meta: RowMeta, payload: bytes, logits: bytes) -> tuple[bytes, bytes]:
        at = first_numbers(meta, memory)
        return payload[:at] + b"\xff" * 64 + payload[at + 64 :], logits

    return change


def outside(memory: MemoryKind) -> Change:
    """The cells of the last section are at position -1."""

    def change(meta: RowMeta, payload: bytes, logits: bytes) -> tuple[bytes, bytes]:
        sections, data = sections_of(payload, memory), bytearray(payload)
        assert sections is not None
        count, position = len(sections[-1].positions), struct.pack("<i", -1)
        if sections[-1].recurrent:
            records = [data.rindex(struct.pack("<Iii", 1, meta.end - 1, 0)) + 4]
        else:
            # The positions are seen in the payload itself: so the last section's begin where its count is.
            first = data.rindex(struct.pack("<II", 1, count)) if len(sections) > 1 else 8
            records = list(range(first + 8, first + 8 + 12 * count, 12))
        for at in records:
            data[at : at + 4] = position
        return bytes(data), logits

    return change


def with_logits(change_logits: Callable[[bytes], bytes]) -> Change:
    """Other logits, where there are some."""
    return lambda meta, payload, logits: (payload, change_logits(logits) if logits else logits)
