"""When the cache frees memory because the machine runs short: what `Runtime(pressure=…)` takes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import msgspec
from msgspec import Meta

from erllama_py.errors import InvalidOption
from erllama_py.options.check import convert, not_among, under

SourceName = Literal["noop", "system", "nvidia_smi"]
Answer = tuple[float, float] | float  # used and total bytes, or the share that is used
Measure = Callable[[], Answer | Awaitable[Answer]]
if TYPE_CHECKING:
    Source = SourceName | Measure
else:
    Source = Any  # msgspec has no union of names and callables: `parse_pressure` checks it

Share = Annotated[float, Meta(gt=0.0, le=1.0)]


class PressureOpts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How full the memory may get, what measures it, and which tiers then evict rows."""

    source: Source = "noop"
    """`"noop"` is off; `"system"` is the machine's memory, or the container's; `"nvidia_smi"` the fullest GPU's.

    Or a callable, async or not, that answers `(used, total)` in bytes, or the used share of the machine's memory as a
    number from 0 to 1. One that is not async runs on a thread of its own.
    """
    high_watermark: Share = 0.85
    """The used share from which rows are evicted."""
    low_watermark: Share = 0.75
    """The used share that an eviction aims at; below `high_watermark`, so that the two do not alternate."""
    min_evict_bytes: Annotated[int, Meta(ge=1, le=1 << 60)] = 64 << 20
    """Fewest bytes of one eviction; 64 MiB are a few rows, and less would make no difference."""
    interval_ms: Annotated[int, Meta(ge=10, le=86_400_000)] = 5000
    """Time between two readings, in milliseconds. One of `nvidia_smi` can take half a second."""
    evict_tiers: Annotated[tuple[Annotated[str, Meta(min_length=1)], ...], Meta(min_length=1)] = ("ram", "ram_file")
    """Kinds or names of the tiers that evict rows. Evicting from `"disk"` frees no memory."""


def parse_pressure(options: object) -> PressureOpts:
    """Check options, given as a struct or as a mapping. Raises `InvalidOption`."""
    with under("pressure"):
        checked = convert(options, PressureOpts)
    source: object = checked.source
    known = get_args(SourceName)
    if not callable(source) and source not in known:
        raise not_among("pressure.source", known, source, "a callable or ")
    if checked.low_watermark >= checked.high_watermark:
        problem = f"it must be below high_watermark, which is {checked.high_watermark}"
        raise InvalidOption("pressure.low_watermark", problem)
    return checked
