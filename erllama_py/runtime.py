"""`Runtime`: the one object that an application opens. It forwards; it decides nothing.

async with erllama_py.Runtime() as runtime:
    model = await runtime.load_model("tiny", {"model_path": "tiny.gguf"})
    print((await model.complete("Once upon a time")).reply)
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from erllama_py import switch_interval, tree
from erllama_py.actors import (
    ActorError,
    ChildFailure,
    DynamicSupervisor,
    Exit,
    NameNotFound,
    Names,
    NameTaken,
    Restart,
    RestartLimits,
    Stopped,
    StopTimeout,
    Tree,
    TreeNode,
)
from erllama_py.config import ModelConfig, check_model_id, check_tier, parse_model_config
from erllama_py.engine.backends import BackendFactory, make_backend
from erllama_py.errors import (
    AlreadyLoaded,
    InvalidOption,
    ModelCrashed,
    ModelNotLoaded,
    ModelStuck,
    RuntimeClosed,
    RuntimeFailed,
    RuntimeReused,
)
from erllama_py.model.board import ModelBoard
from erllama_py.model.client import ChatMessage, Model, Prompt, actor_name, model_id_of
from erllama_py.model.messages import FaultPlace
from erllama_py.model.stream import Stream
from erllama_py.results import CacheHit, Completion, LoadProgress, ModelInfo, Phase
from erllama_py.watch.log import get_logger

# The tiers that run, by name, with their kinds.
TIERS = {"ram": "ram"}

# Seconds that a Python thread may keep the interpreter while another waits for it. The interpreter's own 5 ms
# is most of a decode step (7-10 ms with SmolLM2): an application busy with Python code would make each step
# wait that long for its turn. 0.5 ms bounds the wait to a few per cent and costs nothing that shows.
SWITCH_SECONDS = 0.0005


def home_folder(home: str | os.PathLike[str] | None = None) -> Path:
    """Where erllama keeps what it remembers: `home`, else `$ERLLAMA_HOME`, else `~/.cache/erllama`."""
    return Path(home or os.environ.get("ERLLAMA_HOME") or Path.home() / ".cache" / "erllama")


class Runtime:
    """A supervision tree with models in it; an async context manager, to be opened once.

    `home` is the folder for what outlives the process, by default `$ERLLAMA_HOME` or `~/.cache/erllama`.
    `switch_seconds` is the interpreter's switch interval while the runtime is open, `None` to leave it alone.
    `backend_factory` makes the backends, by model id and configuration: a place for a fake of your own. When
    the tree gives up, the body is cancelled and `RuntimeFailed` is raised at its end.
    """

    def __init__(
        self,
        *,
        home: str | os.PathLike[str] | None = None,
        switch_seconds: float | None = SWITCH_SECONDS,
        backend_factory: BackendFactory = make_backend,
    ) -> None:
        self._home = home_folder(home)
        self._switch_seconds = switch_seconds
        self._make_backend = backend_factory
        self._names = Names()
        self._boards: dict[str, ModelBoard] = {}
        self._ids = itertools.count(1)
        root, self._branches = tree.build(self._restarting, self._gave_up)
        self._tree = Tree(root)
        self._root = root
        self._entered = False
        self._open = False
        self._log = get_logger()

    def __repr__(self) -> str:
        return f"<Runtime {'open' if self._open else 'closed'}, {len(self._boards)} models>"

    async def __aenter__(self) -> Self:
        if self._entered:
            raise RuntimeReused
        self._entered = True
        await self._tree.__aenter__()
        self._open = True
        if self._switch_seconds is not None:
            switch_interval.hold(self._switch_seconds)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._open = False
        for board in self._boards.values():
            board.close("unloaded", RuntimeClosed)
        try:
            await self._tree.__aexit__(kind, error, traceback)
        except ActorError as failure:  # the root ended by itself
            raise RuntimeFailed(str(failure)) from failure
        finally:
            self._boards.clear()
            if self._switch_seconds is not None:
                switch_interval.release(self._switch_seconds)

    # --- models ------------------------------------------------------------------------------------------------

    async def load_model(
        self,
        model_id: str | Mapping[str, Any] | ModelConfig,
        config: Mapping[str, Any] | ModelConfig | None = None,
        *,
        on_progress: Callable[[LoadProgress], object] | None = None,
    ) -> Model:
        """Load a model and return its handle once it can answer: `load_model(config)` or `load_model(id, config)`.

        `on_progress` is called on the event loop with bytes hashed and weights loaded. A caller that is
        cancelled aborts the load. Raises `InvalidOption`, `AlreadyLoaded`, `TierNotFound`, `TierMismatch`,
        `FingerprintMismatch`, `QuantMismatch` or a `ModelLoadError`.
        """
        self._check_open()
        if config is not None:
            checked_id, checked = check_model_id(model_id), parse_model_config(config)
        elif isinstance(model_id, str):
            raise InvalidOption("config", "load_model takes a configuration, or an id and a configuration")
        else:
            checked_id, checked = self._new_id(), parse_model_config(model_id)
        check_tier(checked, TIERS)
        self._forget_unloaded()
        if checked_id in self._boards:
            raise AlreadyLoaded(checked_id)
        board = self._boards[checked_id] = ModelBoard(checked_id, checked, on_progress)
        try:
            await self._models.start_child(
                tree.model_child(board, self._names, self._make_backend, self._home / "fingerprints")
            )
        except BaseException:
            self._boards.pop(checked_id, None)
            if not self._open:
                raise RuntimeClosed from None
            raise
        return Model(board, self._names)

    async def unload(self, model: Model | str) -> None:
        """Unload a model and return when its memory is free. Open calls get `ModelNotLoaded`.

        Raises `ModelStuck` when its engine thread does not end: the memory stays taken, and so does the id.
        """
        board = self._board(model)
        board.close("unloaded", partial(ModelNotLoaded, board.model_id))
        try:
            await self._models.stop_child(actor_name(board.model_id))
        except StopTimeout as timeout:
            raise ModelStuck(board.model_id) from timeout
        except NameNotFound:  # another unload was first
            return
        finally:
            self._forget_unloaded()

    def model(self, model: Model | str) -> Model:
        """The handle of a loaded model. Raises `ModelNotLoaded`."""
        return Model(self._board(model), self._names)

    def list_models(self) -> list[ModelInfo]:
        """What is loaded, in the order of loading; models that load for the first time are not in it yet."""
        self._check_open()
        self._forget_unloaded()
        return [Model(board, self._names).info for board in self._boards.values() if board.info is not None]

    def model_info(self, model: Model | str) -> ModelInfo:
        """Everything known of one model."""
        return self.model(model).info

    def phase(self, model: Model | str) -> Phase:
        """What a model is doing now."""
        return self._board(model).phase

    def pending_len(self, model: Model | str) -> int:
        """Requests that wait for a model."""
        return self._board(model).pending

    def queue_depth(self, model: Model | str | None = None) -> int:
        """Requests that run or wait, for one model or for all."""
        self._check_open()
        models = [self.model(model)] if model is not None else [Model(b, self._names) for b in self._boards.values()]
        return sum(one.queue_depth for one in models)

    def last_cache_hit(self, model: Model | str) -> CacheHit | None:
        """How the last request of a model hit the cache."""
        return self._board(model).last_hit

    async def complete(self, model: Model | str, prompt: Prompt, **options: Any) -> Completion:
        """`Model.complete`, by handle or id."""
        return await self.model(model).complete(prompt, **options)

    def stream(self, model: Model | str, prompt: Prompt, **options: Any) -> Stream:
        """`Model.stream`, by handle or id."""
        return self.model(model).stream(prompt, **options)

    async def chat(self, model: Model | str, messages: Sequence[ChatMessage], **options: Any) -> Completion:
        """`Model.chat`, by handle or id."""
        return await self.model(model).chat(messages, **options)

    def stream_chat(self, model: Model | str, messages: Sequence[ChatMessage], **options: Any) -> Stream:
        """`Model.stream_chat`, by handle or id."""
        return self.model(model).stream_chat(messages, **options)

    def cancel(self, model: Model | str, request_id: int) -> None:
        """`Model.cancel`, by handle or id."""
        self.model(model).cancel(request_id)

    async def tokenize(self, model: Model | str, text: str, **options: bool) -> list[int]:
        """`Model.tokenize`, by handle or id."""
        return await self.model(model).tokenize(text, **options)

    async def detokenize(self, model: Model | str, tokens: Sequence[int], **options: bool) -> str:
        """`Model.detokenize`, by handle or id."""
        return await self.model(model).detokenize(tokens, **options)

    async def apply_chat_template(
        self, model: Model | str, messages: Sequence[ChatMessage], **options: Any
    ) -> list[int]:
        """`Model.apply_chat_template`, by handle or id."""
        return await self.model(model).apply_chat_template(messages, **options)

    def inject_fault(self, model: Model | str, where: FaultPlace = "actor") -> None:
        """`Model.inject_fault`, by handle or id."""
        self.model(model).inject_fault(where)

    # --- the tree ------------------------------------------------------------------------------------------------

    async def supervise(
        self,
        name: str,
        function: Callable[[], Awaitable[object]],
        *,
        restart: Restart = "permanent",
        limits: RestartLimits | None = None,
    ) -> Supervised:
        """Run a coroutine function of yours, an agent loop, under the tree.

        `"permanent"` restarts it whenever it ends, `"transient"` only when it raises, `"temporary"` never.
        Over its `limits` it is marked failed and the rest of the tree lives on. Raises `InvalidOption` for a
        name that is taken or a function that is none.
        """
        self._check_open()
        if not callable(function):
            raise InvalidOption("function", f"a coroutine function expected, got {type(function).__name__}")
        branch = self._branches["user"]
        try:
            await branch.start_child(tree.user_child(check_model_id(name), function, restart, limits))
        except NameTaken:
            raise InvalidOption("name", f"{name!r} is supervised already") from None
        return Supervised(name, branch)

    def tree(self) -> TreeNode:
        """The supervision tree as it is now; `print` draws it."""
        return self._root.snapshot()

    # --- inside --------------------------------------------------------------------------------------------------

    @property
    def _models(self) -> DynamicSupervisor:
        return self._branches["models"]

    def _check_open(self) -> None:
        if not self._open:
            raise RuntimeClosed

    def _board(self, model: Model | str) -> ModelBoard:
        self._check_open()
        model_id = model.id if isinstance(model, Model) else check_model_id(model)
        self._forget_unloaded()
        board = self._boards.get(model_id)
        if board is None:
            raise ModelNotLoaded(model_id)
        return board

    def _forget_unloaded(self) -> None:
        """Free the ids of models that are gone, also of those whose `unload` was cancelled half-way."""
        alive = self._models.child_names()
        for model_id, board in list(self._boards.items()):
            if board.phase == "unloaded" and actor_name(model_id) not in alive:
                del self._boards[model_id]

    def _new_id(self) -> str:
        return next(name for n in self._ids if (name := f"model_{n}") not in self._boards)

    def _restarting(self, failure: ChildFailure) -> None:
        delay = round(failure.delay or 0.0, 3)
        self._log.warning("restarting", child=failure.name, error=str(failure.error), delay_seconds=delay)

    def _gave_up(self, failure: ChildFailure) -> None:
        """A child was restarted too often: said once, loudly; calls of a model get the reason from now on."""
        self._log.error("gave up restarting", child=failure.name, error=str(failure.error))
        model_id = model_id_of(failure.name)
        if board := self._boards.get(model_id):
            board.failure = failure.error
            board.close("failed", partial(ModelCrashed, model_id, str(failure.error), gave_up=True))


class Supervised:
    """What `runtime.supervise` returns: one function under the tree."""

    def __init__(self, name: str, branch: DynamicSupervisor) -> None:
        self.name = name
        self._branch = branch

    async def stop(self) -> None:
        """Stop it and take it out of the tree. Allowed twice."""
        try:
            await self._branch.stop_child(self.name)
        except NameNotFound:
            return

    async def wait(self) -> Exit:
        """How it ended for good: `Returned(value)`, `Raised(error)` or `Stopped()`."""
        try:
            return await self._branch.wait_child(self.name)
        except NameNotFound:  # only what was stopped is forgotten
            return Stopped()
