"""The fingerprint of a model: which bytes a cached KV state was computed with.

Three modes, from the surest to the fastest:

- `safe`: SHA-256 of the whole file, the number that `sha256sum` prints.
- `gguf_chunked`: SHA-256 of a domain tag, the file's size as u64 little-endian, everything before the first
  weights tensor (key-values, tensor table, padding) and that tensor. It tells models, versions and quantisations
  apart at the cost of reading some megabytes; it does not notice a change in a later tensor. The size is in
  it because two files that differ only in how much of the later tensors is there would otherwise be the same;
  the tag, because the digest must never equal a `safe` one of another file.
- `fast_unsafe`: what was given.

A model that is split over several files has the SHA-256 of another tag and of what each file has in the same mode,
32 bytes each, in the order of its parts. (Hashing the files as one long one would not say where one ends.)

A computed hash is remembered for each file by (real path, size, mtime, inode, mode), so that an untouched file is
read once. Whoever can set a file's mtime back can make a change go unseen; `remember_fingerprint=False` reads
it each time. The memory is a folder of small JSON files, and never a reason for a load to fail.

What is hashed must be what is loaded: size, mtime and inode as they were when the header was read are compared after
the hashing, and by the backend again when the weights are in (`check_unchanged`). Blocking: for a worker thread.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import msgspec

from erllama_py.engine.backend import FileFacts, LoadCancelled, ModelFile
from erllama_py.errors import FingerprintMismatch, ModelFileNotFound, ModelLoadError
from erllama_py.options.model import ModelConfig

# Bytes read at once. sha256 takes 2-4 ms for them, which is how soon a cancelled load stops; each block is also a
# progress report to the event loop, and some hundred of those a second are enough.
BLOCK = 4 << 20
CHUNKED_TAG = b"erllama gguf_chunked v1\0"
SPLIT_TAG = b"erllama split model v1\0"

Progress = Callable[[int, int], bool]


class Identity(msgspec.Struct, frozen=True):
    """What tells that a file is still the one that was hashed. `mtime` is in nanoseconds."""

    path: str
    size: int
    mtime: int
    inode: int
    mode: str


class Remembered(msgspec.Struct, frozen=True):
    """The remembered hash of one file, as it is stored (JSON)."""

    identity: Identity
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


def usable(stored: bytes, identity: Identity) -> str | None:
    """The hash in a stored entry, if it is of this very state of the file; a torn or foreign entry is none."""
    try:
        entry = msgspec.json.decode(stored, type=Remembered)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    is_digest = len(entry.fingerprint) == 64 and set(entry.fingerprint) <= set("0123456789abcdef")
    return entry.fingerprint if entry.identity == identity and is_digest else None


# --- acting ------------------------------------------------------------------------------------------


def fingerprint_file(config: ModelConfig, facts: FileFacts, remember: Path, progress: Progress) -> str:
    """The fingerprint of the files in `facts`, as 64 hex digits, checked against a given one.

    `remember` is the folder of remembered hashes. `progress` gets bytes hashed and bytes in all and answers whether
    to go on; a remembered file is reported as hashed at once. Raises `FingerprintMismatch`, `ModelFileNotFound`,
    `LoadCancelled`, and `ModelLoadError` where a file changes meanwhile.
    """
    if not facts.files:  # a backend without a file
        return config.fingerprint or hashlib.sha256(config.backend.encode()).hexdigest()
    if config.fingerprint_mode == "fast_unsafe":
        assert config.fingerprint is not None  # the door saw to it
        return config.fingerprint
    found = combine(_known_or_hashed(config, facts.files, remember, progress))
    if config.fingerprint is not None and config.fingerprint != found:
        raise FingerprintMismatch(facts.files[0].path, config.fingerprint, found)
    return found


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


def _known_or_hashed(config: ModelConfig, files: Sequence[ModelFile], remember: Path, progress: Progress) -> list[str]:
    identities = [identify(file, config.fingerprint_mode) for file in files]
    plans = [plan_hash(config.fingerprint_mode, file) for file in files]
    known = _believed(config, [recall(remember, identity) for identity in identities])
    hashes, done, total = list[str](), 0, sum(plan.length for plan in plans)

    def advance(count: int) -> None:
        nonlocal done
        done += count
        if not progress(done, total):
            raise LoadCancelled

    for file, identity, plan, digest in zip(files, identities, plans, known, strict=True):
        if digest is not None:
            advance(plan.length)
            hashes.append(digest)
            continue
        with _translated(file):
            hashes.append(_hash(file.path, plan, advance))
        check_unchanged([file])
        if config.remember_fingerprint:
            store(remember, Remembered(identity, hashes[-1]))
    return hashes


def _believed(config: ModelConfig, recalled: list[str | None]) -> list[str | None]:
    """What counts of a memory. One that does not confirm what was given counts for nothing: it takes a read of the
    files to refuse them."""
    hashes = [digest for digest in recalled if digest is not None]
    confirms = len(hashes) == len(recalled) and combine(hashes) == config.fingerprint
    if config.remember_fingerprint and (config.fingerprint is None or confirms):
        return recalled
    return [None] * len(recalled)


def _hash(path: str, plan: HashPlan, advance: Callable[[int], None]) -> str:
    digest = hashlib.sha256(plan.prefix)
    for block in _blocks(path, plan.length):
        digest.update(block)
        advance(len(block))
    return digest.hexdigest()


def _blocks(path: str, length: int) -> Iterator[memoryview]:
    view = memoryview(bytearray(min(BLOCK, length)))
    with open(path, "rb", buffering=0) as file:
        while length > 0 and (count := file.readinto(view[:length])):
            length -= count
            yield view[:count]


def identify(file: ModelFile, mode: str) -> Identity:
    """What a hash of this file is remembered by; all paths to it lead to one."""
    return Identity(os.path.realpath(file.path), file.size, file.mtime, file.inode, mode)


def store_path(folder: Path, identity: Identity) -> Path:
    """Where a hash is remembered: one small file for each path and mode."""
    name = hashlib.sha256(f"{identity.mode}\0{identity.path}".encode(errors="surrogateescape")).hexdigest()
    return folder / f"{name[:32]}.json"


def recall(folder: Path, identity: Identity) -> str | None:
    """The remembered hash, if the file is still the same."""
    try:
        return usable(store_path(folder, identity).read_bytes(), identity)
    except OSError:
        return None


def store(folder: Path, entry: Remembered) -> None:
    """Remember a hash, whole or not at all. A store that cannot be written is done without."""
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
