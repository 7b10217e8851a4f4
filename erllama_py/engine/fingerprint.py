"""The fingerprint of a model: which bytes a cached KV state was computed with.

Three modes, from the surest to the fastest:

- `safe`: SHA-256 of the whole file, the number that `sha256sum` prints.
- `gguf_chunked`: SHA-256 of a domain tag, the file's size as u64 little-endian, everything before the first
  weights tensor (key-values, tensor table, padding) and that tensor. It separates models, versions and quantisations
  at the cost of reading some megabytes; it does not notice a change in a later tensor. The size is in
  it because two files that differ only in how much of the later tensors is there would otherwise be the same;
  the tag, because the digest must never equal a `safe` one of another file.
- `fast_unsafe`: what was given.

A model that is split over several files has the SHA-256 of another tag and of what each file has in the same mode,
32 bytes each, in the order of its parts. (Hashing the files as one long one would not say where one ends.)

A computed hash is remembered for each file by (real path, size, mtime, inode, mode), so that an untouched file is
read once. A file whose mtime was set back can hide a change; `remember_fingerprint=False` reads it each time. The
memory is kept by `model.fingerprinting`.

What is hashed must be what is loaded: size, mtime and inode as they were when the header was read are compared after
the hashing, and by the backend again when the weights are in (`check_unchanged`). Blocking: for a worker thread.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import msgspec

from erllama_py.engine.backend import ModelFile
from erllama_py.errors import ModelFileNotFound, ModelLoadError
from erllama_py.options.model import ModelConfig

# Bytes read at once. sha256 takes 2-4 ms for them, which is how soon a cancelled load stops; each block is also a
# progress report to the event loop, and some hundred of those a second are enough.
BLOCK = 4 << 20
CHUNKED_TAG = b"erllama gguf_chunked v1\0"
SPLIT_TAG = b"erllama split model v1\0"


class FileState(msgspec.Struct, frozen=True):
    """What shows that a file is still the one that was hashed. `mtime` is in nanoseconds."""

    path: str
    size: int
    mtime: int
    inode: int
    mode: str


class Remembered(msgspec.Struct, frozen=True):
    """The remembered hash of one file, as it is stored (JSON)."""

    identity: FileState
    fingerprint: str


class HashPlan(msgspec.Struct, frozen=True):
    """What is hashed: `prefix`, then the first `length` bytes of the file."""

    prefix: bytes
    length: int


# --- deciding ----------------------------------------------------------------------------------------


def plan_hash(mode: str, file: ModelFile) -> HashPlan:
    """What a mode hashes of a file. A header cannot make it read past the end."""
    if mode == "safe":
        return HashPlan(b"", file.size)
    head = file.metadata_size + file.first_tensor_size
    return HashPlan(CHUNKED_TAG + file.size.to_bytes(8, "little"), min(head, file.size))


def combine(hashes: Sequence[str]) -> str:
    """The fingerprint of a model whose files have these hashes, in order; of a single one, its hash."""
    if len(hashes) == 1:
        return hashes[0]
    return hashlib.sha256(SPLIT_TAG + b"".join(bytes.fromhex(digest) for digest in hashes)).hexdigest()


def usable(stored: bytes, state: FileState) -> str | None:
    """The hash in a stored entry, if it is of this very state of the file; a torn or foreign entry counts as none."""
    try:
        entry = msgspec.json.decode(stored, type=Remembered)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    is_digest = len(entry.fingerprint) == 64 and set(entry.fingerprint) <= set("0123456789abcdef")
    return entry.fingerprint if entry.identity == state and is_digest else None


def believed(config: ModelConfig, recalled: list[str | None]) -> list[str | None]:
    """The remembered hashes that count. If they do not confirm a given fingerprint none counts: files are refused only
    after they were read."""
    hashes = [digest for digest in recalled if digest is not None]
    confirms = len(hashes) == len(recalled) and combine(hashes) == config.fingerprint
    if config.remember_fingerprint and (config.fingerprint is None or confirms):
        return recalled
    return [None] * len(recalled)


def store_path(folder: Path, state: FileState) -> Path:
    """Where a hash is remembered: one small file for each path and mode."""
    name = hashlib.sha256(f"{state.mode}\0{state.path}".encode(errors="surrogateescape")).hexdigest()
    return folder / f"{name[:32]}.json"


# --- acting ------------------------------------------------------------------------------------------


def hash_file(file: ModelFile, plan: HashPlan, advance: Callable[[int], None]) -> str:
    """The hash of a file, as 64 hex digits; `advance` gets the bytes of each block, and may raise.

    Raises `ModelFileNotFound`, and `ModelLoadError` where the file changes meanwhile. Blocks.
    """
    digest = hashlib.sha256(plan.prefix)
    with _translated(file):
        for block in _blocks(file.path, plan.length):
            digest.update(block)
            advance(len(block))
    check_unchanged([file])
    return digest.hexdigest()


def check_unchanged(files: Iterable[ModelFile]) -> None:
    """Raise `ModelLoadError` where a file is not what it was when its header was read, `ModelFileNotFound` without it.

    Else the rows of one model would be saved under the fingerprint of another, and served to it.
    """
    for file in files:
        with _translated(file):
            status = os.stat(file.path)
        if (status.st_size, status.st_mtime_ns, status.st_ino) != (file.size, file.mtime, file.inode):
            raise ModelLoadError(file.path, "the file changed while it was being loaded")


@contextlib.contextmanager
def _translated(file: ModelFile) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ModelFileNotFound(file.path, error.strerror or str(error)) from error


def _blocks(path: str, length: int) -> Iterator[memoryview]:
    view = memoryview(bytearray(min(BLOCK, length)))
    with open(path, "rb", buffering=0) as file:
        while length > 0 and (count := file.readinto(view[:length])):
            length -= count
            yield view[:count]


def identify(file: ModelFile, mode: str) -> FileState:
    """What a hash of this file is remembered by; the same for all paths to it."""
    return FileState(os.path.realpath(file.path), file.size, file.mtime, file.inode, mode)
