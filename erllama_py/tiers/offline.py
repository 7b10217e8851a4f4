"""A tier's directory that no process has open: locked, looked at, and cleaned. Blocks.

Looking changes nothing in it: bad files and temp files stay where they are. It is opened only where its marker is, so
that no other directory becomes a tier's by being looked at.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator
from typing import cast

from erllama_py.errors import TierFailed
from erllama_py.results import FileProblem, FileProblemKind
from erllama_py.tiers import marker, row_file
from erllama_py.tiers.lock import ASIDE, LOCK, ROWS, open_place, words
from erllama_py.tiers.messages import StoredRow
from erllama_py.tiers.scan import BadFile, Finding, breathing, look_at, read_row, take_census

HOLDER = "holder.json"  # a note of the process that has the directory open
_OWN = frozenset({LOCK, marker.MARKER, HOLDER})


class OfflineStore:
    """Owns the open `Place`. `tier` is what errors call it."""

    def __init__(self, tier: str, root: str) -> None:
        """Raises `TierLocked`, `TierFailed`."""
        self.tier, self.root = tier, root
        _check_marked(tier, root)
        self._place = open_place(tier, root)
        try:
            self._census = take_census(self._place, remove_temps=False)
        except OSError as error:
            self._place.close()
            raise TierFailed(tier, f"cannot read the directory {root}: {words(error)}") from error

    def close(self) -> None:
        """Free the lock. Allowed twice."""
        self._place.close()

    def names(self) -> list[str]:
        """The names of files that rows have."""
        return list(self._census.rows)

    def used(self) -> int:
        """Bytes of all files, as a quota counts them."""
        census = self._census
        return sum(sum(sizes.values()) for sizes in (census.rows, census.aside, census.stale, census.other))

    def look(self, names: list[str]) -> list[tuple[StoredRow | None, FileProblem | None]]:
        """The rows of files by their headers, and what is wrong with those that are none; nothing of what vanished."""
        found = look_at(self._place, names)
        return [(one.row, self._problem(one)) for one in found if one.row or one.bad or one.error]

    def check(self, name: str) -> FileProblem | None:
        """Read a row whole: what is wrong with it, if anything."""
        try:
            read_row(self._place, name, lambda nbytes: None)
        except FileNotFoundError:
            return None
        except BadFile as bad:
            return self._problem(Finding(name, bad=bad))
        except (OSError, MemoryError) as error:
            shown = error if isinstance(error, OSError) else OSError(str(error) or "out of memory")
            return self._problem(Finding(name, error=shown))
        return None

    def others(self) -> Iterator[FileProblem]:
        """What lies there beside rows."""
        for name, nbytes in self._census.aside.items():
            kind = name.split("-", 2)[1]
            yield FileProblem(name=f"{ASIDE}/{name}", kind="aside", problem=f"it was {kind}", nbytes=nbytes)
        for name, nbytes in self._census.stale.items():
            problem = "its writer was killed before the row was whole"
            yield FileProblem(name=f"{ROWS}/{name}", kind="temp", problem=problem, nbytes=nbytes)
        folders = {self._place.rows_fd: f"{ROWS}/", self._place.aside_fd: f"{ASIDE}/", self._place.root_fd: ""}
        for (directory, name), nbytes in self._census.other.items():
            if directory != self._place.root_fd or name not in _OWN:
                problem = "no tier has written it, and none removes it"
                yield FileProblem(name=folders[directory] + name, kind="unknown", problem=problem, nbytes=nbytes)

    def remove(
        self, keys: Iterable[bytes], before: Callable[[bytes], bytes | None], kept: set[bytes]
    ) -> dict[bytes, int]:
        """Remove the files of rows, those that extend others before them; their bytes by key.

        Where one cannot be removed, it is `kept`, and so is the one `before` it, which it extends.
        """
        gone: dict[bytes, int] = {}
        for key in breathing(keys):
            name = row_file.file_name(key)
            if key not in kept and self._unlink(self._place.rows_fd, name):
                gone[key] = self._census.rows.pop(name, 0)
                continue
            kept.add(key)
            if (parent := before(key)) is not None:
                kept.add(parent)
        return gone

    def sweep(self) -> int:
        """Remove what tiers have set aside and the temp files of writers that were killed; the bytes freed."""
        freed = 0
        for directory, sizes in ((self._place.aside_fd, self._census.aside), (self._place.rows_fd, self._census.stale)):
            for name in breathing(list(sizes)):
                if self._unlink(directory, name):
                    freed += sizes.pop(name)
        return freed

    def remove_files(self, names: Iterable[str]) -> int:
        """Remove files in `rows` by their names; the bytes freed."""
        freed = 0
        for name in breathing(names):
            if self._unlink(self._place.rows_fd, name):
                freed += self._census.rows.pop(name, 0)
        return freed

    def _unlink(self, directory: int, name: str) -> bool:
        """Whether a file is gone. What is no regular file was not written by a tier, and stays."""
        try:
            if not stat.S_ISREG(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
                return False
            os.unlink(name, dir_fd=directory)
        except FileNotFoundError:
            return True
        except OSError:
            return False
        return True

    def _problem(self, found: Finding) -> FileProblem | None:
        where, nbytes = f"{ROWS}/{found.name}", self._census.rows.get(found.name, 0)
        if found.bad is not None:
            kind = cast(FileProblemKind, found.bad.kind)
            return FileProblem(name=where, kind=kind, problem=found.bad.problem, nbytes=nbytes)
        if found.error is not None:
            return FileProblem(name=where, kind="unreadable", problem=words(found.error), nbytes=nbytes)
        return None


def refusal(root: str) -> str | None:
    """Why no tier would take a directory, if so. One that is not there is made, and so it is fine."""
    try:
        descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return None
    except OSError as error:
        return f"cannot open the directory {root}: {words(error)}"
    try:
        marker.check(root, root, descriptor)
    except TierFailed as error:
        return error.problem
    except OSError as error:
        return f"cannot read the directory {root}: {words(error)}"
    finally:
        os.close(descriptor)
    return None


def _check_marked(tier: str, root: str) -> None:
    """Raises `TierFailed` unless a tier has made this directory: looking at another one must not make it one."""
    try:
        descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise TierFailed(tier, f"cannot open the directory {root}: {words(error)}") from error
    try:
        if not marker.is_marked(descriptor):
            raise TierFailed(tier, f"the directory {root} holds no {marker.MARKER!r}, so it is not a tier's")
    except OSError as error:
        raise TierFailed(tier, f"cannot read the directory {root}: {words(error)}") from error
    finally:
        os.close(descriptor)
