"""The file of a turn: a version of its own, no cells, checked like any row."""

from __future__ import annotations

import struct

import pytest
from helpers.rows import meta
from msgspec.structs import replace

from erllama_py.tiers import row_file
from erllama_py.tiers.messages import RowMeta
from erllama_py.tiers.row_file import BadRow

NOTHING = row_file.checksum(b"")
TURN = replace(meta([1, 2, 3], 1, 3, payload_bytes=0), reason="turn")


def read(file: bytes, row: RowMeta = TURN) -> row_file.Header:
    return row_file.decode_header(file, row_file.layout(row).file_bytes, row_file.file_name(row.key))


def resealed(file: bytes, offset: int, form: str, value: int) -> bytes:
    """The file with another value at an offset, and a checksum that holds."""
    changed = bytearray(file)
    struct.pack_into(form, changed, offset, value)
    usage, end = row_file.USAGE_OFFSET, row_file.layout(TURN).header_bytes - row_file.CHECKSUM_BYTES
    covered = bytes(changed[:usage] + changed[usage + row_file.USAGE_BYTES : end])
    changed[end : end + row_file.CHECKSUM_BYTES] = row_file.checksum(covered)
    return bytes(changed)


def test_a_turn_is_a_file_of_the_second_version() -> None:
    """So older readers, which know the first, keep the rows that they can use."""
    file = row_file.encode_header(TURN, NOTHING, NOTHING, 3, 4.0)
    assert file[8:12] == struct.pack("<I", row_file.TURN_VERSION)
    header = read(file)
    assert (header.meta, header.hits, header.used_at) == (TURN, 3, 4.0)


def test_a_turn_has_no_cells() -> None:
    """Neither a payload nor logits are written."""
    for more in ({"payload_bytes": 1}, {"logits_bytes": 4}):
        with pytest.raises(ValueError, match="a turn with cells"):
            row_file.encode_header(replace(TURN, **more), NOTHING, NOTHING, 0, 0.0)


def test_neither_kind_passes_for_the_other() -> None:
    """Also where every checksum holds."""
    turn = row_file.encode_header(TURN, NOTHING, NOTHING, 0, 0.0)
    cells = row_file.encode_header(replace(TURN, reason="cold"), NOTHING, NOTHING, 0, 0.0)
    for file in (resealed(turn, 8, "<I", row_file.VERSION), resealed(cells, 8, "<I", row_file.TURN_VERSION)):
        with pytest.raises(BadRow, match="foreign"):
            read(file)


def test_any_flipped_bit_of_a_turn_is_found() -> None:
    """But for the usage, which is counted as none then."""
    file = row_file.encode_header(TURN, NOTHING, NOTHING, 3, 4.0)
    usage = range(row_file.USAGE_OFFSET, row_file.USAGE_OFFSET + row_file.USAGE_BYTES)
    for byte in range(len(file)):
        for bit in (0, 7):
            flipped = file[:byte] + bytes([file[byte] ^ 1 << bit]) + file[byte + 1 :]
            if byte in usage:
                assert read(flipped).hits == 0
            else:
                with pytest.raises(BadRow):
                    read(flipped)
