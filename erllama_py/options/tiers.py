"""Which tiers there can be, as frozen structs: what `runtime.start_tier` and `Runtime(tiers=…)` take."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import msgspec
from msgspec import Meta

from erllama_py.errors import InvalidOption
from erllama_py.options.check import PathText, absolute_path, convert, not_among, plain_path
from erllama_py.options.names import CheckedNames, given_at, unknown

RAM_TIER = "ram"  # the name of the tier that every runtime has
LEAST_QUOTA = 1 << 20  # below 1 MiB not a single row fits
QuotaBytes = Annotated[int, Meta(ge=LEAST_QUOTA, le=1 << 60)]


class RamTier(msgspec.Struct, frozen=True, forbid_unknown_fields=True, metaclass=CheckedNames):
    """Rows in this process's memory; the runtime starts one, named `"ram"`."""

    kind: ClassVar[str] = "ram"
    label: ClassVar[str] = "rows in this process's memory"
    speed: ClassVar[int] = 0

    quota_bytes: QuotaBytes
    """Most bytes of all rows."""


class TierSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, metaclass=CheckedNames):
    """The base of the tiers that lie in a directory.

    A kind is a class of its own: `kind` is what a model's `tier` names, and `label` says in the tree what lies there. A
    row that several tiers have is read from the one whose `speed`, a rank, is lowest.
    """

    kind: ClassVar[str]
    label: ClassVar[str]
    speed: ClassVar[int]

    root: PathText
    """The directory; made (0700) where it is not there. One that is there is empty, or a tier's already. It belongs to
    one process at a time."""
    quota_bytes: QuotaBytes = 8 << 30
    """Most bytes of all files in it, those being written included."""


class RamFileTier(TierSpec, frozen=True):
    """Rows in files on a memory file system (`/dev/shm`): they survive the process, not the machine."""

    kind: ClassVar[str] = "ram_file"
    label: ClassVar[str] = "rows in files in memory"
    speed: ClassVar[int] = 1


@given_at("it is an option of a tier")
class DiskTier(TierSpec, frozen=True):
    """Rows in files that survive the process and the machine."""

    kind: ClassVar[str] = "disk"
    label: ClassVar[str] = "rows in files on a disk"
    speed: ClassVar[int] = 2


# The registry: what a model may name is here.
KINDS: dict[str, type[RamTier | TierSpec]] = {spec.kind: spec for spec in (RamTier, RamFileTier, DiskTier)}


def parse_tier(spec: object) -> TierSpec:
    """Check a tier, given as a struct or as a mapping `{"kind": "disk", "root": …, "quota_bytes": …}`.

    The root becomes absolute. Raises `InvalidOption`.
    """
    kinds = {name: kind for name, kind in KINDS.items() if issubclass(kind, TierSpec)}
    if isinstance(spec, Mapping):
        options: dict[Any, Any] = dict(spec)
        chosen = options.pop("kind", None)
        kind = kinds.get(chosen) if isinstance(chosen, str) else None
        if kind is None:
            raise not_among("kind", kinds, chosen)
        return _checked(options, kind)
    if isinstance(spec, TierSpec):
        return _checked(msgspec.structs.asdict(spec), type(spec))
    names = ", ".join(sorted(kind.__name__ for kind in kinds.values()))
    made = f": DiskTier({os.fspath(spec)!r})" if isinstance(spec, str | os.PathLike) else ""
    raise InvalidOption("options", f"expected {names} or a mapping, got {type(spec).__name__}{made}")


def _checked(options: dict[Any, Any], kind: type[TierSpec]) -> TierSpec:
    for name in options:
        if isinstance(name, str) and name not in kind.__struct_fields__:
            raise unknown(name, "", kind.__struct_fields__)  # what is missing may be there by another name
    if "root" not in options:
        raise InvalidOption("root", f"a {kind.__name__} needs a directory")
    checked = convert(options, kind, root=plain_path)
    return msgspec.structs.replace(checked, root=absolute_path("root", checked.root))
