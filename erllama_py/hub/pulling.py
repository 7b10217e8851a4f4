"""A reference to a model that is here: found in the cache of the hub, or brought there. Blocks.

What was pulled is used as it is, and the hub is not asked, unless a newer version is looked for.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from types import ModuleType

import msgspec

from erllama_py.errors import NotPulled
from erllama_py.hub.border import library, may_pass, translated
from erllama_py.hub.cache_folder import CacheFolder
from erllama_py.hub.choosing import choose, meant, name_among
from erllama_py.hub.listing import Listing, list_repo
from erllama_py.hub.naming import HubModel, RepoFile, models_of
from erllama_py.hub.retrying import LISTINGS, wait_before
from erllama_py.hub.transfer import Source, Unwanted, Watch, bring
from erllama_py.options.hub_reference import HubReference
from erllama_py.results import PulledModel, PullProgress
from erllama_py.watch.log import get_logger

STEP = 0.1  # seconds between two reports


class Pull(msgspec.Struct, frozen=True, kw_only=True):
    """One pull, as it was asked for."""

    reference: HubReference
    wanted: Callable[[], bool] = lambda: True
    pause: Callable[[float], object] = time.sleep
    on_progress: Callable[[PullProgress], object] | None = None
    clock: Callable[[], float] = time.monotonic


def pull(asked: Pull, *, update: bool = False, offline: bool = False) -> PulledModel:
    """The model, brought here where it is not. Raises `PullError`, `transfer.Unwanted`."""
    reference = asked.reference
    hub = library(reference)
    if not update and (found := find_pulled(hub, reference)) is not None:
        return found
    if offline:
        raise NotPulled(str(reference), f"it is not pulled: `erllama pull {reference}` does it")
    with translated(reference):
        listing = _listed(hub, asked)
        model = choose(reference, models_of(listing.files))
        return _bring_model(hub, asked, listing, model)


def _listed(hub: ModuleType, asked: Pull) -> Listing:
    """What the repository has; the hub is asked again where it does not answer. Raises what `translated` knows,
    `Unwanted`."""
    for failures in range(LISTINGS - 1):
        try:
            return list_repo(hub, asked.reference)
        except Exception as error:
            if not may_pass(hub, error):
                raise
        asked.pause(wait_before(failures) or 0.0)
        if not asked.wanted():
            raise Unwanted
    return list_repo(hub, asked.reference)


def find_pulled(hub: ModuleType, reference: HubReference) -> PulledModel | None:
    """The model that a reference means among those that are here whole; None where there is none."""
    folder = CacheFolder(hub.constants.HF_HUB_CACHE, reference.repo)
    for commit in folder.commits(reference.revision):
        models = [model for model in models_of(folder.files(commit)) if not model.missing]
        found = meant(reference, models)
        if len(found) == 1:
            return described(folder, commit, found[0], models, reference.revision)
    return None


def described(
    folder: CacheFolder, commit: str, model: HubModel, models: list[HubModel], revision: str | None, downloaded: int = 0
) -> PulledModel:  # fmt: skip
    """A model of the cache as callers see it."""
    paths = [folder.linked(commit, file.path) for file in model.files]
    return PulledModel(
        reference=str(name_among(model, models, folder.repo, revision)),
        path=str(paths[0]), files=tuple(file.path for file in model.files),
        size=sum(path.stat().st_size for path in paths), quant=model.quant, revision=commit,
        last_used=max(path.stat().st_atime for path in paths), downloaded=downloaded,
    )  # fmt: skip


def _bring_model(hub: ModuleType, asked: Pull, listing: Listing, model: HubModel) -> PulledModel:
    reference = asked.reference
    folder = CacheFolder(hub.constants.HF_HUB_CACHE, reference.repo)
    log, progress = get_logger(reference=str(reference)), _Progress(asked, model)
    watch = Watch(asked.wanted, asked.pause, progress)
    downloaded = 0
    folder.begin(listing.commit)
    for file in model.files:
        if not folder.has(listing.commit, file):
            log.info("pulling a file of the hub", file=file.path, bytes=file.size)
            downloaded += bring(Source(hub, reference, listing.commit), folder, file, watch)
            folder.link(listing.commit, file)
        progress.finished(file)
    folder.remember(reference.revision, listing.commit)
    if downloaded:
        log.info("pulled a model of the hub", files=len(model.files), bytes=downloaded)
    models = models_of(listing.files)
    return described(folder, listing.commit, model, models, reference.revision, downloaded)


class _Progress:
    """Reports of one pull: at most ten a second, and one for each file that is done."""

    def __init__(self, asked: Pull, model: HubModel) -> None:
        self._asked, self._total, self._before = asked, model.size, 0
        self._next = float("-inf")

    def __call__(self, file: RepoFile, done: int) -> None:
        now = self._asked.clock()
        if now >= self._next:
            self._next = now + STEP
            self._say(file, self._before + done)

    def finished(self, file: RepoFile) -> None:
        self._before += file.size
        self._say(file, self._before)

    def _say(self, file: RepoFile, done: int) -> None:
        if self._asked.on_progress is not None:
            self._asked.on_progress(PullProgress(file.path, done, self._total))
