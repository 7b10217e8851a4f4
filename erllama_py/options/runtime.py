"""What `Runtime(…)` takes, checked once, at the door, before anything is started."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import msgspec
from msgspec import Meta

from erllama_py.errors import InvalidOption
from erllama_py.memory import available_memory
from erllama_py.options.check import PathText, convert, not_among, plain_path, under
from erllama_py.options.model import check_name
from erllama_py.options.names import given_at
from erllama_py.options.policy import PolicyOpts, parse_policy
from erllama_py.options.tiers import LEAST_QUOTA, RAM_TIER, QuotaBytes, RamTier, TierSpec, parse_tier

# The share of the memory free at the start of the runtime that the RAM tier may fill: enough for some hours of
# chats with a small model, little enough that a second runtime, or a larger model, still finds room.
RAM_SHARE = 0.1

# Memory for rows that are to be written to a tier: ten spans of 256 tokens of a model of 70 billion parameters (80 KB
# a token in f16), or forty of one of 7 billion. What does not fit is not saved, and counted.
SAVE_BUFFER_BYTES = 256 << 20

# Seconds that a Python thread may keep the interpreter while another waits for it. The interpreter's own 5 ms
# is most of a decode step (7-10 ms with SmolLM2): an application busy with Python code would make each step
# wait that long for its turn. 0.5 ms bounds the wait to a few per cent and costs nothing measurable.
SWITCH_SECONDS = 0.0005


SourceName = Literal["noop", "system", "nvidia_smi"]
Answer = tuple[float, float] | float  # used and total bytes, or the share that is used
Measure = Callable[[], Answer | Awaitable[Answer]]
if TYPE_CHECKING:
    Source = SourceName | Measure
else:
    Source = Any  # msgspec has no union of names and callables: `parse_pressure` checks it

Share = Annotated[float, Meta(gt=0.0, le=1.0)]


@given_at("it is an option of Runtime(pressure=…)")
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


class RuntimeOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Checked, every default filled in."""

    ram: RamTier
    tiers: Mapping[str, TierSpec]
    policy: PolicyOpts
    pressure: PressureOpts
    save_buffer_bytes: int
    switch_seconds: float | None
    home: PathText | None


@given_at("it is an option of Runtime")
class _Plain(msgspec.Struct, frozen=True, kw_only=True):
    home: PathText | None
    ram_quota_bytes: QuotaBytes | None
    save_buffer_bytes: Annotated[int, Meta(ge=1 << 20, le=1 << 60)]  # buffers are lent in whole MiB
    switch_seconds: Annotated[float, Meta(gt=0.0, le=1.0)] | None


def parse_runtime_options(tiers: object, policy: object, pressure: object, **plain: object) -> RuntimeOptions:
    """Check what a runtime was given. Raises `InvalidOption`."""
    checked = convert(plain, _Plain, home=plain_path)
    quota = checked.ram_quota_bytes
    if quota is None:
        quota = max(LEAST_QUOTA, int(available_memory() * RAM_SHARE))
    return RuntimeOptions(
        ram=RamTier(quota),
        tiers=_parse_tiers({} if tiers is None else tiers),
        policy=parse_policy({} if policy is None else policy),
        pressure=parse_pressure({} if pressure is None else pressure),
        save_buffer_bytes=checked.save_buffer_bytes,
        switch_seconds=checked.switch_seconds,
        home=checked.home,
    )


def _parse_tiers(tiers: object) -> dict[str, TierSpec]:
    if not isinstance(tiers, Mapping):
        expected = "expected a mapping of names to tiers"
        raise InvalidOption("tiers", f'{expected}, got {type(tiers).__name__}: {{"disk": DiskTier("/a/directory")}}')
    parsed: dict[str, TierSpec] = {}
    for name, spec in tiers.items():
        if check_name(name, "tiers") == RAM_TIER:
            raise InvalidOption("tiers", f"{RAM_TIER!r} is the name of the tier that every runtime has")
        with under(f"tiers.{name}"):
            parsed[name] = parse_tier(spec)
    return parsed


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
