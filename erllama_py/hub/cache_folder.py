"""One repository in the cache of the hub on this machine, laid out as huggingface_hub's own documentation has it:

    models--owner--repo/
      blobs/<digest>                  the bytes of files, by what the hub calls their etag
      blobs/<digest>.incomplete       bytes of one that is being downloaded, or was when it broke off
      snapshots/<commit>/<path>       links to the blobs
      refs/<revision>                 the commit that a branch or tag was at when it was asked

A file that has a link is whole: it is checked and synced before. https://huggingface.co/docs/huggingface_hub/guides/manage-cache
"""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from erllama_py.hub.naming import RepoFile

_COMMIT = re.compile(r"[0-9a-f]{40}")
MAIN = "main"


class CacheFolder:
    """See the module. `cache` is the cache of the hub, `HF_HUB_CACHE`."""

    def __init__(self, cache: str | os.PathLike[str], repo: str) -> None:
        self.repo = repo
        self.path = Path(cache).expanduser() / f"models--{repo.replace('/', '--')}"
        self.locks = self.path.parent / ".locks" / self.path.name

    @classmethod
    def all(cls, cache: str | os.PathLike[str]) -> Iterator[CacheFolder]:
        """Every repository of a cache, by name."""
        with suppress(OSError):
            for path in sorted(Path(cache).expanduser().glob("models--*--*")):
                owner, _, name = path.name.removeprefix("models--").partition("--")
                yield cls(cache, f"{owner}/{name}")

    def blob(self, file: RepoFile) -> Path:
        """Where the bytes of a file are, or will be."""
        return self.path / "blobs" / file.digest

    def partial(self, file: RepoFile) -> Path:
        """Where they are while they come."""
        return self.path / "blobs" / f"{file.digest}.incomplete"

    def lock(self, file: RepoFile) -> Path:
        """The lock that huggingface_hub takes too while it downloads a file."""
        return self.locks / f"{file.digest}.lock"

    def linked(self, commit: str, path: str) -> Path:
        """The place of a file in a revision."""
        return self.path / "snapshots" / commit / path

    def has(self, commit: str, file: RepoFile) -> bool:
        """Whether a file has its place in a revision, with all its bytes."""
        try:
            return self.linked(commit, file.path).stat().st_size == file.size
        except OSError:
            return False

    def begin(self, commit: str) -> None:
        """Make room for a revision, so that what scans the cache finds it in order while files come."""
        (self.path / "snapshots" / commit).mkdir(parents=True, exist_ok=True)

    def partials(self) -> list[Path]:
        """What downloads that broke off have left, or are writing."""
        return sorted((self.path / "blobs").glob("*.incomplete"))

    def link(self, commit: str, file: RepoFile) -> Path:
        """Give a blob its place in a revision, and return that."""
        place, blob = self.linked(commit, file.path), self.blob(file)
        if place.exists():
            return place
        place.parent.mkdir(parents=True, exist_ok=True)
        place.unlink(missing_ok=True)  # a link to a blob that somebody removed
        try:
            place.symlink_to(os.path.relpath(blob, place.parent))
        except FileExistsError:  # another process was faster
            pass
        except OSError:  # a file system without links: as huggingface_hub does there
            os.replace(blob, place)
        return place

    def remember(self, revision: str | None, commit: str) -> None:
        """Note the commit that a branch or tag is at."""
        if revision == commit:
            return
        note = self.path / "refs" / (revision or MAIN)
        note.parent.mkdir(parents=True, exist_ok=True)
        fresh = note.with_name(f".{note.name}.{uuid.uuid4().hex}")  # another thread may note the same
        fresh.write_text(commit)
        os.replace(fresh, note)

    def commits(self, revision: str | None) -> Iterator[str]:
        """The commits that a revision may mean, by what is noted here: first what it was last at. For the main branch
        also others, the newest first: other tools move it when they fetch another file."""
        noted = self._noted(revision)
        if noted is not None:
            yield noted
        if revision in (None, MAIN):
            for commit in self._snapshots():
                if commit != noted:
                    yield commit

    def files(self, commit: str) -> list[RepoFile]:
        """The files of a revision that are there and whole."""
        folder = self.path / "snapshots" / commit
        found = []
        for place in folder.rglob("*"):
            with suppress(OSError):  # a link to nothing
                if place.is_file():
                    found.append(RepoFile(place.relative_to(folder).as_posix(), place.stat().st_size))
        return found

    def _noted(self, revision: str | None) -> str | None:
        if revision is not None and _COMMIT.fullmatch(revision):
            return revision
        with suppress(OSError, UnicodeDecodeError):
            noted = (self.path / "refs" / (revision or MAIN)).read_text().strip()
            return noted if _COMMIT.fullmatch(noted) else None
        return None

    def _snapshots(self) -> list[str]:
        """All commits of which files are there, the newest first."""
        times: dict[str, int] = {}
        with suppress(OSError):
            for folder in (self.path / "snapshots").iterdir():
                if _COMMIT.fullmatch(folder.name):
                    times[folder.name] = folder.stat().st_mtime_ns
        return sorted(times, key=lambda commit: times[commit], reverse=True)
