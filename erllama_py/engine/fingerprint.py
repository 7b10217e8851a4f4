"""The fingerprint of a model file: which bytes a cached KV state was computed with.

Three modes, from the surest to the fastest:

- `safe`: SHA-256 of the whole file.
- `gguf_chunked`: SHA-256 of a domain tag, the file's size as u64 little-endian, everything before the first
  weights tensor (the metadata and the tensor table) and that tensor. It tells models, versions and
  quantisations apart at the cost of reading some megabytes; it does not notice a change in a later tensor.
  The size is in it because a file that is longer by a tensor's padding would otherwise pass.
- `fast_unsafe`: what was given.

A computed fingerprint is remembered by (path, size, mtime, inode, mode), so that an untouched file is read
once. Whoever can set a file's mtime back can make a change go unseen; `remember_fingerprint=False` reads it
each time. Blocking: for a worker thread.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from erllama_py.config import ModelConfig
from erllama_py.engine.backend import FileFacts, LoadCancelled
from erllama_py.errors import FingerprintMismatch, ModelFileNotFound

# Read in blocks of 1 MiB: large enough that hashlib's pace (about 1 GB/s) is reached, small enough that a
# cancelled load stops within a millisecond or two.
BLOCK = 1 << 20
CHUNKED_TAG = b"erllama gguf_chunked v1\0"

Progress = Callable[[int, int], bool]


class Identity(msgspec.Struct, frozen=True):
    """What tells that a file is still the one that was hashed. `mtime` is in nanoseconds."""

    path: str
    size: int
    mtime: int
    inode: int
    mode: str


class Remembered(msgspec.Struct, frozen=True):
    """One remembered fingerprint, as it is stored (JSON)."""

    identity: Identity
    fingerprint: str


def fingerprint_file(config: ModelConfig, facts: FileFacts, remember: Path, progress: Progress) -> str:
    """The fingerprint of the model file of `config`, as 64 hex digits, checked against a given one.

    `remember` is the folder of remembered fingerprints. `progress` gets bytes hashed and bytes in all and
    answers whether to go on. Raises `FingerprintMismatch`, `ModelFileNotFound`, `LoadCancelled`.
    """
    if config.model_path is None:  # a backend without a file
        return config.fingerprint or hashlib.sha256(config.backend.encode()).hexdigest()
    if config.fingerprint_mode == "fast_unsafe":
        assert config.fingerprint is not None
        return config.fingerprint
    try:
        found = _known_or_hashed(config, facts, remember, progress)
    except OSError as error:
        raise ModelFileNotFound(config.model_path, error.strerror or str(error)) from error
    if config.fingerprint is not None and config.fingerprint != found:
        raise FingerprintMismatch(config.model_path, config.fingerprint, found)
    return found


def _known_or_hashed(config: ModelConfig, facts: FileFacts, remember: Path, progress: Progress) -> str:
    path = os.path.realpath(str(config.model_path))
    before = identify(path, config.fingerprint_mode)
    if config.remember_fingerprint and (known := recall(remember, before)):
        progress(before.size, before.size)
        return known
    if config.fingerprint_mode == "safe":
        pieces, total, digest = _blocks(path, before.size), before.size, hashlib.sha256()
    else:
        total = facts.metadata_size + facts.first_tensor_size
        pieces = _blocks(path, total)
        digest = hashlib.sha256(CHUNKED_TAG + before.size.to_bytes(8, "little"))
    done = 0
    for piece in pieces:
        digest.update(piece)
        done += len(piece)
        if not progress(done, total):
            raise LoadCancelled
    # A file that changed while it was read has the fingerprint of neither state.
    if config.remember_fingerprint and identify(path, config.fingerprint_mode) == before:
        store(remember, Remembered(before, digest.hexdigest()))
    return digest.hexdigest()


def identify(path: str, mode: str) -> Identity:
    """What the file system says of the file now."""
    status = os.stat(path)
    return Identity(path, status.st_size, status.st_mtime_ns, status.st_ino, mode)


def _blocks(path: str, size: int) -> Iterator[memoryview]:
    buffer = bytearray(BLOCK)
    view = memoryview(buffer)
    with open(path, "rb", buffering=0) as file:
        while size > 0 and (count := file.readinto(view[: min(BLOCK, size)])):
            size -= count
            yield view[:count]


def store_path(folder: Path, identity: Identity) -> Path:
    """Where a fingerprint is remembered: one small file for each path and mode."""
    name = hashlib.sha256(f"{identity.mode}\0{identity.path}".encode(errors="surrogateescape")).hexdigest()
    return folder / f"{name[:32]}.json"


def recall(folder: Path, identity: Identity) -> str | None:
    """The remembered fingerprint, if the file is still the same; a torn or foreign entry is no memory."""
    try:
        entry = msgspec.json.decode(store_path(folder, identity).read_bytes(), type=Remembered)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return None
    usable = len(entry.fingerprint) == 64 and set(entry.fingerprint) <= set("0123456789abcdef")
    return entry.fingerprint if entry.identity == identity and usable else None


def store(folder: Path, entry: Remembered) -> None:
    """Remember a fingerprint, whole or not at all. A store that cannot be written is done without."""
    with contextlib.suppress(OSError, UnicodeEncodeError):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle, temporary = tempfile.mkstemp(dir=folder, suffix=".tmp")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(msgspec.json.encode(entry))
            os.replace(temporary, store_path(folder, entry.identity))
        except BaseException:
            os.unlink(temporary)
            raise
