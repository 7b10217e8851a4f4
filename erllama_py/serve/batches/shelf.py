"""The files of one tenant, in the order in which they came, within what they may take. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable

import msgspec


class FileFacts(msgspec.Struct, frozen=True, kw_only=True):
    """A file, as clients see it and as it is kept. Times are unix times in seconds."""

    id: str
    bytes: int
    created_at: int
    filename: str
    purpose: str
    object: str = "file"
    status: str = "processed"
    expires_at: int | None = None


class Quota(msgspec.Struct, frozen=True):
    """What a tenant may keep."""

    files: int
    nbytes: int
    file_bytes: int


class Shelf:
    """What there is, and what is coming."""

    def __init__(self, quota: Callable[[], Quota]) -> None:
        self.files: dict[str, FileFacts] = {}
        self.coming = 0
        """Files that are being received."""
        self.coming_bytes = 0
        self._quota = quota
        self._nbytes = 0

    def add(self, facts: FileFacts) -> None:
        """One more. What a batch leaves is kept beyond the quota too."""
        self.remove(facts.id)
        self.files[facts.id] = facts
        self._nbytes += facts.bytes

    def remove(self, file_id: str) -> FileFacts | None:
        """What it was; None where it is not there."""
        facts = self.files.pop(file_id, None)
        self._nbytes -= facts.bytes if facts else 0
        return facts

    def expired(self, now: float) -> list[str]:
        """Those whose time is over."""
        return [one.id for one in self.files.values() if one.expires_at is not None and one.expires_at <= now]

    def next_expiry(self) -> float:
        """When the next one's is; infinity: never."""
        return min((one.expires_at for one in self.files.values() if one.expires_at is not None), default=math.inf)

    def refusal(self, size: int) -> tuple[str, str] | None:
        """Why `size` bytes of one file that is coming are too many: a code, and a sentence. None where they are not."""
        quota, used = self._quota(), self._nbytes + self.coming_bytes
        if size > quota.file_bytes:
            return "file_too_large", f"a file has at most {quota.file_bytes} bytes"
        if len(self.files) + self.coming > quota.files:
            return "too_many_files", f"at most {quota.files} files are kept; delete some"
        if used > quota.nbytes:
            return "storage_full", f"at most {quota.nbytes} bytes of files are kept; delete some"
        return None
