"""The door of `Runtime(…)`: what is refused before anything is started, and what the defaults are."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import psutil
import pytest

import erllama_py as erllama
from erllama_py.options.runtime import RAM_SHARE, parse_runtime_options

MIB = 1 << 20
DISK = {"kind": "disk", "root": "a"}
PLAIN: dict[str, Any] = {"ram_quota_bytes": None, "save_buffer_bytes": MIB, "switch_seconds": None, "home": None}

WRONG: list[tuple[dict[str, Any], str, str]] = [
    ({"ram_quota_bytes": "1"}, "ram_quota_bytes", "expected int or None, got str"),
    ({"ram_quota_bytes": -5}, "ram_quota_bytes", "expected int >= 1048576, got -5"),
    ({"ram_quota_bytes": True}, "ram_quota_bytes", "expected int or None, got bool"),
    ({"save_buffer_bytes": None}, "save_buffer_bytes", "expected int, got None"),
    ({"save_buffer_bytes": "x"}, "save_buffer_bytes", "expected int, got str"),
    ({"save_buffer_bytes": 0}, "save_buffer_bytes", "expected int >= 1048576, got 0"),
    ({"switch_seconds": 0.0}, "switch_seconds", "expected float > 0.0, got 0.0"),
    ({"tiers": [1]}, "tiers", "expected a mapping of names to tiers, got list"),
    ({"tiers": {5: DISK}}, "tiers", "expected str, got int"),
    (
        {"tiers": {"ram": {"kind": "disk", "root": "a"}}},
        "tiers",
        "'ram' is the name of the tier that every runtime has",
    ),
    ({"tiers": {"d": "rows"}}, "tiers.d", "expected DiskTier, RamFileTier or a mapping, got str"),
    ({"tiers": {"d": {"kind": "disk"}}}, "tiers.d.root", "a DiskTier needs a directory"),
    ({"tiers": {"d": {"kind": "dsk"}}}, "tiers.d.kind", "expected one of 'disk', 'ram_file', got 'dsk'"),
    ({"home": 3}, "home", "expected str or None, got int"),
    ({"policy": 5}, "policy", "expected a mapping or PolicyOpts, got int"),
    ({"pressure": "system"}, "pressure", "expected a mapping or PressureOpts, got str"),
    ({"policy": {"min_tokens": -1}}, "policy.min_tokens", "expected int >= 0, got -1"),
]


@pytest.mark.parametrize(("options", "option", "problem"), WRONG, ids=range(len(WRONG)))
def test_a_runtime_refuses_what_it_could_not_work_with(options: dict[str, Any], option: str, problem: str) -> None:
    """When it is made, and not at the first request."""
    with pytest.raises(erllama.InvalidOption) as caught:
        erllama.Runtime(**options)
    assert caught.value.option == option
    assert caught.value.problem.startswith(problem)  # what to write instead may follow


def test_the_nearest_name_is_written_as_the_caller_would_write_it() -> None:
    """Below the option that holds it; a word for a value stays as it is."""
    nearest = []
    given: list[dict[str, Any]] = [
        {"tiers": {"d": {**DISK, "quota_byte": MIB}}},
        {"tiers": {"d": {"kind": "dsk"}}},
        {"policy": {"min_token": 1}},
        {"pressure": {"intervall_ms": 10}},
    ]
    for options in given:
        with pytest.raises(erllama.InvalidOption) as caught:
            erllama.Runtime(**options)
        nearest.append(caught.value.nearest)
    assert nearest == ["tiers.d.quota_bytes", "disk", "policy.min_tokens", "pressure.interval_ms"]


@pytest.mark.parametrize(("available", "quota"), [(40 << 30, int((40 << 30) * RAM_SHARE)), (5 << 20, MIB)])
def test_the_tier_in_memory_gets_its_share_of_what_is_free(
    monkeypatch: pytest.MonkeyPatch, available: int, quota: int
) -> None:
    """A tenth, and never less than a tier can do with."""
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=available))
    assert parse_runtime_options(None, None, None, **PLAIN).ram.quota_bytes == quota
    assert parse_runtime_options(None, None, None, **PLAIN | {"ram_quota_bytes": 2 * MIB}).ram.quota_bytes == 2 * MIB
