"""All models that were pulled: listed, and removed through huggingface_hub's own deletion. Blocks.

A file that another revision, or another tool's, shares keeps its bytes: the library deletes a blob with its last link.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

from erllama_py.errors import ModelInUse, NotPulled
from erllama_py.hub.border import library, translated
from erllama_py.hub.cache_folder import CacheFolder
from erllama_py.hub.choosing import meant
from erllama_py.hub.naming import models_of
from erllama_py.hub.pulling import described
from erllama_py.hub.transfer import LOOK
from erllama_py.mapped_files import mapped_by
from erllama_py.options.hub_reference import HubReference
from erllama_py.results import PulledModel, UnfinishedPull


def list_all() -> list[PulledModel]:
    """Every pulled model, by name; of one that several revisions share, the newest."""
    hub = library("the models of the hub")
    found: list[PulledModel] = []
    for folder in CacheFolder.all(hub.constants.HF_HUB_CACHE):
        with suppress(OSError):  # a file that somebody removes meanwhile
            found += _of_repo(folder)
    return sorted(found, key=lambda one: one.reference.lower())


def list_unfinished() -> list[UnfinishedPull]:
    """What downloads have left that broke off, or that go on right now, by repository."""
    hub = library("the models of the hub")
    found: list[UnfinishedPull] = []
    for folder in CacheFolder.all(hub.constants.HF_HUB_CACHE):
        for partial in folder.partials():
            with suppress(FileNotFoundError):  # it is whole by now
                facts = partial.stat()
                found.append(UnfinishedPull(f"hf:{folder.repo}", str(partial), facts.st_size, facts.st_mtime))
    return found


def remove_unfinished(reference: HubReference) -> int:
    """Remove what downloads of a repository have left that broke off; how many bytes that frees. Raises `NotPulled`."""
    hub = library(reference)
    with translated(reference):
        folder = CacheFolder(hub.constants.HF_HUB_CACHE, reference.repo)
        if not (partials := folder.partials()):
            raise _not_pulled(folder, reference, "no download of it broke off")
        return sum(_drop(hub, folder, partial) for partial in partials)


def remove(reference: HubReference) -> int:
    """Remove a model; how many bytes that frees. Of a repository as a whole what broke off goes, too.

    Raises `NotPulled`, `ModelInUse`.
    """
    hub = library(reference)
    with translated(reference):
        folder = CacheFolder(hub.constants.HF_HUB_CACHE, reference.repo)
        broken = [] if _names_one(reference) else folder.partials()
        places = {place for one in _meant(folder, reference, needed=not broken) for place in one}
        if pids := mapped_by({os.path.realpath(place) for place in places}):
            raise ModelInUse(str(reference), tuple(pids))
        freed = sum(_drop(hub, folder, partial) for partial in broken)
        return freed + _delete(hub, folder, places)


def _names_one(reference: HubReference) -> bool:
    return reference.quant is not None or reference.file is not None


def _drop(hub: ModuleType, folder: CacheFolder, partial: Path) -> int:
    """Remove what a download has left, unless it goes on; how many bytes that frees."""
    from filelock import Timeout

    try:
        with hub.utils.WeakFileLock(folder.locks / f"{partial.stem}.lock", timeout=LOOK):
            size = partial.stat().st_size
            partial.unlink()
            return size
    except (Timeout, FileNotFoundError):
        return 0


def _of_repo(folder: CacheFolder) -> Iterator[PulledModel]:
    """The models of one repository: those of its main branch, then what other revisions have beside them."""
    known: set[tuple[str, ...]] = set()
    for number, commit in enumerate(folder.commits(None)):
        models = [model for model in models_of(folder.files(commit)) if not model.missing]
        for model in models:
            bytes_of = tuple(os.path.realpath(folder.linked(commit, file.path)) for file in model.files)
            if bytes_of not in known:
                known.add(bytes_of)
                yield described(folder, commit, model, models, None if number == 0 else commit)


def _meant(folder: CacheFolder, reference: HubReference, *, needed: bool) -> list[list[Path]]:
    """The places of the model that is meant, in each revision that it may be of. Raises `NotPulled`."""
    found: list[list[Path]] = []
    for commit in folder.commits(reference.revision):
        models = models_of(folder.files(commit))
        models = list(meant(reference, models)) if _names_one(reference) else models
        if len(models) > 1:
            raise _not_pulled(folder, reference, "several are pulled")
        found += [[folder.linked(commit, file.path) for file in model.files] for model in models]
    if not found and needed:
        raise _not_pulled(folder, reference, "it is not pulled")
    return found


def _not_pulled(folder: CacheFolder, reference: HubReference, problem: str) -> NotPulled:
    there = tuple(one.reference for one in _of_repo(folder))
    return NotPulled(str(reference), f"{problem}; there is {', '.join(there)}" if there else problem, there)


def _delete(hub: ModuleType, folder: CacheFolder, places: set[Path]) -> int:
    """Delete files of a repository, then what has nothing left in it; how many bytes that frees."""
    cache, revisions = _scanned(hub, folder)
    files = {file for revision in revisions for file in revision.files if file.file_path in places}
    if len(files) < len(places):
        raise OSError(f"huggingface_hub cannot read {folder.path}")
    deletion = cache.delete_files(*files)
    deletion.execute()
    cache, revisions = _scanned(hub, folder)
    emptied = [revision.commit_hash for revision in revisions if not revision.files]
    if len(emptied) < len(revisions) or not folder.partials():  # else what comes right now would go with the folder
        cache.delete_revisions(*emptied).execute()
    return int(deletion.expected_freed_size)


def _scanned(hub: ModuleType, folder: CacheFolder) -> tuple[Any, list[Any]]:
    """The cache, and the revisions of one repository, as huggingface_hub sees them."""
    cache = hub.scan_cache_dir(folder.path.parent)
    return cache, [one for repo in cache.repos if repo.repo_path.name == folder.path.name for one in repo.revisions]
