"""The file format of a row: what is written is read back, and whatever else is there is recognised and refused."""

from __future__ import annotations

import hashlib
import pickle
import re
import struct
from itertools import accumulate
from typing import Any, get_args

import pytest
from helpers.project import TOP
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec.structs import replace

from erllama_py.options.model import RowReason
from erllama_py.tiers import row_file
from erllama_py.tiers.messages import RowMeta
from erllama_py.tiers.row_file import BadRow, Header

SIZES = [struct.calcsize(f"<{form}") for _, form in row_file.FIELDS]
NAMES = [name for name, _ in row_file.FIELDS]
OFFSETS = dict(zip(NAMES, accumulate(SIZES, initial=0), strict=False))
USAGE = range(row_file.USAGE_OFFSET, row_file.USAGE_OFFSET + row_file.USAGE_BYTES)

PAYLOAD, LOGITS = b"cells of three tokens", b"logits"
META = RowMeta(
    key=bytes(range(32)),
    parent=bytes(range(32, 64)),
    start=256,
    end=259,
    tokens=struct.pack("<3I", 7, 8, 49_151),
    fingerprint=b"f" * 32,
    quant_bits=4,
    ctx_params_hash=b"c" * 32,
    build="b1234 für Züge",
    payload_bytes=len(PAYLOAD),
    logits_bytes=len(LOGITS),
    reason="continued",
    created_at=1.7e9,
    prefill_seconds=0.25,
)
NAME = row_file.file_name(META.key)


def whole(meta: RowMeta = META, payload: bytes = PAYLOAD, logits: bytes = LOGITS, hits: int = 3) -> bytes:
    """The file of a row, last used at 2e9."""
    checksums = row_file.checksum(payload), row_file.checksum(logits)
    return row_file.encode_header(meta, *checksums, hits, 2e9) + payload + logits


def read(file: bytes, name: str = NAME) -> Header:
    """Read a row as a tier does: a first read, more if the header needs it, then the rest."""
    head = file[: row_file.HEAD_BYTES]
    if row_file.header_length(head) > len(head):
        head = file[: row_file.header_length(head)]
    header = row_file.decode_header(head, len(file), name)
    where = header.layout
    row_file.check_bytes(
        header, memoryview(file)[where.payload_offset : where.logits_offset], file[where.logits_offset :]
    )
    return header


def kind_of(file: bytes, name: str = NAME) -> str | None:
    """What is wrong with a file; None when nothing is."""
    try:
        read(file, name)
    except BadRow as bad:
        return bad.kind
    return None


def flip(file: bytes, byte: int, bit: int) -> bytes:
    """The file with one bit changed."""
    return file[:byte] + bytes([file[byte] ^ 1 << bit]) + file[byte + 1 :]


def sealed(field: str, value: Any) -> bytes:
    """A file with another value in one field of the fixed part, and a checksum that holds."""
    file = bytearray(whole())
    struct.pack_into("<" + dict(row_file.FIELDS)[field], file, OFFSETS[field], value)
    return resealed(file)


def resealed(file: bytearray) -> bytes:
    """The file with a checksum of the header that holds."""
    end = row_file.layout(META).header_bytes - row_file.CHECKSUM_BYTES
    covered = bytes(file[: USAGE.start] + file[USAGE.stop : end])
    file[end : end + row_file.CHECKSUM_BYTES] = row_file.checksum(covered)
    return bytes(file)


hashes = st.binary(min_size=32, max_size=32)
times = st.floats(allow_nan=False, allow_infinity=False)


@st.composite
def rows(draw: st.DrawFn) -> tuple[RowMeta, bytes, bytes]:
    """Any row, with its payload and logits."""
    tokens = draw(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=40)) * draw(st.sampled_from([1, 1, 100]))
    start = draw(st.integers(0, 2**32 - 1 - len(tokens)))
    reason = draw(st.sampled_from(get_args(RowReason)))
    most = 0 if reason == "turn" else 200
    payload, logits = draw(st.binary(max_size=most)), draw(st.binary(max_size=most // 4))
    meta = RowMeta(
        key=draw(hashes),
        parent=draw(hashes),
        start=start,
        end=start + len(tokens),
        tokens=struct.pack(f"<{len(tokens)}I", *tokens),
        fingerprint=draw(hashes),
        quant_bits=draw(st.integers(0, 255)),
        ctx_params_hash=draw(hashes),
        build=draw(st.text(st.characters(codec="utf-8"), max_size=60)),
        payload_bytes=len(payload),
        logits_bytes=len(logits),
        reason=reason,
        created_at=draw(times),
        prefill_seconds=draw(times),
    )
    return meta, payload, logits


# --- what is written is read back ------------------------------------------------------------------------


@given(rows(), st.integers(0, row_file.MAX_HITS), times)
def test_what_is_written_is_read_back(row: tuple[RowMeta, bytes, bytes], hits: int, used_at: float) -> None:
    """Every field of any row, also when the header is longer than the first read."""
    meta, payload, logits = row
    checksums = row_file.checksum(payload), row_file.checksum(logits)
    head = row_file.encode_header(meta, *checksums, hits, used_at)
    where = row_file.layout(meta)
    assert read(head + payload + logits, row_file.file_name(meta.key)) == Header(meta, *checksums, hits, used_at, where)
    assert len(head) == where.payload_offset == row_file.header_length(head)
    assert where.payload_offset % row_file.ALIGNMENT == 0
    assert where.header_bytes <= where.payload_offset < where.header_bytes + row_file.ALIGNMENT
    assert (where.logits_offset, where.file_bytes) == (len(head + payload), len(head + payload + logits))


def test_the_first_read_holds_the_header_of_1024_tokens() -> None:
    """With a long build, and with the zeros that are checked too."""
    meta = replace(META, start=0, end=1024, tokens=bytes(4096), build="b" * 1000)
    assert row_file.layout(meta).payload_offset <= row_file.HEAD_BYTES


def test_the_bytes_of_a_row_do_not_change() -> None:
    """Files outlive programs: where this fails, `VERSION` must be raised and the page on the format changed."""
    assert row_file.VERSION == 1
    assert hashlib.sha256(whole()).hexdigest() == "0d8352afd6bdfbd4bc40ac2f17bec9e4fc601040a6cbc04afb526c7781f1dddd"


def test_every_reason_has_a_code_of_its_own() -> None:
    """A new reason needs a code, and a new version of the format."""
    assert set(row_file.REASON_CODES) == set(get_args(RowReason))
    assert len(set(row_file.REASON_CODES.values())) == len(row_file.REASON_CODES)


@given(hashes)
def test_a_file_is_named_after_its_key(key: bytes) -> None:
    """And the name says the key."""
    name = row_file.file_name(key)
    assert re.fullmatch(r"[0-9a-f]{64}\.row", name)
    assert row_file.key_of_file_name(name) == key


@pytest.mark.parametrize(
    "name", ["", "lock", ".row", "00.row", f"{'0' * 64}", f"{'A' * 64}.row", f"{'0' * 64}.row\n", f"x{'0' * 64}.row",
             f"{'٠' * 64}.row", f"{'0' * 66}.row", f"{'0' * 64}.row.tmp"],
)  # fmt: skip
def test_the_name_of_something_else_has_no_key(name: str) -> None:
    """Only what `file_name` makes is a row's name."""
    assert row_file.key_of_file_name(name) is None


@pytest.mark.parametrize(
    "change",
    [
        {"key": b"short"},
        {"parent": b""},
        {"tokens": b"four"},
        {"end": 256, "tokens": b""},
        {"start": -1, "end": 2},
        {"start": 0, "end": 2**24 + 1, "tokens": bytes(4 * (2**24 + 1))},
        {"build": "b" * 4097},
        {"payload_bytes": 2**40 + 1},
        {"logits_bytes": -1},
        {"created_at": float("nan")},
        {"prefill_seconds": float("inf")},
        {"quant_bits": 256},
        {"start": 2**32 - 3, "end": 2**32},
    ],
    ids=lambda change: "-".join(change),
)
def test_what_could_not_be_read_is_not_written(change: dict[str, Any]) -> None:
    """A row that `decode_header` would refuse is a mistake of the caller."""
    with pytest.raises(ValueError, match=r"\w"):
        row_file.encode_header(replace(META, **change), bytes(16), bytes(16), 0, 0.0)


def test_checksums_of_another_length_are_not_written() -> None:
    """`struct` would fill them up with zeros."""
    with pytest.raises(ValueError, match="checksum"):
        row_file.encode_header(META, b"", bytes(16), 0, 0.0)


# --- usage ----------------------------------------------------------------------------------------------


@given(st.integers(0, row_file.MAX_HITS), times)
def test_usage_is_written_in_place(hits: int, used_at: float) -> None:
    """Nothing else needs to be written for it."""
    file = bytearray(whole())
    file[USAGE.start : USAGE.stop] = row_file.encode_usage(hits, used_at)
    header = read(bytes(file))
    assert (header.hits, header.used_at) == (hits, used_at)
    assert header.meta == META


def test_usage_lies_in_the_first_sector() -> None:
    """So that no power cut leaves half of it."""
    assert len(row_file.encode_usage(1, 2.0)) == row_file.USAGE_BYTES
    assert USAGE.stop <= 512


@given(st.binary(min_size=row_file.USAGE_BYTES, max_size=row_file.USAGE_BYTES))
@example(row_file.encode_usage(7, float("nan")))
@example(row_file.encode_usage(7, 2e9)[:8] + row_file.encode_usage(3, 3e9)[8:])
def test_damaged_usage_counts_as_never_used(usage: bytes) -> None:
    """The row itself is as sound as before."""
    file = bytearray(whole())
    file[USAGE.start : USAGE.stop] = usage
    header = read(bytes(file))
    assert (header.hits, header.used_at) == (0, META.created_at)
    assert header.meta == META


# --- damage ---------------------------------------------------------------------------------------------


def test_every_flipped_bit_is_found() -> None:
    """All bits of all fields, of payload and logits, and a bit of each of the zeros; those of the usage do no harm."""
    file, where = whole(), row_file.layout(META)
    kinds: dict[int, set[str | None]] = {}
    for byte in range(len(file)):
        zeros = where.header_bytes <= byte < where.payload_offset
        for bit in [byte % 8] if zeros else range(8):
            kinds.setdefault(byte, set()).add(kind_of(flip(file, byte, bit)))
    expected: dict[int, set[str | None]] = {byte: {"flipped"} for byte in range(len(file))}
    expected |= {byte: {"foreign"} for byte in range(8)}  # the magic
    expected |= {byte: {"version"} for byte in range(8, 12)}
    expected |= {byte: {None} for byte in USAGE}
    assert kinds == expected


@given(rows(), st.data())
def test_any_change_is_found(row: tuple[RowMeta, bytes, bytes], data: st.DataObject) -> None:
    """Some bytes anywhere replaced by some others, more or fewer, as a lost or misplaced write does it."""
    meta, file = row[0], whole(*row)
    name = row_file.file_name(meta.key)
    start = data.draw(st.integers(0, len(file)))
    stop = data.draw(st.integers(start, min(len(file), start + data.draw(st.sampled_from([1, 16, 4096, 10**6])))))
    changed = file[:start] + data.draw(st.binary(max_size=64)) + file[stop:]
    outside_usage = [changed[: USAGE.start] + changed[USAGE.stop :], file[: USAGE.start] + file[USAGE.stop :]]
    if outside_usage[0] == outside_usage[1]:
        assert read(changed, name).meta == meta
    else:
        assert kind_of(changed, name) is not None


def test_a_file_that_was_cut_is_torn() -> None:
    """Wherever the cut is, also within the magic, and if nothing is left."""
    file = whole()
    assert {kind_of(file[:length]) for length in range(len(file))} == {"torn"}


@given(st.binary(min_size=1))
def test_a_file_with_something_after_its_end_is_torn(more: bytes) -> None:
    """Two rows in one file are none."""
    assert kind_of(whole() + more) == "torn"


def test_a_file_that_ends_where_it_was_not_asked_is_torn() -> None:
    """It may shrink after its size was taken, or a read may give less than was asked for."""
    file = whole()
    for length in (300, 500, 4000):
        with pytest.raises(BadRow, match="torn"):
            row_file.decode_header(file[:length], len(file), NAME)


@given(st.binary())
@example(bytes(5000))
@example(b"GGUF" + bytes(5000))
@example(b"\x7fELF")
@example(row_file.MAGIC[1:] + bytes(5000))
def test_something_else_is_foreign(file: bytes) -> None:
    """Whatever it is; but an empty file cannot be recognised as no row."""
    assert kind_of(file) == ("foreign" if file[:8] != row_file.MAGIC[: len(file)] else "torn")


@given(st.integers(0, 2**32 - 1).filter(lambda version: version not in (1, 2)), st.binary())
def test_another_version_is_distinguished_from_damage(version: int, rest: bytes) -> None:
    """Magic and version have their places in every version; nothing else needs to be as it is in ours."""
    start = row_file.MAGIC + struct.pack("<I", version)
    assert kind_of(start + whole()[12:]) == "version"
    assert kind_of(start + rest) == ("version" if len(rest) >= 4 else "torn")


@given(st.binary(min_size=250, max_size=600))
def test_random_bytes_after_our_magic_are_no_row(rest: bytes) -> None:
    """And no number in them makes a reader ask for more than the longest header that there can be."""
    file = row_file.MAGIC + struct.pack("<I", row_file.VERSION) + rest
    assert kind_of(file) in {"flipped", "torn"}
    try:
        asked = row_file.header_length(file)
    except BadRow:
        return
    assert asked <= 4 * row_file.MAX_TOKENS + 3 * row_file.ALIGNMENT


@pytest.mark.parametrize(("tokens", "build_bytes"), [(0, 10), (-2, 10), (2**24 + 1, 10), (3, 4097)])
def test_absurd_lengths_are_refused_before_more_is_read(tokens: int, build_bytes: int) -> None:
    """Also where both places that say the length of the header agree."""
    file = bytearray(whole())
    fields = {"header_bytes": 260 + build_bytes + 4 * tokens, "end": META.start + tokens, "build_bytes": build_bytes}
    for field, value in fields.items():
        struct.pack_into("<" + dict(row_file.FIELDS)[field], file, OFFSETS[field], value)
    with pytest.raises(BadRow, match="flipped"):
        row_file.header_length(bytes(file))


@given(st.text() | hashes.map(row_file.file_name))
def test_a_row_under_another_name_is_renamed(name: str) -> None:
    """Whole and sound, but that name is for another row."""
    assert kind_of(whole(), name) == (None if name == NAME else "renamed")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("reason", 0),
        ("reason", 200),
        ("payload_bytes", 2**64 - 1),
        ("logits_bytes", 2**40),
        ("created_at", float("nan")),
        ("prefill_seconds", float("inf")),
    ],
)
def test_what_holds_but_cannot_be_is_foreign(field: str, value: float) -> None:
    """Someone else wrote it: our writer refuses such a row."""
    assert kind_of(sealed(field, value)) == "foreign"


def test_a_build_that_is_no_text_is_foreign() -> None:
    """Its bytes are as they were written, so they were not written by us."""
    file = bytearray(whole())
    file[row_file.FIXED_BYTES] = 0xFF
    assert kind_of(resealed(file)) == "foreign"


def test_more_than_the_zeros_between_header_and_payload_is_no_row() -> None:
    """The last of them, too."""
    assert kind_of(flip(whole(), row_file.layout(META).payload_offset - 1, 0)) == "flipped"


def test_the_kind_and_the_problem_survive_pickling() -> None:
    """An error that crosses a border says the same on the other side."""
    bad = pickle.loads(pickle.dumps(BadRow("torn", "3 bytes")))
    assert (bad.kind, bad.problem, str(bad)) == ("torn", "3 bytes", "torn: 3 bytes")


# --- the page on the format -----------------------------------------------------------------------------


def test_the_page_documents_each_byte() -> None:
    """The table in `docs/internals/row-file.md` names the fields of the code, with their offsets, sizes and types."""
    types = {"I": "u32", "Q": "u64", "d": "f64", "H": "u16", "B": "u8"}
    expected = [
        (OFFSETS[name], size, name, types.get(form, "bytes"))
        for (name, form), size in zip(row_file.FIELDS, SIZES, strict=True)
    ]
    page = (TOP / "docs/internals/row-file.md").read_text(encoding="utf-8")
    table = re.findall(r"^\| (\d+) \| (\d+) \| `(\w+)` \| (\w+) \|", page, re.MULTILINE)
    assert [(int(offset), int(size), name, form) for offset, size, name, form in table] == expected
    assert sum(SIZES) == row_file.FIXED_BYTES


def test_the_page_names_magic_version_reasons_and_kinds_as_they_are() -> None:
    """Numbers in prose go stale as fast as those in tables."""
    page = (TOP / "docs/internals/row-file.md").read_text(encoding="utf-8")
    assert f"`{row_file.MAGIC.hex(' ')}`" in page
    assert f"of the format: {row_file.VERSION} |" in page
    assert ", ".join(f"{code} {reason}" for reason, code in row_file.REASON_CODES.items()) in page
    assert re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE) == list(get_args(row_file.BadKind))
    assert f"| {row_file.FIXED_BYTES} | B | build" in page
