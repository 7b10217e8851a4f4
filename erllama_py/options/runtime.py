"""What `Runtime(…)` takes, checked once, at the door, before anything is started."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import msgspec
import psutil
from msgspec import Meta

from erllama_py.errors import InvalidOption
from erllama_py.options.check import PathText, convert, plain_path, under
from erllama_py.options.model import check_name
from erllama_py.options.policy import PolicyOpts, parse_policy
from erllama_py.options.pressure import PressureOpts, parse_pressure
from erllama_py.options.tiers import LEAST_QUOTA, QuotaBytes, RamTier, TierSpec, parse_tier

RAM_TIER = "ram"

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


class RuntimeOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Checked, every default filled in."""

    ram: RamTier
    tiers: Mapping[str, TierSpec]
    policy: PolicyOpts
    pressure: PressureOpts
    save_buffer_bytes: int
    switch_seconds: float | None
    home: PathText | None


class _Plain(msgspec.Struct, frozen=True, kw_only=True):
    home: PathText | None
    ram_quota_bytes: QuotaBytes | None
    save_buffer_bytes: Annotated[int, Meta(ge=1 << 20, le=1 << 60)]  # buffers are lent in whole MiB
    switch_seconds: Annotated[float, Meta(gt=0.0, le=1.0)] | None


def parse_runtime_options(
    tiers: object,
    policy: object,
    pressure: object,
    **plain: object,
) -> RuntimeOptions:
    """Check what a runtime was given. Raises `InvalidOption`."""
    checked = convert(plain, _Plain, home=plain_path)
    quota = checked.ram_quota_bytes
    if quota is None:
        quota = max(LEAST_QUOTA, int(psutil.virtual_memory().available * RAM_SHARE))
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
        raise InvalidOption("tiers", f"expected a mapping of names to tiers, got {type(tiers).__name__}")
    parsed: dict[str, TierSpec] = {}
    for name, spec in tiers.items():
        if check_name(name, "tiers") == RAM_TIER:
            raise InvalidOption("tiers", f"{RAM_TIER!r} is the name of the tier that every runtime has")
        with under(f"tiers.{name}"):
            parsed[name] = parse_tier(spec)
    return parsed
