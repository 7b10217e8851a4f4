"""What a repository of the hub has, at one commit. Asks the hub; blocks."""

from __future__ import annotations

import re
from types import ModuleType

import msgspec

from erllama_py.hub.naming import RepoFile
from erllama_py.options.hub_reference import HubReference

_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
SECONDS = 30.0  # until an answer of the API counts as none


class Listing(msgspec.Struct, frozen=True):
    """A repository at one commit."""

    commit: str
    files: tuple[RepoFile, ...]


def list_repo(hub: ModuleType, reference: HubReference) -> Listing:
    """The files of a repository with their sizes and checksums. Raises what `border.translated` knows."""
    info = hub.HfApi(endpoint=hub.constants.ENDPOINT, library_name="erllama_py").model_info(
        reference.repo, revision=reference.revision, files_metadata=True, timeout=SECONDS
    )
    if not _COMMIT.fullmatch(info.sha or ""):
        raise ValueError("the answer names no commit")
    return Listing(info.sha, tuple(file for one in info.siblings or () if (file := _file(one)) is not None))


def _file(sibling: object) -> RepoFile | None:
    """A file as the API tells of it; None where it says no size or no checksum."""
    path, size = getattr(sibling, "rfilename", None), getattr(sibling, "size", None)
    large = getattr(sibling, "lfs", None)
    digest = getattr(large, "sha256", None) if large is not None else getattr(sibling, "blob_id", None)
    pattern = _SHA256 if large is not None else _COMMIT  # git's own objects are named as commits are
    known = isinstance(digest, str) and pattern.fullmatch(digest) is not None
    if not isinstance(path, str) or not isinstance(size, int) or size < 0 or not known:
        return None
    return RepoFile(path, size, str(digest))
