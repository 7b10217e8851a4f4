"""Which tiers there can be, as frozen structs: what `runtime.start_tier` and `Runtime(tiers=…)` take."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from erllama_py.errors import InvalidOption
from erllama_py.options.check import PathText, convert, plain_path

LEAST_QUOTA = 1 << 20  # below 1 MiB not a single row fits
QuotaBytes = Annotated[int, Meta(ge=LEAST_QUOTA, le=1 << 60)]


class TierSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The base of the tiers that lie in a directory."""

    root: PathText
    """The directory; made (0700) where it is not there. It belongs to one process at a time."""
    quota_bytes: QuotaBytes = 8 << 30
    """Most bytes of all files in it, those being written counted in."""


class DiskTier(TierSpec, frozen=True):
    """Rows in files that survive the process and the machine."""


class RamFileTier(TierSpec, frozen=True):
    """Rows in files on a memory file system (`/dev/shm`): they survive the process, not the machine."""


class RamTier(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Rows in this process's memory; the runtime starts one, named `"ram"`."""

    quota_bytes: QuotaBytes
    """Most bytes of all rows."""


AnyTier = DiskTier | RamFileTier | RamTier
KINDS: dict[str, type[DiskTier] | type[RamFileTier]] = {"disk": DiskTier, "ram_file": RamFileTier}


def kind_of(spec: AnyTier) -> str:
    """The kind that a model's `tier` names: `"ram"`, `"ram_file"` or `"disk"`."""
    return {DiskTier: "disk", RamFileTier: "ram_file", RamTier: "ram"}[type(spec)]


def parse_tier(spec: object) -> DiskTier | RamFileTier:
    """Check a tier, given as a struct or as a mapping `{"kind": "disk", "root": …, "quota_bytes": …}`.

    The root becomes absolute. Raises `InvalidOption`.
    """
    if isinstance(spec, Mapping):
        options: dict[Any, Any] = dict(spec)
        chosen = options.pop("kind", None)
        kind = KINDS.get(chosen) if isinstance(chosen, str) else None
        if kind is None:
            raise InvalidOption("kind", f"expected one of {', '.join(map(repr, KINDS))}, got {chosen!r}")
        return _checked(options, kind)
    if isinstance(spec, DiskTier | RamFileTier):
        return _checked(msgspec.structs.asdict(spec), type(spec))
    raise InvalidOption("tier", f"expected DiskTier, RamFileTier or a mapping, got {type(spec).__name__}")


def _checked(options: dict[Any, Any], kind: type[DiskTier] | type[RamFileTier]) -> DiskTier | RamFileTier:
    if "root" not in options:
        raise InvalidOption("root", f"a {kind.__name__} needs a directory")
    checked = convert(options, kind, root=plain_path)
    if not checked.root or "\0" in str(checked.root):
        raise InvalidOption("root", "a path is not empty and has no NUL character")
    try:
        os.fsencode(checked.root)
        return msgspec.structs.replace(checked, root=str(Path(checked.root).absolute()))
    except UnicodeEncodeError:
        raise InvalidOption("root", "no directory can have this name: it holds a lone surrogate") from None
    except OSError as error:
        raise InvalidOption("root", f"it is relative, and there is no working directory: {error}") from error
