"""`GET /metrics`: for Prometheus, in its text format or as OpenMetrics, as it asks.

All numbers are read on the event loop, then written down in one go: a collector of prometheus-client cannot wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterator
from typing import TypeVar

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from starlette.responses import Response
from starlette.types import ASGIApp

import erllama_py as erllama
from erllama_py.serve.core.exchange import Exchange
from erllama_py.serve.core.served import ServedState
from erllama_py.serve.core.service import Service
from erllama_py.serve.operations.collector import Reading, families
from erllama_py.serve.operations.meters import RequestMeters

T = TypeVar("T")
READ_SECONDS = 2.0  # what has not answered by then is left out


class Metrics(Collector):
    """The metrics of one application, in a registry of its own. `service.meters` are to be its `meters`."""

    def __init__(self, service: Service, meters: RequestMeters) -> None:
        self._service, self._meters = service, meters
        self._reading: Reading | None = None
        self.registry = CollectorRegistry(auto_describe=False)
        self.registry.register(self)
        ProcessCollector(registry=self.registry)

    def collect(self) -> Iterator[Metric]:
        """See `Collector`: what was read last."""
        return iter(()) if self._reading is None else families(self._reading)

    async def page(self, accept: str) -> tuple[bytes, str]:
        """The page, and its media type, of those that `accept` names."""
        encode, media_type = choose_encoder(accept)
        self._reading = await self._read()
        return encode(self.registry), media_type  # no other page is begun between these two

    async def endpoint(self, exchange: Exchange) -> ASGIApp:
        """What the server has done and holds, for Prometheus."""
        exchange.check_operator()
        body, media_type = await self.page(exchange.request.headers.get("accept", ""))
        return Response(body, media_type=media_type)

    async def _read(self) -> Reading:
        service, runtime = self._service, self._service.runtime
        try:
            infos, states = runtime.list_models(), service.states()
        except erllama.ErllamaError:  # it is not open
            infos, states = [], ServedState(models=())
        models = tuple((info, runtime.model(info.id).counters) for info in infos)
        cache, tiers, pressure = runtime.cache.counters(), runtime.cache.tiers(), runtime.pressure()
        counted, tiers_now, pressed = await asyncio.gather(_or_none(cache), _or_none(tiers), _or_none(pressure))
        return Reading(
            meters=self._meters, open_limit=service.settings.max_open, draining=service.open.draining, served=states,
            batches=service.batches, lasting=service.lasting, models=models,
            cache=counted, tiers=tuple(tiers_now or ()), pressure=pressed, tree=runtime.tree(),
        )  # fmt: skip


async def _or_none(work: Awaitable[T]) -> T | None:
    try:
        async with asyncio.timeout(READ_SECONDS):
            return await work
    except (erllama.ErllamaError, TimeoutError):
        return None
