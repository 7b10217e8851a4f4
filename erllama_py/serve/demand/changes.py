"""What a changed configuration means for a server that runs: a comparison of two configurations.

Models are compared as they were written: what sizes were settled to depends on the memory that was free.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

import msgspec

from erllama_py.serve.config import Config, ServedModel
from erllama_py.serve.core.served import Changes
from erllama_py.serve.core.settings import ServerOpts

STORED = ("max_stored_responses", "max_stored_bytes")  # the store of answers was made with them
AT_ONCE = frozenset(ServerOpts.__struct_fields__) - frozenset(STORED)


def changes(old: Config, new: Config, altered: Collection[str] = ()) -> Changes:
    """What has changed from one configuration to another; the files of the models that are `altered` have, too."""
    before, now = {one.name: one for one in old.models}, {one.name: one for one in new.models}
    both = [name for name in now if name in before]
    in_place = [
        *(f"server.{name}" for name in _differing(old.server, new.server) if name in AT_ONCE),
        *(f"access.{name}" for name in _differing(old.access, new.access)),
        *(f"tiers.{name}" for name in new.tiers if name not in old.tiers),
        *(place for name in both for place in _of_model(before[name], now[name])),
    ]
    return Changes(
        added=tuple(name for name in now if name not in before),
        removed=tuple(name for name in before if name not in now),
        replaced=tuple(name for name in both if name in altered or before[name].written != now[name].written),
        changed=tuple(in_place), needs_restart=tuple(_lasting(old, new)),
    )  # fmt: skip


def _differing(old: msgspec.Struct, new: msgspec.Struct) -> Iterator[str]:
    """The fields of two structs of one kind that differ."""
    return (name for name in new.__struct_fields__ if getattr(old, name) != getattr(new, name))


def _of_model(old: ServedModel, new: ServedModel) -> Iterator[str]:
    """What of a model can change while it is loaded."""
    for name in ("aliases", "load", "keep_alive", "pinned", "memory_bytes"):
        if getattr(old, name) != getattr(new, name):
            yield f"models.{new.name}.{name}"


def _lasting(old: Config, new: Config) -> Iterator[str]:
    """What lasts as long as the server."""
    yield from (f"server.{name}" for name in _differing(old.server, new.server) if name not in AT_ONCE)
    yield from (f"runtime.{name}" for name in _differing(old.runtime, new.runtime))
    yield from (f"tiers.{name}" for name, tier in old.tiers.items() if new.tiers.get(name) != tier)
    if old.policy is not None and new.policy is None:  # else it is in the models' own
        yield "policy"
    if old.pressure != new.pressure:
        yield "pressure"


def merged(old: Config, new: Config) -> Config:
    """The configuration that holds after a change: the new one, with what lasts as it was."""
    lasting = {name: getattr(old.server, name) for name in _differing(old.server, new.server) if name not in AT_ONCE}
    return msgspec.structs.replace(
        new, server=msgspec.structs.replace(new.server, **lasting), runtime=old.runtime, pressure=old.pressure,
        tiers={**new.tiers, **old.tiers}, policy=old.policy if new.policy is None else new.policy,
    )  # fmt: skip
