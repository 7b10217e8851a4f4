"""Files of rows changed at random: none is served as anything but what was saved. `ERLLAMA_MUTATIONS` says how many."""

from __future__ import annotations

import random

import msgspec
from helpers.fake_cache import key_of, meta_of, payload_of
from helpers.mutations import mutated, rounds

from erllama_py.tiers import row_file
from erllama_py.tiers.row_file import BadRow, Header


def file_of(number: int) -> tuple[bytes, str]:
    """The file of a row, and its name."""
    meta = meta_of(number, 5000, 400)
    payload, logits = payload_of(meta.key, 5000), payload_of(meta.key[::-1], 400)
    header = row_file.encode_header(meta, row_file.checksum(payload), row_file.checksum(logits), 3, 1e9)
    return header + payload + logits, row_file.file_name(meta.key)


def read(data: bytes, name: str) -> tuple[Header, bytes, bytes]:
    """As a tier reads a file. Raises `BadRow`."""
    head = data[: row_file.HEAD_BYTES]
    length = row_file.header_length(head)
    header = row_file.decode_header(data[: max(length, len(head))], len(data), name)
    where = header.layout
    payload, logits = data[where.payload_offset : where.logits_offset], data[where.logits_offset : where.file_bytes]
    row_file.check_bytes(header, payload, logits)
    return header, payload, logits


def sealed(data: bytes) -> bytes:
    """The header with a checksum that holds, where it says how long it is."""
    try:
        row_file.header_length(data[: row_file.HEAD_BYTES])
    except BadRow:
        return data
    end = int.from_bytes(data[12:16], "little") - row_file.CHECKSUM_BYTES
    after = row_file.USAGE_OFFSET + row_file.USAGE_BYTES
    return data[:end] + row_file.checksum(data[: row_file.USAGE_OFFSET] + data[after:end]) + data[end + 16 :]


def test_no_mutated_file_is_served() -> None:
    """What is read whole is the row that was saved; only its hits may be others, and only with a checksum of theirs."""
    (data, name), dice = file_of(1), random.Random(6)
    header, payload, logits = read(data, name)
    for _ in range(rounds(2000)):
        changed = mutated(data, dice, early=700)
        try:
            other, other_payload, other_logits = read(changed, name)
        except BadRow:
            continue
        assert (other_payload, other_logits) == (payload, logits)
        assert (other.meta, other.layout) == (header.meta, header.layout)


def test_a_header_that_was_sealed_again_is_within_bounds() -> None:
    """A hostile hand makes the checksum too: nothing but `BadRow` is raised, and sizes are those of the file."""
    (data, name), dice = file_of(2), random.Random(7)
    for _ in range(rounds(300)):
        changed = sealed(mutated(data[:2000], dice, early=260) + data[2000:])
        try:
            other = row_file.decode_header(changed[: row_file.HEAD_BYTES], len(changed), name)
        except BadRow:
            continue
        assert other.layout.file_bytes == len(changed)
        assert other.meta.key == key_of(2)
        assert len(msgspec.msgpack.encode(other.meta)) < len(changed)
