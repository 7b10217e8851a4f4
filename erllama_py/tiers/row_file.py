"""The file of one row: bytes in, bytes out. Pure: no file is opened here.

    fixed part │ build │ tokens │ checksum │ zeros … │ payload │ logits

The header is everything before the payload, which starts at a multiple of `ALIGNMENT`. It describes the row, and
is checked without the payload. Only the usage (hits, last use) is ever written again, in place; it has a checksum of
its own and no other covers it. `docs/internals/row-file.md` documents each byte; a test compares its table with
`FIELDS`. `decode_header` takes any bytes and any name, and raises nothing but `BadRow`.
"""

from __future__ import annotations

import re
import struct
from math import isfinite
from typing import Literal, NoReturn, TypeAlias

import msgspec
import xxhash

from erllama_py.options.model import RowReason
from erllama_py.tiers.messages import RowMeta

BadKind = Literal["foreign", "version", "torn", "flipped", "renamed"]
Bytes: TypeAlias = bytes | bytearray | memoryview

# The first byte is no text and the last one ends a line, so that a file damaged by a conversion of texts is recognised.
MAGIC = b"\x89erlrow\n"
VERSION = 1  # of rows that hold cells
TURN_VERSION = 2  # of those that hold the tokens of a turn alone

# Name and `struct` format of each field of the fixed part, little-endian, without gaps. In every version the first
# two are these. The usage lies within the first 512 bytes, the smallest sector: no power cut leaves half of it.
FIELDS = (
    ("magic", "8s"),
    ("version", "I"),
    ("header_bytes", "I"),
    ("hits", "Q"),
    ("used_at", "d"),
    ("usage_checksum", "8s"),
    ("created_at", "d"),
    ("prefill_seconds", "d"),
    ("payload_bytes", "Q"),
    ("logits_bytes", "Q"),
    ("start", "I"),
    ("end", "I"),
    ("build_bytes", "H"),
    ("quant_bits", "B"),
    ("reason", "B"),
    ("key", "32s"),
    ("parent", "32s"),
    ("fingerprint", "32s"),
    ("ctx_params_hash", "32s"),
    ("payload_checksum", "16s"),
    ("logits_checksum", "16s"),
)
_FIXED = struct.Struct("<" + "".join(form for _, form in FIELDS))
_START = struct.Struct("<8sII")
_SPAN = struct.Struct("<IIH")  # start, end, build_bytes
_SPAN_OFFSET = struct.calcsize("<" + "".join(form for _, form in FIELDS[: [name for name, _ in FIELDS].index("start")]))
_USAGE = struct.Struct("<Qd")
_USAGE_CHECKSUM_BYTES = 8

FIXED_BYTES = _FIXED.size
USAGE_OFFSET = _START.size
USAGE_BYTES = _USAGE.size + _USAGE_CHECKSUM_BYTES
_AFTER_USAGE = USAGE_OFFSET + USAGE_BYTES
CHECKSUM_BYTES = 16  # xxh3-128

# What direct I/O may require: the page of most machines, and a multiple of every sector in use.
ALIGNMENT = 4096
# A first read of this many bytes holds the header of a span of 1,024 tokens (4,356 bytes and the build) and its zeros.
HEAD_BYTES = 2 * ALIGNMENT

# Far above what any model makes, and low enough that no number in a damaged file makes a reader ask for much memory.
MAX_TOKENS = 1 << 24
MAX_BUILD_BYTES = 4096
MAX_PAYLOAD_BYTES = 1 << 40
MAX_LOGITS_BYTES = 1 << 30
# More hits than a row can have: a million a second for twelve days. What says more was not counted.
MAX_HITS = 1 << 40

# A code is never given to another reason, because files hold them.
REASON_CODES: dict[RowReason, int] = {
    "cold": 1, "continued": 2, "finish": 3, "evict": 4, "shutdown": 5, "turn": 6,
}  # fmt: skip
_REASONS: dict[int, RowReason] = {code: reason for reason, code in REASON_CODES.items()}

_TOKEN_BYTES = 4
_KEY_BYTES = 32
_ZEROS = bytes(ALIGNMENT)
_FILE_NAME = re.compile(r"([0-9a-f]{64})\.row", re.ASCII)


class BadRow(Exception):
    """These bytes are not the row that they should be.

    `foreign`: no row of ours. `version`: a row in another version of the format. `torn`: shorter or longer than it
    says. `flipped`: a checksum does not hold. `renamed`: whole and sound, but under another row's file name.
    """

    def __init__(self, kind: BadKind, problem: str) -> None:
        super().__init__(kind, problem)
        self.kind: BadKind = kind
        self.problem = problem

    def __str__(self) -> str:
        return f"{self.kind}: {self.problem}"


class Layout(msgspec.Struct, frozen=True):
    """Where the parts of a file lie, in bytes. The header ends at `header_bytes`; zeros follow up to the payload."""

    header_bytes: int
    payload_offset: int
    logits_offset: int
    file_bytes: int


class Header(msgspec.Struct, frozen=True):
    """What the header of a sound row says."""

    meta: RowMeta
    payload_checksum: bytes
    logits_checksum: bytes
    hits: int
    used_at: float  # unix time; `meta.created_at` when the usage was damaged
    layout: Layout


def file_name(key: bytes) -> str:
    """The name of the file of the row with this key."""
    return f"{key.hex()}.row"


def key_of_file_name(name: str) -> bytes | None:
    """The key of the row that belongs under this name; None for the name of something else."""
    match = _FILE_NAME.fullmatch(name)
    return bytes.fromhex(match[1]) if match else None


def checksum(data: Bytes) -> bytes:
    """XXH3-128 of a payload or of logits, with seed 0, in its canonical (big-endian) form.

    Above 64 KiB xxhash releases the interpreter's lock, so this belongs on a worker thread and blocks no other.
    """
    return xxhash.xxh3_128_digest(data)


def layout(meta: RowMeta) -> Layout:
    """Where the parts of the file of this row lie."""
    return _layout(_header_bytes(len(meta.build.encode()), len(meta.tokens)), meta.payload_bytes, meta.logits_bytes)


def _header_bytes(build_bytes: int, tokens_bytes: int) -> int:
    return FIXED_BYTES + build_bytes + tokens_bytes + CHECKSUM_BYTES


def _layout(header_bytes: int, payload_bytes: int, logits_bytes: int) -> Layout:
    payload_offset = -(-header_bytes // ALIGNMENT) * ALIGNMENT
    logits_offset = payload_offset + payload_bytes
    return Layout(header_bytes, payload_offset, logits_offset, logits_offset + logits_bytes)


# --- writing ---------------------------------------------------------------------------------------------


def encode_header(meta: RowMeta, payload_checksum: bytes, logits_checksum: bytes, hits: int, used_at: float) -> bytes:
    """Everything before the payload. Raises `ValueError` for what `decode_header` would refuse."""
    build = meta.build.encode()
    hashes = (meta.key, meta.parent, meta.fingerprint, meta.ctx_params_hash)
    checksums = (payload_checksum, logits_checksum)
    if [len(one) for one in hashes] != [_KEY_BYTES] * 4 or [len(one) for one in checksums] != [CHECKSUM_BYTES] * 2:
        raise ValueError("a key, hash or checksum of another length")
    if len(meta.tokens) != _TOKEN_BYTES * (meta.end - meta.start) or len(build) > MAX_BUILD_BYTES:
        raise ValueError("other tokens than those of the span, or too long a build")
    problem = _problem(meta)
    if problem is not None:
        raise ValueError(problem)
    where = layout(meta)
    try:
        fixed = _FIXED.pack(
            MAGIC, _version(meta), where.header_bytes, 0, 0.0, b"", meta.created_at, meta.prefill_seconds,
            meta.payload_bytes, meta.logits_bytes, meta.start, meta.end, len(build), meta.quant_bits,
            REASON_CODES[meta.reason], *hashes, *checksums,
        )  # fmt: skip
    except struct.error as error:
        raise ValueError(f"a number that does not fit into its field: {error}") from error
    start, rest = fixed[:USAGE_OFFSET], fixed[_AFTER_USAGE:] + build + meta.tokens
    header = start + encode_usage(hits, used_at) + rest + checksum(start + rest)
    return header.ljust(where.payload_offset, b"\0")


def _version(meta: RowMeta) -> int:
    return TURN_VERSION if meta.reason == "turn" else VERSION


def encode_usage(hits: int, used_at: float) -> bytes:
    """The `USAGE_BYTES` that lie at `USAGE_OFFSET`."""
    usage = _USAGE.pack(min(hits, MAX_HITS), used_at)
    return usage + xxhash.xxh3_64_digest(usage)


# --- reading ---------------------------------------------------------------------------------------------


def header_length(head: bytes) -> int:
    """How many bytes come before the payload: what `decode_header` needs. Raises `BadRow`.

    The first `FIXED_BYTES` say it. The answer is not covered by a checksum yet, but never absurd.
    """
    _check_start(head)
    return _layout(_trusted_header_bytes(head), 0, 0).payload_offset


def decode_header(head: bytes, file_bytes: int, name: str) -> Header:
    """The header of a file of `file_bytes` bytes called `name` that begins with `head`. Raises `BadRow`.

    Checks all but the payload and the logits. Damaged usage is no reason to refuse: it counts as never used.
    """
    _check_start(head)
    header_bytes = _trusted_header_bytes(head)
    checked = header_bytes - CHECKSUM_BYTES
    if len(head) < header_bytes or file_bytes < header_bytes:
        _bad("torn", f"{min(len(head), file_bytes)} bytes, and its header has {header_bytes}")
    if checksum(head[:USAGE_OFFSET] + head[_AFTER_USAGE:checked]) != head[checked:header_bytes]:
        _bad("flipped", "the checksum of the header does not hold")
    # From here on the header is as it was written; what is impossible in it was not written by us.
    meta, payload_checksum, logits_checksum = _decode_meta(head[:checked])
    where = _layout(header_bytes, meta.payload_bytes, meta.logits_bytes)
    if file_bytes != where.file_bytes or len(head) < where.payload_offset:
        _bad("torn", f"{file_bytes} bytes instead of {where.file_bytes}")
    if head[header_bytes : where.payload_offset] != _ZEROS[: where.payload_offset - header_bytes]:
        _bad("flipped", "something other than zeros between header and payload")
    if name != file_name(meta.key):
        _bad("renamed", f"the row {meta.key.hex()} under another name")
    return Header(meta, payload_checksum, logits_checksum, *_decode_usage(head, meta.created_at), where)


def _decode_meta(head: bytes) -> tuple[RowMeta, bytes, bytes]:
    """The row, and the checksums of its payload and logits; `head` ends with the tokens."""
    (
        _, version, _, _, _, _, created_at, prefill_seconds, payload_bytes, logits_bytes, start, end, build_bytes,
        quant_bits, reason, key, parent, fingerprint, ctx_params_hash, payload_checksum, logits_checksum,
    ) = _FIXED.unpack_from(head)  # fmt: skip
    tokens_offset = FIXED_BYTES + build_bytes
    if reason not in _REASONS:
        _bad("foreign", f"no save has the reason {reason}")
    try:
        build = head[FIXED_BYTES:tokens_offset].decode()
    except UnicodeDecodeError:
        _bad("foreign", "the build is not a text")
    meta = RowMeta(
        key=key, parent=parent, start=start, end=end, tokens=head[tokens_offset:], fingerprint=fingerprint,
        quant_bits=quant_bits, ctx_params_hash=ctx_params_hash, build=build, payload_bytes=payload_bytes,
        logits_bytes=logits_bytes, reason=_REASONS[reason], created_at=created_at, prefill_seconds=prefill_seconds,
    )  # fmt: skip
    if (problem := _problem(meta)) is not None:
        _bad("foreign", problem)
    if version != _version(meta):
        _bad("foreign", f"a row for the reason {meta.reason} in version {version}")
    return meta, payload_checksum, logits_checksum


def _decode_usage(head: bytes, created_at: float) -> tuple[int, float]:
    """Hits and last use."""
    usage = head[USAGE_OFFSET : USAGE_OFFSET + _USAGE.size]
    hits, used_at = _USAGE.unpack(usage)
    whole = xxhash.xxh3_64_digest(usage) == head[USAGE_OFFSET + _USAGE.size : _AFTER_USAGE]
    return (hits, used_at) if whole and hits <= MAX_HITS and isfinite(used_at) else (0, created_at)


def check_bytes(header: Header, payload: Bytes, logits: Bytes) -> None:
    """Raise `BadRow` unless these are the bytes that were saved, neither more nor less."""
    if checksum(payload) != header.payload_checksum:
        _bad("flipped", "the checksum of the payload does not hold")
    if checksum(logits) != header.logits_checksum:
        _bad("flipped", "the checksum of the logits does not hold")


def _check_start(head: bytes) -> None:
    """That this is a row in our version, with all of the fixed part there."""
    magic = head[: len(MAGIC)]
    if magic != MAGIC[: len(magic)]:
        _bad("foreign", "not a row")
    if len(head) >= _START.size:
        version = _START.unpack_from(head)[1]
        if version not in (VERSION, TURN_VERSION):
            _bad("version", f"version {version} of the format; {VERSION} and {TURN_VERSION} are read")
    if len(head) < FIXED_BYTES:
        _bad("torn", f"{len(head)} bytes, and the fixed part has {FIXED_BYTES}")


def _trusted_header_bytes(head: bytes) -> int:
    """The length of the header. It is said twice, so that one flipped bit cannot pass for a torn file."""
    said: int = _START.unpack_from(head)[2]
    start, end, build_bytes = _SPAN.unpack_from(head, _SPAN_OFFSET)
    tokens = end - start
    if not 0 < tokens <= MAX_TOKENS or build_bytes > MAX_BUILD_BYTES:
        _bad("flipped", f"{tokens} tokens and {build_bytes} bytes of build cannot be")
    if said != _header_bytes(build_bytes, _TOKEN_BYTES * tokens):
        _bad("flipped", f"the header has {said} bytes, and other parts than that")
    return said


def _problem(meta: RowMeta) -> str | None:
    """Why there cannot be such a row; None when there can."""
    if not 0 <= meta.start < meta.end or meta.end - meta.start > MAX_TOKENS:
        return f"a row of the positions {meta.start} to {meta.end}"
    if not 0 <= meta.payload_bytes <= MAX_PAYLOAD_BYTES or not 0 <= meta.logits_bytes <= MAX_LOGITS_BYTES:
        return f"a payload of {meta.payload_bytes} bytes with logits of {meta.logits_bytes}"
    if meta.reason == "turn" and (meta.payload_bytes or meta.logits_bytes):
        return "a turn with cells"
    if not isfinite(meta.created_at) or not isfinite(meta.prefill_seconds):
        return "a time that is no number"
    return None


def _bad(kind: BadKind, problem: str) -> NoReturn:
    raise BadRow(kind, problem)
