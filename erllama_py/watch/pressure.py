"""The pressure monitor: reads how full the memory is, every interval, and has the cache evict rows when it is too full.

    sleep → read → plan → evict → sleep …

A source that fails or hangs is counted, and logged once until it works again; so is an eviction that fails. Off
(`"noop"`), the monitor does nothing but answer `GetPressure`.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from erllama_py.actors import Actor, Answer, Background, Clock, Exit, Reply
from erllama_py.memory import Reading
from erllama_py.options.runtime import PressureOpts
from erllama_py.results import PressureState
from erllama_py.watch.log import get_logger
from erllama_py.watch.pressure_sources import Reader, choose_source

Evict = Callable[[int, tuple[str, ...]], Awaitable[int]]


class GetPressure(msgspec.Struct, frozen=True):
    """Ask the monitor for its `PressureState`."""


class PressureMonitor(Actor[GetPressure]):
    """`evict(nbytes, tiers)` frees about so many bytes in tiers of these kinds or names, and says how many it freed."""

    kind = "pressure monitor"

    def __init__(self, opts: PressureOpts, evict: Evict, clock: Clock) -> None:
        self._opts, self._evict, self._clock = opts, evict, clock
        name = opts.source if isinstance(opts.source, str) else getattr(opts.source, "__qualname__", "a callable")
        self._state = PressureState(source=name)
        self._problems: dict[str, str] = {}
        self._reader: Reader | None = None
        self._background = Background("pressure")

    def __repr__(self) -> str:
        return f"<{self._state}>"

    async def init(self) -> None:
        """Raises `InvalidOption` where the source cannot work on this machine."""
        self._log = get_logger(source=self._state.source)
        source = choose_source(self._opts)
        if source is not None:
            self._reader = Reader(source, self._clock)
            self._background.start(self._watch(self._reader))

    async def handle(self, message: GetPressure, reply: Reply[Any] | None) -> Answer:
        return Answer(self._state)

    async def terminate(self, exit: Exit) -> None:
        await self._background.stop()
        if self._reader is not None:
            self._reader.close()

    async def _watch(self, reader: Reader) -> None:
        while True:
            await self._clock.sleep(self._opts.interval_ms / 1000)
            reading = await self._read(reader)
            if reading is not None and (nbytes := plan(reading.used, reading.total, self._opts)):
                await self._make_room(nbytes, reading)

    async def _read(self, reader: Reader) -> Reading | None:
        try:
            reading = await reader.read()
        except Exception as error:  # whatever a caller's source runs into
            self._fails("cannot read the memory pressure", error)
            self._change(failed_readings=self._state.failed_readings + 1)
            return None
        self._works("cannot read the memory pressure")
        self._change(used=reading.used, total=reading.total, readings=self._state.readings + 1)
        return reading

    async def _make_room(self, nbytes: int, reading: Reading) -> None:
        try:
            freed = await self._evict(nbytes, self._opts.evict_tiers)
        except Exception as error:  # the cache may be restarting
            self._fails("cannot evict under memory pressure", error)
            self._change(failed_evictions=self._state.failed_evictions + 1)
            return
        self._works("cannot evict under memory pressure")
        if freed:
            self._log.info("evicted under memory pressure", used=reading.used, total=reading.total, freed=freed)
            evicted = self._state.evicted_bytes + freed
            self._change(evictions=self._state.evictions + 1, evicted_bytes=evicted)

    def _fails(self, event: str, error: Exception) -> None:
        if event not in self._problems:
            self._log.warning(event, problem=f"{type(error).__name__}: {error}")
        self._problems[event] = f"{event}: {type(error).__name__}: {error}"
        self._change(problem=self._problems[event])

    def _works(self, event: str) -> None:
        self._problems.pop(event, None)
        self._change(problem=next(iter(self._problems.values()), None))

    def _change(self, **fields: Any) -> None:
        self._state = msgspec.structs.replace(self._state, **fields)


def plan(used: int, total: int, opts: PressureOpts) -> int:
    """Bytes to evict: none below the high watermark, else what reaches the low one, and `min_evict_bytes` at least."""
    if used < opts.high_watermark * total:
        return 0
    return max(used - math.floor(opts.low_watermark * total), opts.min_evict_bytes)
