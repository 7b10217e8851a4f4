"""`Runtime`: the one object that an application opens. It forwards; it decides nothing.

async with erllama_py.Runtime() as runtime:
    model = await runtime.load_model("tiny", {"model_path": "tiny.gguf"})
    print((await model.complete("Once upon a time")).reply)
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, Self, Unpack

import anyio

from erllama_py import errors, switch_interval, tree
from erllama_py.actors import (
    ActorEnded,
    ActorError,
    ChildSpec,
    Home,
    MonotonicClock,
    Names,
    NameTaken,
    Restart,
    RestartLimits,
    Stopped,
    Tree,
    TreeNode,
    describe,
)
from erllama_py.buffers import BufferPool
from erllama_py.cache.handle import Cache
from erllama_py.engine import BackendFactory, SourceFactory, make_backend, make_source
from erllama_py.handle.by_id import ModelCalls
from erllama_py.handle.caller import Caller
from erllama_py.handle.model import Model, board_of
from erllama_py.handle.supervised import Supervised, parse_supervise
from erllama_py.home import home_folder
from erllama_py.model.board import ModelBoard
from erllama_py.model.companions import Companions
from erllama_py.model.embedders import Embedders, Place
from erllama_py.model.registry import Registry
from erllama_py.options.attributes import OtherNames
from erllama_py.options.check import under
from erllama_py.options.load_call import load_call
from erllama_py.options.mappings import ModelConfigDict, PolicyOptsDict, PressureOptsDict, RestartLimitsDict, TierDict
from erllama_py.options.model import ModelConfig, check_name, parse_model_config, with_tier
from erllama_py.options.names import checked_names
from erllama_py.options.policy import PolicyOpts
from erllama_py.options.runtime import SAVE_BUFFER_BYTES, SWITCH_SECONDS, PressureOpts, parse_runtime_options
from erllama_py.options.tiers import TierSpec, parse_tier
from erllama_py.pulling import Pulls
from erllama_py.results import LoadProgress, ModelInfo, PressureState
from erllama_py.tiers.registry import TierRegistry
from erllama_py.watch.log import get_logger
from erllama_py.watch.pressure import GetPressure


class Runtime(ModelCalls, OtherNames):
    """A supervision tree with models in it; an async context manager, to be opened once.

    `tiers` are started with it, by name: `DiskTier`, `RamFileTier`, or mappings with a `kind`. `ram_quota_bytes` is
    for the tier `"ram"`, by default a tenth of the memory that is free. `policy` holds for gates that models do not
    give. `pressure` says when memory is so short that rows are evicted; by default never. `save_buffer_bytes` bounds
    the rows that are to be written to tiers.

    `home` is the folder for what outlives the process, by default `$ERLLAMA_HOME` or `~/.cache/erllama`.
    `switch_seconds` is the interpreter's switch interval while the runtime is open, `None` to leave it alone.
    `backend_factory` makes the backends, by model id and configuration: pass your own to substitute a fake. When
    the tree gives up, the body is cancelled and `RuntimeFailed` is raised at its end.
    """

    @checked_names
    def __init__(
        self,
        *,
        home: str | os.PathLike[str] | None = None,
        tiers: Mapping[str, TierSpec | TierDict] | None = None,
        ram_quota_bytes: int | None = None,
        policy: PolicyOpts | PolicyOptsDict | None = None,
        pressure: PressureOpts | PressureOptsDict | None = None,
        save_buffer_bytes: int = SAVE_BUFFER_BYTES,
        switch_seconds: float | None = SWITCH_SECONDS,
        backend_factory: BackendFactory = make_backend,
    ) -> None:
        self._names = Names(Home(errors.WrongLoop))
        self._options = options = parse_runtime_options(
            tiers, policy, pressure, ram_quota_bytes=ram_quota_bytes, save_buffer_bytes=save_buffer_bytes,
            switch_seconds=switch_seconds, home=home,
        )  # fmt: skip
        self._home = home_folder(options.home)
        factory: object = backend_factory
        if not callable(factory):
            expected = "a function of an id and a configuration is expected"
            raise errors.InvalidOption("backend_factory", f"{expected}, got {type(factory).__name__}")
        own = backend_factory is make_backend
        self._make_backend: SourceFactory = partial(make_source, home=self._home) if own else backend_factory
        self._buffers = BufferPool(options.save_buffer_bytes)
        root, self._branches = tree.build(options.ram, self._names)
        self.cache = Cache(self._names)
        self._tree = Tree(root, self._failed)
        self._tiers = TierRegistry(
            options.ram, lambda: self._branches["tiers"], lambda name, spec: tree.tier_child(name, spec, self._names)
        )
        self._models = Registry(lambda: self._branches["models"], self._model_child, self._save)
        self._companions = Companions(lambda: self._branches["models"], self._model_child, self._save, MonotonicClock())
        self._embedders = Embedders(lambda: self._branches["models"], self._embedder_child, MonotonicClock())
        self._pulls = Pulls()
        self._entered = False
        self._open = False

    def __repr__(self) -> str:
        return f"<Runtime {'open' if self._open else 'closed'}, {len(self._models)} models>"

    async def __aenter__(self) -> Self:
        if self._entered:
            raise errors.RuntimeReused
        self._entered = True
        try:
            await self._names.home.settle()
            await self._tree.__aenter__()
        except BaseException as error:
            self._names.home.leave()
            if isinstance(error, ActorError):
                raise errors.RuntimeFailed(str(error)) from error
            raise
        self._open = True
        options = self._options
        if options.switch_seconds is not None:
            switch_interval.hold(self, options.switch_seconds)
        try:
            for name, spec in options.tiers.items():
                await self.start_tier(name, spec)
            if options.pressure.source != "noop":
                watch = self._branches["watch"]
                await watch.start_child(tree.pressure_child(options.pressure, self.cache.evict_bytes, self._names))
        except BaseException as error:
            await self.__aexit__(type(error), error, error.__traceback__)
            raise
        return self

    async def __aexit__(self, *exc_info: Any) -> None:
        self._names.home.check()
        self._open = False
        self._pulls.close()
        try:
            # A scope around the runtime that is cancelled cancels whatever is awaited; this has a bound of its own.
            with anyio.CancelScope(shield=True):
                await self._models.close()
        finally:
            await self._close_tree(*exc_info)

    async def _close_tree(self, *exc_info: Any) -> None:
        try:
            await self._tree.__aexit__(*exc_info)
        except ActorError as failure:  # the root ended by itself
            raise errors.RuntimeFailed(str(failure)) from failure
        finally:
            self._models.clear()
            self._buffers.close()
            self._names.home.leave()
            switch_interval.release(self)

    # --- models ------------------------------------------------------------------------------------------------

    async def load_model(
        self,
        model_id: str | os.PathLike[str] | ModelConfigDict | ModelConfig | None = None,
        config: str | os.PathLike[str] | ModelConfigDict | ModelConfig | None = None,
        *,
        on_progress: Callable[[LoadProgress], object] | None = None,
        **given: Unpack[ModelConfigDict],
    ) -> Model:
        """Load a model and return its handle once it can answer: `load_model(config)` or `load_model(id, config)`.

        A configuration that is no more than a file may be its path, as in `load_model("model.gguf")`; what a
        configuration holds may also be given by keyword. A model of the Hugging Face hub (`"hf:owner/repo:Q4_K_M"`)
        that is not on this machine is downloaded first, as by `pull_model`.
        `on_progress` is called on the event loop with bytes downloaded, hashed and loaded. A caller that is
        cancelled aborts the load. Raises `InvalidOption`, `AlreadyLoaded`, `TierNotFound`, `TierMismatch`,
        `FingerprintMismatch`, `QuantMismatch`, a `ModelLoadError`, `ModelStuck` where the last model of this id still
        holds its memory, and `ModelNotLoaded` when it is unloaded, or ends with its supervisor, meanwhile.
        """
        self._check_open()
        if on_progress is not None and not callable(on_progress):
            raise errors.InvalidOption("on_progress", f"expected a function, got {type(on_progress).__name__}")
        chosen_id, options = load_call(model_id, config, given)
        checked = with_tier(parse_model_config(options, self._options.policy), self._tiers.kinds())
        if self._pulls.needed(checked):
            self._models.check_free(chosen_id)
            checked = await self._pulls.settled(checked, chosen_id, on_progress)
            self._check_open()
        checked_id = self._models.new_id() if chosen_id is None else chosen_id
        with self._or_gone():
            return self._handle(await self._models.load(checked_id, checked, on_progress))

    def model(self, model: Model | str) -> Model:
        """The handle of a loaded model. Raises `ModelNotLoaded`."""
        return self._handle(self._board(model))

    def list_models(self) -> list[ModelInfo]:
        """What is loaded, in the order of loading; models that load for the first time are not in it yet."""
        self._check_open()
        return [self._handle(board).info for board in self._models if board.info is not None]

    def queue_depth(self, model: Model | str | None = None) -> int:
        """Requests that run or wait, for one model or for all."""
        self._check_open()
        models = [self.model(model)] if model is not None else [self._handle(b) for b in self._models]
        return sum(one.queue_depth for one in models)

    # --- tiers -------------------------------------------------------------------------------------------------

    @checked_names
    async def start_tier(self, name: str, spec: TierSpec | TierDict) -> None:
        """Start a tier by name; returns when it can store rows, while it reads its old ones in the background.

        Raises `InvalidOption`, `TierTaken`, `TierLocked` when another process has the directory, `TierFailed`,
        and `TierStuck` when the directory does not open, after two minutes at most; until it ends the name stays taken.
        """
        self._check_open()
        with under("spec"):
            checked = parse_tier(spec)
        with self._or_gone():
            await self._tiers.start(check_name(name, "name"), checked)

    async def stop_tier(self, name: str) -> None:
        """Stop a tier: its rows stay where they are, and are found again when it is started again.

        Models that save to it go on without saving. Raises `TierNotFound`, `InvalidOption` for `"ram"`, and `TierStuck`
        where its device has not answered for a minute: it stays taken.
        """
        self._check_open()
        await self._tiers.stop(check_name(name, "name"))

    async def pressure(self) -> PressureState | None:
        """What the pressure monitor has seen and done; None if the runtime has none, or while it restarts."""
        self._check_open()
        try:
            state: PressureState = await self._names.call(tree.PRESSURE, GetPressure())
        except ActorError:
            return None
        return state

    # --- the tree ------------------------------------------------------------------------------------------------

    @checked_names
    async def supervise(
        self,
        name: str,
        function: Callable[[], Awaitable[object]],
        *,
        restart: Restart = "permanent",
        limits: RestartLimits | RestartLimitsDict | None = None,
    ) -> Supervised:
        """Run your own coroutine function, such as an agent loop, under the tree.

        `"permanent"` restarts it whenever it ends, `"transient"` only when it raises, `"temporary"` never. Over its
        `limits`, a `RestartLimits` or a mapping, it is marked failed and the rest of the tree keeps running; it leaves
        the tree when it is stopped, or ends for good without failing. Raises `InvalidOption`, also for a name that is
        taken.
        """
        self._check_open()
        spec = tree.user_child(check_name(name, "name"), function, restart, parse_supervise(function, restart, limits))
        try:
            return Supervised(await self._branches["user"].start_child(spec), self._names.home.check)
        except NameTaken:
            raise errors.InvalidOption("name", f"{name!r} is supervised already") from None
        except ActorError as error:  # it was stopped before it began: its branch ends, or was cancelled from outside
            raise self._gone() from error

    def tree(self) -> TreeNode:
        """The supervision tree as it is now; `print` draws it."""
        self._names.home.check()
        return self._tree.snapshot()

    # --- inside --------------------------------------------------------------------------------------------------

    def _model_child(self, board: ModelBoard) -> ChildSpec:
        return tree.model_child(board, self._names, self._make_backend, self._home / "fingerprints", self._buffers)

    def _embedder_child(self, place: Place) -> ChildSpec:
        return tree.embedder_child(place, self._names)

    def _caller(self, board: ModelBoard) -> Caller:
        return Caller(board, self._names, self._models.unload, self._companions.hold, self._embedders.hold)

    async def _save(self, board: ModelBoard) -> None:
        await self._caller(board).save_all("shutdown")

    def _handle(self, board: ModelBoard) -> Model:
        return Model(self._caller(board))

    def _check_open(self) -> None:
        self._names.home.check()  # first: at the end of an `asyncio.run` that left it open, its tasks were cancelled
        if not self._open:
            raise self._gone()

    @contextmanager
    def _or_gone(self) -> Iterator[None]:
        """If the runtime ended while something was started, that is the error; else the start's own."""
        try:
            yield
        except (errors.ModelNotLoaded, errors.TierFailed) as error:
            if not self._open:
                raise self._gone() from error
            raise

    def _gone(self) -> errors.ErllamaError:
        failure = self._tree.failure
        return errors.RuntimeClosed() if failure is None else errors.RuntimeFailed(str(failure))

    def _failed(self, failure: BaseException) -> None:
        """The tree gives up: nothing is accepted any more, and all waiting callers are woken, whichever task opened the
        runtime."""
        self._open = False
        switch_interval.release(self)  # the block may never be left
        if isinstance(failure, ActorEnded) and isinstance(failure.exit, Stopped):
            get_logger().error("the tasks of a runtime were cancelled: was its block not left before the loop ended?")
        else:
            get_logger().error("the supervision tree gave up", error=describe(failure), exc_info=failure)
        for board in self._models:
            board.close(self._gone)

    def _board(self, model: Model | str) -> ModelBoard:
        self._check_open()
        board = self._models.get(model.id if isinstance(model, Model) else check_name(model))
        if isinstance(model, Model) and board_of(model) is not board:
            # A handle is one load's: it never acts on the next one of its id.
            raise errors.ModelNotLoaded(board.model_id)
        return board
