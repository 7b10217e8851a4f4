"""`pull_model`, `list_pulled`, `list_unfinished`, `remove_pulled`: models of the Hugging Face hub here; and the pulls
of a runtime.

Each works on a thread of its own, so that the event loop never waits for the network or the disk.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

import msgspec

from erllama_py import hub
from erllama_py.actors import Threads
from erllama_py.errors import AlreadyLoaded, InvalidOption, RuntimeClosed
from erllama_py.options.hub_reference import HubReference, is_hub_reference
from erllama_py.options.model import ModelConfig
from erllama_py.results import LoadProgress, PulledModel, PullProgress, UnfinishedPull

T = TypeVar("T")


async def pull_model(
    reference: str | HubReference,
    *,
    update: bool = False,
    offline: bool = False,
    on_progress: Callable[[PullProgress], object] | None = None,
) -> PulledModel:
    """Have a model of the Hugging Face hub on this machine: `(await pull_model("hf:owner/repo:Q4_K_M")).path`.

    What is pulled already is used as it is, without a look at the hub; `update` asks for a newer version, `offline`
    never asks. A download that breaks off, or is cancelled, goes on where it was with the next call, in another process
    too. `on_progress` is called on the event loop. It needs the extra `hub`. Raises `InvalidOption` and a `PullError`.
    """
    parsed = _reference(reference)
    if on_progress is not None and not callable(on_progress):
        raise InvalidOption("on_progress", f"expected a function, got {type(on_progress).__name__}")
    if update and offline:
        raise InvalidOption("offline", "a newer version cannot be looked for without asking the hub")
    loop, unwanted = asyncio.get_running_loop(), threading.Event()

    def report(progress: PullProgress) -> None:
        if on_progress is not None and not unwanted.is_set():
            with suppress(RuntimeError):  # the loop has closed
                loop.call_soon_threadsafe(on_progress, progress)

    asked = _asked(parsed, unwanted, report)
    try:
        return await _on_thread(lambda: hub.pull(asked, update=update, offline=offline))
    finally:
        unwanted.set()


async def list_pulled() -> list[PulledModel]:
    """The models that lie in the hub's cache on this machine, whoever has pulled them. The hub is not asked.

    Raises `PullError` where the extra `hub` is not installed.
    """
    return await _on_thread(hub.list_all)


async def list_unfinished() -> list[UnfinishedPull]:
    """What downloads have left in the hub's cache that broke off, or that go on right now. `pull_model` continues them.

    Raises `PullError` where the extra `hub` is not installed.
    """
    return await _on_thread(hub.list_unfinished)


async def remove_pulled(reference: str | HubReference, *, unfinished: bool = False) -> int:
    """Remove a pulled model; how many bytes of the disk are free again.

    Files that another revision shares stay. With `unfinished` no model is removed, but what downloads of its repository
    have left that broke off. Raises `InvalidOption`, `NotPulled`, `ModelInUse` where a process has it in
    its memory, as far as the system tells, and `PullError`.
    """
    parsed = _reference(reference)
    return await _on_thread(lambda: hub.remove_unfinished(parsed) if unfinished else hub.remove(parsed))


def pull_now(path: str, unwanted: threading.Event) -> str:
    """The file of a reference, for those who are on a thread already. It blocks until `unwanted` is set."""
    return hub.pull(_asked(HubReference.parse(path), unwanted)).path


class Pulls:
    """The pulls that loads of one runtime wait for, by the id of the model."""

    def __init__(self) -> None:
        self._tasks: dict[asyncio.Task[PulledModel], str | None] = {}

    @staticmethod
    def needed(config: ModelConfig) -> bool:
        """Whether the model is one of the hub. The stub looks at no file."""
        return config.backend != "stub" and is_hub_reference(config.model_path)

    async def settled(
        self, config: ModelConfig, model_id: str | None, on_progress: Callable[[LoadProgress], object] | None
    ) -> ModelConfig:
        """The configuration with the file that its reference means. Raises `PullError`, `AlreadyLoaded` for an id whose
        model is being pulled, and `RuntimeClosed` when the runtime ends meanwhile."""
        if model_id is not None and model_id in self._tasks.values():
            raise AlreadyLoaded(model_id)

        def report(progress: PullProgress) -> None:
            if on_progress is not None:
                on_progress(LoadProgress("download", progress.done, progress.total))

        task = asyncio.ensure_future(pull_model(str(config.model_path), on_progress=report))
        self._tasks[task] = model_id
        try:
            await asyncio.wait((task,))
        finally:
            del self._tasks[task]
            task.cancel()
        if task.cancelled():
            raise RuntimeClosed
        return msgspec.structs.replace(config, model_path=task.result().path)

    def close(self) -> None:
        """The runtime ends."""
        for task in self._tasks:
            task.cancel()


def _asked(
    reference: HubReference, unwanted: threading.Event, on_progress: Callable[[PullProgress], object] | None = None
) -> hub.Pull:
    """A pull that ends when it is unwanted."""
    return hub.Pull(
        reference=reference, wanted=lambda: not unwanted.is_set(), pause=unwanted.wait, on_progress=on_progress
    )


def _reference(given: str | HubReference) -> HubReference:
    return given if isinstance(given, HubReference) else HubReference.parse(given)


async def _on_thread(function: Callable[[], T]) -> T:
    """Call a function that blocks. A caller that is cancelled does not wait for it."""
    threads = Threads("hub", 1)
    try:
        return await threads.abandon(function)
    finally:
        threads.close()
