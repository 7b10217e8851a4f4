"""The bytes of one file as they come: appended, counted, and hashed on the way, so that nothing is read twice.

What an earlier try has left is hashed first. Blocks; belongs to one thread.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from erllama_py.hub.naming import RepoFile

BLOCK = 1 << 20
SHA256_DIGITS = 64


def hash_of(file: RepoFile) -> hashlib._Hash:
    """What the digest of a file is made with: SHA-256 of its bytes, or git's SHA-1 where it is no large file."""
    if len(file.digest) == SHA256_DIGITS:
        return hashlib.sha256()
    return hashlib.sha1(b"blob %d\0" % file.size, usedforsecurity=False)


class PartialFile:
    """A file that grows to `file.size` bytes; a context manager. `look` is called between blocks and may raise."""

    def __init__(self, path: Path, file: RepoFile, look: Callable[[], None]) -> None:
        self._path, self._file, self._look = path, file, look
        self.size = 0

    def __enter__(self) -> Self:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._out = io.FileIO(self._path, "a+")
        try:
            self._begin()
        except BaseException:
            self._out.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._out.close()

    def append(self, data: bytes) -> None:
        """More bytes; also where the disk takes them in pieces. Raises `ValueError` where the file has no more."""
        if self.size + len(data) > self._file.size:
            raise ValueError("more bytes than the file has")
        view = memoryview(data)
        while view:
            written = self._out.write(view)
            self._hash.update(view[:written])
            self.size += written
            view = view[written:]

    def restart(self) -> None:
        """Begin again: what comes is the file from its first byte."""
        self._out.truncate(0)
        self._begin()

    def digest(self) -> str:
        """Of all bytes so far, in hex."""
        return self._hash.hexdigest()

    def sync(self) -> None:
        """Wait until the disk has it."""
        os.fsync(self._out.fileno())

    def _begin(self) -> None:
        """Hash what is there."""
        self._hash, self.size = hash_of(self._file), 0
        if os.fstat(self._out.fileno()).st_size > self._file.size:
            self._out.truncate(0)
        self._out.seek(0)
        while block := self._out.read(BLOCK):
            self._look()
            self._hash.update(block)
            self.size += len(block)
