"""File systems that lack a call: rows are stored, found again and never half there, as on any other."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.directory_tier import path_of, served, tier_at, works
from helpers.fake_cache import key_of, tier_running

from erllama_py.tiers.messages import TierHealth

pytestmark = pytest.mark.anyio


def lacking(number: int, call: Callable[..., Any], directories: bool = False) -> Callable[..., Any]:
    """A call that this file system does not have, or not for directories."""

    def refuse(*args: Any, **options: Any) -> Any:
        if directories and not stat.S_ISDIR(os.fstat(args[0]).st_mode):
            return call(*args, **options)
        raise OSError(number, os.strerror(number))

    return refuse


@pytest.mark.parametrize(
    ("call", "number"),
    [
        ("posix_fallocate", errno.EOPNOTSUPP),
        ("posix_fallocate", errno.EINVAL),
        ("link", errno.EPERM),
        ("link", errno.EOPNOTSUPP),
        ("fsync", errno.EINVAL),
    ],
)
async def test_a_file_system_that_lacks_a_call_is_used_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    """Without an allocation a full disk shows later; without links a file is renamed, as its directory has one owner;
    a directory that cannot be synced is not."""
    monkeypatch.setattr(os, call, lacking(number, getattr(os, call), directories=call == "fsync"))
    async with tier_running(lambda: tier_at(tmp_path / "kv")) as bench:
        await bench.put(1)
        await works(bench, tmp_path / "kv")
        await bench.put(1)  # adopted
        path_of(tmp_path / "kv", 1).write_bytes(b"bad")
        await bench.put(1)  # replaced
        assert await served(bench, 1)
        assert bench.cache.told(TierHealth) == []
    async with tier_running(lambda: tier_at(tmp_path / "kv")) as bench:
        assert {row.meta.key for row in await bench.cache.opened()} == {key_of(1), key_of(99)}
