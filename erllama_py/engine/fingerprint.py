"""The fingerprint of a model file: which bytes a cached KV state was computed with.

Three modes, from the surest to the fastest:

- `safe`: SHA-256 of the whole file, the number that `sha256sum` prints.
- `gguf_chunked`: SHA-256 of a domain tag, the file's size as u64 little-endian, everything before the first
  weights tensor (key-values, tensor table, padding) and that tensor. It tells models, versions and quantisations
  apart at the cost of reading some megabytes; it does not notice a change in a later tensor. The size is in
  it because two files that differ only in how much of the later tensors is there would otherwise be the same;
  the tag, because the digest must never equal a `safe` one of another file.
- `fast_unsafe`: what was given.

A computed fingerprint is remembered by (real path, size, mtime, inode, mode), so that an untouched file is
read once. Whoever can set a file's mtime back can make a change go unseen; `remember_fingerprint=False` reads
it each time. The memory is a folder of small JSON files, and never a reason for a load to fail. Blocking: for
a worker thread.
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

# Bytes read at once. sha256 takes 2-4 ms for them, which is how soon a cancelled load stops; each block is also a
# progress report to the event loop, and some hundred of those a second are enough.
BLOCK = 4 << 20
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


class HashPlan(msgspec.Struct, frozen=True):
    """What is hashed: `prefix`, then the first `length` bytes of the file."""

    prefix: bytes
    length: int


# --- deciding ----------------------------------------------------------------------------------------


def plan_hash(mode: str, size: int, facts: FileFacts) -> HashPlan:
    """What a mode hashes of a file of `size` bytes. A header cannot make it read past the end."""
    if mode == "safe":
        return HashPlan(b"", size)
    head = facts.metadata_size + facts.first_tensor_size
    return HashPlan(CHUNKED_TAG + size.to_bytes(8, "little"), min(head, size))


def usable(stored: bytes, identity: Identity) -> str | None:
    """The fingerprint in a stored entry, if it is of this very state of the file; a torn or foreign entry is none."""
    try:
        entry = msgspec.json.decode(stored, type=Remembered)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    is_digest = len(entry.fingerprint) == 64 and set(entry.fingerprint) <= set("0123456789abcdef")
    return entry.fingerprint if entry.identity == identity and is_digest else None


# --- acting ------------------------------------------------------------------------------------------


def fingerprint_file(config: ModelConfig, facts: FileFacts, remember: Path, progress: Progress) -> str:
    """The fingerprint of the model file of `config`, as 64 hex digits, checked against a given one.

    `remember` is the folder of remembered fingerprints. `progress` gets bytes hashed and bytes in all and
    answers whether to go on; a remembered file is reported as hashed at once. Raises `FingerprintMismatch`,
    `ModelFileNotFound`, `LoadCancelled`.
    """
    if config.model_path is None:  # a backend without a file
        return config.fingerprint or hashlib.sha256(config.backend.encode()).hexdigest()
    if config.fingerprint_mode == "fast_unsafe":
        assert config.fingerprint is not None  # the door saw to it
        return config.fingerprint
    try:
        found = _known_or_hashed(config, config.model_path, facts, remember, progress)
    except OSError as error:
        raise ModelFileNotFound(config.model_path, error.strerror or str(error)) from error
    if config.fingerprint is not None and config.fingerprint != found:
        raise FingerprintMismatch(config.model_path, config.fingerprint, found)
    return found


def _known_or_hashed(config: ModelConfig, model_path: str, facts: FileFacts, remember: Path, progress: Progress) -> str:
    mode, path = config.fingerprint_mode, os.path.realpath(model_path)
    before = identify(path, mode)
    plan = plan_hash(mode, before.size, facts)
    known = recall(remember, before) if config.remember_fingerprint else None
    # A memory that contradicts what was given is not believed: it takes a read of the file to refuse it.
    if known is not None and config.fingerprint in (None, known):
        if not progress(plan.length, plan.length):
            raise LoadCancelled
        return known
    found = _hash(path, plan, progress)
    # A file that changed while it was read has the fingerprint of neither state.
    if config.remember_fingerprint and identify(path, mode) == before:
        store(remember, Remembered(before, found))
    return found


def _hash(path: str, plan: HashPlan, progress: Progress) -> str:
    digest, done = hashlib.sha256(plan.prefix), 0
    for block in _blocks(path, plan.length):
        digest.update(block)
        done += len(block)
        if not progress(done, plan.length):
            raise LoadCancelled
    return digest.hexdigest()


def _blocks(path: str, length: int) -> Iterator[memoryview]:
    view = memoryview(bytearray(min(BLOCK, length)))
    with open(path, "rb", buffering=0) as file:
        while length > 0 and (count := file.readinto(view[:length])):
            length -= count
            yield view[:count]


def identify(path: str, mode: str) -> Identity:
    """What the file system says of the file now."""
    status = os.stat(path)
    return Identity(path, status.st_size, status.st_mtime_ns, status.st_ino, mode)


def store_path(folder: Path, identity: Identity) -> Path:
    """Where a fingerprint is remembered: one small file for each path and mode."""
    name = hashlib.sha256(f"{identity.mode}\0{identity.path}".encode(errors="surrogateescape")).hexdigest()
    return folder / f"{name[:32]}.json"


def recall(folder: Path, identity: Identity) -> str | None:
    """The remembered fingerprint, if the file is still the same."""
    try:
        return usable(store_path(folder, identity).read_bytes(), identity)
    except OSError:
        return None


def store(folder: Path, entry: Remembered) -> None:
    """Remember a fingerprint, whole or not at all. A store that cannot be written is done without."""
    with contextlib.suppress(OSError, UnicodeEncodeError):  # the latter: a path that JSON cannot hold
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle, temporary = tempfile.mkstemp(dir=folder, suffix=".tmp")  # made with mode 0600
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(msgspec.json.encode(entry))
            os.replace(temporary, store_path(folder, entry.identity))
        except BaseException:
            os.unlink(temporary)
            raise
