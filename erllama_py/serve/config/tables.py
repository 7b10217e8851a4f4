"""The tables of a configuration file, and what they come to.

`Tables` is the file as it is written; `Config` is what it means: names settled, paths absolute, each tier and gate
checked. A model's options stay a mapping, so that what was not said can still get a default that suits the model: see
`sizing`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, cast

import msgspec
from msgspec import Meta

import erllama_py as erllama
from erllama_py.memory import available_memory
from erllama_py.serve.access import AccessOpts
from erllama_py.serve.core.amounts import KeepAlive, seconds_of
from erllama_py.serve.core.settings import ListenOpts

Name = Annotated[str, Meta(min_length=1, max_length=200)]
Bytes = Annotated[int, Meta(ge=1 << 20, le=1 << 60)]
RAM_SHARE = (
    10  # as `Runtime` has it: a tenth of the free memory is for the tier "ram"; here of the budget, if that is less
)
LEAST_QUOTA = 1 << 20


class Tables(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The top of the file."""

    server: dict[str, Any] = {}
    """Where and how it is served."""
    access: dict[str, Any] = {}
    """Who may use it, and from where."""
    runtime: dict[str, Any] = {}
    """What all models share."""
    models: list[dict[str, Any]] = []
    """The models, in the order in which they are loaded and listed."""
    tiers: dict[str, dict[str, Any]] = {}
    """Where what was computed is kept, by name. Models that name none use the first."""
    policy: dict[str, Any] = {}
    """When prefixes are saved; a model's own `policy` goes before it, gate by gate."""
    pressure: dict[str, Any] = {}
    """When memory is so short that saved rows are dropped."""


class RuntimeTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What all models share."""

    home: str | None = None
    """The folder for what outlives the process; `$ERLLAMA_HOME` or `~/.cache/erllama` where it is not given."""
    ram_quota_bytes: Bytes | None = None
    """Most bytes of the rows that are kept in memory; where it is not given, a tenth of the free memory, or of
    `memory_budget_bytes` if that is less."""
    save_buffer_bytes: Bytes = 256 << 20
    """Most bytes of rows that are to be written to tiers."""


class ModelTable(erllama.ModelConfig, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One of `[[models]]`: these, and every option of `ModelConfig`, whose `model_path` is `path` here."""

    path: str | None = None
    """The GGUF file, from the folder of the configuration file; of a model in several files, the first. Or a model of
    the Hugging Face hub, as `"hf:owner/repo:Q4_K_M"`."""
    name: Name | None = None
    """What requests call it; the name of its file without `.gguf` where it is not given."""
    aliases: tuple[Name, ...] = ()
    """Other names for it."""
    load: Literal["start", "demand"] = "start"
    """When it is loaded: before the server is ready, or at its first request."""
    keep_alive: KeepAlive | None = None
    """How long it stays without a request, as in `[server]`. By default as that says where `load` is `"demand"`, else
    without end."""
    pinned: bool = False
    """Never unload it, neither by time nor to make room."""
    memory_bytes: Bytes | None = None
    """What it takes of `memory_budget_bytes` while it is loaded; by default what its file says of its weights and
    context."""


class ServedModel(msgspec.Struct, frozen=True, kw_only=True):
    """A model that is to be served. `options` are for `Runtime.load_model`: checked, its path absolute, its tier
    and gates settled."""

    name: str
    options: dict[str, Any]
    aliases: tuple[str, ...] = ()
    load: Literal["start", "demand"] = "start"
    keep_alive: KeepAlive | None = None
    pinned: bool = False
    memory_bytes: int | None = None
    given: dict[str, Any] | None = None
    """Its options before sizes were settled, once they are."""
    file: erllama.ModelFile | None = None
    """What its file says, once that was looked at."""
    context_bytes: int = 0
    """What its context takes, then."""
    stamp: tuple[int, int] | None = None
    """When its file was changed before that, in nanoseconds, and its bytes."""

    @property
    def written(self) -> dict[str, Any]:
        """Its options as they were given: what the sizes were settled to depends on the memory that was free."""
        return self.options if self.given is None else self.given

    def stays(self, default: KeepAlive) -> float | None:
        """Seconds that it stays without a request, with the `default` of the server; `None`: without end."""
        if self.pinned:
            return None
        given = default if self.keep_alive is None and self.load == "demand" else self.keep_alive
        return None if given is None else seconds_of(given)

    @property
    def config(self) -> erllama.ModelConfigDict:
        """Its options as `Runtime.load_model` takes them: what they are was checked when they were read."""
        return cast("erllama.ModelConfigDict", self.options)


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """What a configuration file means."""

    models: tuple[ServedModel, ...]
    server: ListenOpts = ListenOpts()
    access: AccessOpts = AccessOpts()
    tiers: dict[str, erllama.TierSpec] = {}
    policy: erllama.PolicyOpts | None = None
    pressure: erllama.PressureOpts | None = None
    runtime: RuntimeTable = RuntimeTable()
    file: str | None = None
    """The path of the file itself, where there is one."""

    def aliases(self) -> dict[str, str]:
        """The name of a model by each of its other names."""
        return {alias: model.name for model in self.models for alias in model.aliases}

    @property
    def is_bounded(self) -> bool:
        """Whether models share a bound of memory, so that one may have to go for another."""
        return self.server.memory_budget_bytes is not None or any(model.load == "demand" for model in self.models)

    def reserved_bytes(self, free: int) -> int:
        """What tiers in memory and buffers may take, on a machine with so many `free` bytes at the start."""
        tiers = sum(tier.quota_bytes for tier in self.tiers.values() if tier.kind == "ram_file")
        return tiers + self._ram_bytes(free) + self.runtime.save_buffer_bytes

    def _ram_bytes(self, free: int) -> int:
        if self.runtime.ram_quota_bytes is not None:
            return self.runtime.ram_quota_bytes
        budget = self.server.memory_budget_bytes
        return max(LEAST_QUOTA, (free if budget is None else min(free, budget)) // RAM_SHARE)

    def runtime_options(self) -> dict[str, Any]:
        """What `Runtime` takes."""
        plain = msgspec.structs.asdict(self.runtime)
        if self.server.memory_budget_bytes is not None:  # the runtime does not know of it
            plain["ram_quota_bytes"] = self._ram_bytes(available_memory())
        return {"tiers": self.tiers, "policy": self.policy, "pressure": self.pressure, **plain}
