"""What all requests of one application share: the runtime, the names of its models, who may ask, and what is measured.

`Access`, `Meters` are what other rooms put in: who may ask, and what is measured. Without them everybody may, and
nothing is.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Protocol, runtime_checkable

import msgspec
from starlette.requests import HTTPConnection

import erllama_py as erllama
from erllama_py.serve.core.lasting_streams import LastingStreams
from erllama_py.serve.core.open_requests import Open
from erllama_py.serve.core.problems import Problem
from erllama_py.serve.core.recent import Recent
from erllama_py.serve.core.served import Changes, Loaded, Served, ServedState, being_loaded
from erllama_py.serve.core.settings import ServerOpts

LATEST = ":latest"


class Tenant(msgspec.Struct, frozen=True):
    """Who asks, as far as it matters to a model."""

    name: str = ""
    """For the log and the metrics; empty where there are no keys."""
    salt: str | None = None
    """What keeps its cached prefixes apart from those of others: see `cache_salt`. Never out of a request."""
    priority: int = 0
    """Of its requests: see `priority`."""
    operator: bool = False
    """Whether it may see what all tenants together do: metrics, the tree, the cache."""
    models: frozenset[str] | None = None
    """Names that it may use, ids or aliases; `None`: all that are served."""


class Access(Protocol):
    """Who may ask, and how much."""

    def admit(self, connection: HTTPConnection) -> Tenant:
        """The tenant of a request, before its body is read. Raises `Problem`."""

    def spent(self, tenant: Tenant, tokens: int) -> None:
        """Work for a tenant took so many tokens more, computed or generated: also that for a client who has left."""


@runtime_checkable
class Readmits(Protocol):
    """An `Access` that also knows its tenants without a request of theirs, for work that goes on when that is over."""

    def readmit(self, tenant: Tenant) -> Tenant:
        """A tenant that was admitted before, as it is now, within what it may use. Raises `Problem`."""


def readmitted(access: Access, tenant: Tenant) -> Tenant:
    """The tenant of work that the server does without a request, as it is now. Raises `Problem`."""
    return access.readmit(tenant) if isinstance(access, Readmits) else tenant


@runtime_checkable
class Knows(Protocol):
    """An `Access` that tells who asks without counting a request of theirs, for answers that go on for long."""

    def known(self, connection: HTTPConnection) -> Tenant:
        """The tenant of a request, as it is now. Raises `Problem`."""


def may_still_operate(access: Access, connection: HTTPConnection) -> bool:
    """Whether a request that an operator began would be one's now: keys come and go while it is answered."""
    try:
        return not isinstance(access, Knows) or access.known(connection).operator
    except Problem:
        return False


class Meters(Protocol):
    """What is measured of requests."""

    def began(self, api: str, route: str) -> None:
        """A request has come."""

    def first(self, model: str, seconds: float) -> None:
        """The first piece of a reply came after so long."""

    def gap(self, model: str, seconds: float) -> None:
        """Between two pieces of a stream."""

    def replied(self, api: str, model: str, completion: erllama.Completion) -> None:
        """A reply is complete."""

    def ended(self, api: str, route: str, status: int, seconds: float) -> None:
        """A request is over; status 499 where its client has left."""


class BatchCounts:
    """What the batches of an application have come to since its start."""

    def __init__(self) -> None:
        self.open = 0
        """Batches that are not over."""
        self.completed = self.failed = 0
        """Lines."""

    def add(self, *, well: bool) -> None:
        """One more line is answered."""
        if well:
            self.completed += 1
        else:
            self.failed += 1


class Everybody:
    """No keys."""

    def admit(self, connection: HTTPConnection) -> Tenant:
        """Everybody is the same tenant, and the operator."""
        return Tenant(operator=True)

    def spent(self, tenant: Tenant, tokens: int) -> None:
        """Without bound."""


class Unmeasured:
    """No metrics."""

    def began(self, api: str, route: str) -> None:
        """Not counted."""

    def first(self, model: str, seconds: float) -> None:
        """Not counted."""

    def gap(self, model: str, seconds: float) -> None:
        """Not counted."""

    def replied(self, api: str, model: str, completion: erllama.Completion) -> None:
        """Not counted."""

    def ended(self, api: str, route: str, status: int, seconds: float) -> None:
        """Not counted."""


class Service:
    """One served runtime. `aliases` are further names of its models; `served` says which there are, by default all that
    are loaded in it."""

    def __init__(
        self,
        runtime: erllama.Runtime,
        settings: ServerOpts,
        *,
        aliases: Mapping[str, str] | None = None,
        served: Served | None = None,
        access: Access | None = None,
        meters: Meters | None = None,
    ) -> None:
        self.runtime = runtime
        self.settings = settings
        self.aliases = dict(aliases or {})
        self.served: Served = served or Loaded(runtime)
        self.access: Access = access or Everybody()
        self.meters: Meters = meters or Unmeasured()
        self.open = Open(settings.max_open)
        self.reload: Callable[[], Awaitable[Changes]] | None = None
        """Reads the configuration again, where there is one, and applies what has changed."""
        self.recent = Recent()
        self.batches = BatchCounts()
        self.lasting = LastingStreams(settings)
        self.open.drained.add(self.lasting.drain)
        self.started_at = time.time()  # unix time: that of what is served, where a client asks for one

    def states(self) -> ServedState:
        """What each model does, loaded or not, and the memory that they share. Raises `RuntimeClosed`."""
        return self.served.state()

    def models(self, tenant: Tenant | None = None) -> dict[str, erllama.ModelInfo]:
        """What is served to a tenant, loaded or not, by each of its names: ids first, then aliases."""
        infos = {one.id: one for one in self.served.infos()}
        named = infos | {alias: infos[name] for alias, name in self.aliases.items() if name in infos}
        if tenant is None or (allowed := tenant.models) is None:
            return named
        return {name: info for name, info in named.items() if name in allowed or info.id in allowed}

    def missing(self, tenant: Tenant | None = None) -> dict[str, str]:
        """The models that are to be served to a tenant and have not been loaded yet: their ids, by each of their
        names."""
        known = {one.id for one in self.served.infos()}
        ids = {name: name for name in {*self.aliases.values(), *self.served.missing()} - known}
        named = ids | {alias: name for alias, name in self.aliases.items() if name in ids}
        if tenant is None or (allowed := tenant.models) is None:
            return named
        return {name: one for name, one in named.items() if name in allowed or one in allowed}

    def info(self, name: str | None, tenant: Tenant | None = None) -> erllama.ModelInfo:
        """The model that a request names, loaded or not; without a name the only one. Raises `Problem`, `ErllamaError`.

        A name means the same with the tag `:latest` and without: clients of Ollama put it to names, in all APIs.
        """
        known, missing = self.models(tenant), self.missing(tenant)
        named = [one for one in _spellings(name) if one in known]
        waits = not name or any(one in missing for one in _spellings(name))
        if not named and missing and waits:
            raise being_loaded()
        if not name and len({info.id for info in known.values()}) == 1:
            named = list(known)
        if not name and not named:
            raise Problem("invalid", f"a model is to be named: {_list(known)}", param="model")
        if not named:
            message = f"model {str(name)[:80]!r} not found: {_list(known)}"
            raise Problem("not_found", message, param="model", code="model_not_found")
        return known[named[0]]

    @asynccontextmanager
    async def model(self, name: str | None, tenant: Tenant | None = None) -> AsyncIterator[erllama.Model]:
        """The model that a request names, loaded while the block runs. Raises as `info`, and what a load raises."""
        lease = await self.served.lease(self.info(name, tenant).id)
        try:
            yield self.runtime.model(lease.model_id)
        finally:
            lease.release()


def _spellings(name: str | None) -> list[str]:
    return [name, name.removesuffix(LATEST), name + LATEST] if name else []


def _list(names: Iterable[str]) -> str:
    return "served are " + (", ".join(repr(name) for name in list(names)[:20]) or "none yet")


def session_of(hint: str | None) -> str | None:
    """A client's word for its conversation, whatever its length, as the id of a session."""
    return hashlib.sha256(hint.encode()).hexdigest() if hint else None
