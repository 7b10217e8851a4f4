"""When memory is too full and by how much, as laws; the options at the door; what sources say, read right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from erllama_py.errors import InvalidOption
from erllama_py.memory import Reading
from erllama_py.options.runtime import PressureOpts, parse_pressure
from erllama_py.watch import pressure_sources
from erllama_py.watch.pressure import plan
from erllama_py.watch.pressure_sources import (
    choose_source,
    fullest,
    read_answer,
    read_nvidia_smi,
    system_memory,
)

GIB = 1 << 30


@settings(max_examples=60)
@given(st.integers(0, 1 << 50), st.integers(1, 1 << 50), st.integers(1, 99), st.integers(1, 99))
def test_an_eviction_reaches_the_low_watermark(used: int, total: int, one: int, other: int) -> None:
    """Nothing below the high watermark; from there on enough for the low one, and never less than the least."""
    low, high = sorted((one / 100, other / 100 + 0.005))
    opts = PressureOpts(low_watermark=low, high_watermark=high, min_evict_bytes=1000)
    nbytes = plan(used, total, opts)
    if used < high * total:
        assert nbytes == 0
    else:
        assert nbytes >= 1000
        assert nbytes == 1000 or used - nbytes <= low * total < used - nbytes + 1


@pytest.mark.parametrize(
    ("used", "nbytes"), [(0, 0), (84, 0), (85, 10), (90, 15), (100, 25), (76, 0)], ids=lambda value: str(value)
)
def test_a_plan_in_round_numbers(used: int, nbytes: int) -> None:
    """Of 100 GiB with the default watermarks of 0.85 and 0.75."""
    assert plan(used * GIB, 100 * GIB, PressureOpts()) == nbytes * GIB


def test_a_small_excess_is_rounded_up_to_the_least_eviction() -> None:
    """Evicting a few bytes again and again is work for nothing."""
    opts = PressureOpts(high_watermark=0.5, low_watermark=0.499, min_evict_bytes=5 * GIB)
    assert plan(50 * GIB, 100 * GIB, opts) == 5 * GIB


@pytest.mark.parametrize(
    ("options", "option", "nearest"),
    [
        ({"sorce": "system"}, "pressure.sorce", "pressure.source"),
        ({"source": "nvidia-smi"}, "pressure.source", "nvidia_smi"),
        ({"source": 3}, "pressure.source", None),
        ({"source": ["system"]}, "pressure.source", None),
        ({"high_watermark": 1.1}, "pressure.high_watermark", None),
        ({"low_watermark": 0.0}, "pressure.low_watermark", None),
        ({"low_watermark": 0.85}, "pressure.low_watermark", None),
        ({"high_watermark": 0.7}, "pressure.low_watermark", None),
        ({"low_watermark": float("nan")}, "pressure.low_watermark", None),
        ({"min_evict_bytes": 0}, "pressure.min_evict_bytes", None),
        ({"interval_ms": 0}, "pressure.interval_ms", None),
        ({"evict_tiers": "ram"}, "pressure.evict_tiers", None),
        ({"evict_tiers": []}, "pressure.evict_tiers", None),
        ({"evict_tiers": ["ram", ""]}, "pressure.evict_tiers", None),
        ({"evict_tier": ["ram"]}, "pressure.evict_tier", "pressure.evict_tiers"),
        (7, "pressure", None),
    ],
)
def test_a_bad_option_is_named(options: Any, option: str, nearest: str | None) -> None:
    """With its path, and with the nearest name where a name was not known."""
    with pytest.raises(InvalidOption) as refusal:
        parse_pressure(options)
    assert (refusal.value.option, refusal.value.nearest) == (option, nearest)


def test_good_options_are_taken_as_struct_and_as_mapping() -> None:
    """Also a callable source and tiers in a list."""

    def source() -> float:
        return 0.5

    options = {"source": source, "high_watermark": 1, "evict_tiers": ["ram", "my_disk"]}
    opts = PressureOpts(source=source, high_watermark=1.0, evict_tiers=("ram", "my_disk"))
    assert parse_pressure(options) == parse_pressure(opts) == opts
    assert parse_pressure({}) == PressureOpts()
    assert choose_source(PressureOpts()) is None
    assert choose_source(opts) is source


@pytest.mark.parametrize(
    ("answer", "reading"),
    [((3, 4), Reading(3, 4)), ([3.0, 4.0], Reading(3, 4)), ((5, 4), Reading(5, 4)), (0.25, 0.25), (1, 1.0), (0, 0.0)],
)
def test_an_answer_is_bytes_or_a_share(answer: object, reading: object) -> None:
    """A pair counts bytes, a number is the used share."""
    assert read_answer(answer) == reading


@pytest.mark.parametrize(
    "answer",
    [
        None,
        True,
        "0.5",
        1.5,
        -0.1,
        float("nan"),
        (1, 0),
        (-1, 4),
        (1,),
        (1, 2, 3),
        (float("nan"), 4),
        (1, float("inf")),
    ],
)
def test_an_answer_that_makes_no_sense_is_refused(answer: object) -> None:
    """Guessing what was meant could evict everything."""
    with pytest.raises(ValueError, match="a source answers"):
        read_answer(answer)


def test_the_fullest_memory_counts() -> None:
    """By share, not by bytes."""
    assert fullest([Reading(50, 100), Reading(9, 10), Reading(800, 1000)]) == Reading(9, 10)


def test_nvidia_smi_tells_of_the_fullest_gpu() -> None:
    """Lines of MiB; a GPU without memory of its own is left out."""
    assert read_nvidia_smi("1024, 8192\n4096, 8192\n[N/A], [N/A]\n") == Reading(4096 << 20, 8192 << 20)


@pytest.mark.parametrize("said", ["", "[N/A], [N/A]\n", "No devices were found\n", "1024\n"])
def test_nvidia_smi_without_a_figure_is_a_failure(said: str) -> None:
    """Never a GPU that looks empty."""
    with pytest.raises(ValueError, match=r".+"):
        read_nvidia_smi(said)


def script(folder: Path, text: str) -> None:
    """An `nvidia-smi` in `folder` that does what `text` says."""
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{text}\n")
    program.chmod(0o700)


def test_nvidia_smi_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked for used and total bytes; what it says when it fails is what the failure says."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InvalidOption, match="there is no nvidia-smi on the PATH"):
        choose_source(PressureOpts(source="nvidia_smi"))
    script(tmp_path, '[ "$1" = "--query-gpu=memory.used,memory.total" ] && echo "10, 40"')
    source = choose_source(PressureOpts(source="nvidia_smi"))
    assert source is not None
    assert source() == Reading(10 << 20, 40 << 20)
    script(tmp_path, 'echo "cannot talk to the driver"; exit 9')
    with pytest.raises(OSError, match="ended with 9: cannot talk to the driver"):
        source()


class Machine:
    """What psutil says of a machine of 64 GiB, 32 of them available."""

    total, available = 64 * GIB, 32 * GIB


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for control groups, on a machine that is half full."""
    monkeypatch.setattr(psutil, "virtual_memory", Machine)
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/outer/inner\n")
    (tmp_path / "sys/fs/cgroup/outer/inner").mkdir(parents=True)
    return tmp_path / "sys/fs/cgroup"


def limit(folder: Path, maximum: str, current: int, cached: int = 0) -> None:
    """Write the files of a control group, `cached` bytes of which are pages of files."""
    (folder / "memory.max").write_text(f"{maximum}\n")
    (folder / "memory.current").write_text(f"{current}\n")
    (folder / "memory.stat").write_text(f"anon 5\nactive_file {cached}\ninactive_file 0\n")


def system(groups: Path) -> Reading:
    return system_memory(groups.parents[2])


def test_the_machine_counts_where_no_group_limits_it(groups: Path) -> None:
    """Used is what is not available. Groups without a limit, or without files, say nothing."""
    assert system(groups) == Reading(32 * GIB, 64 * GIB)
    limit(groups / "outer/inner", "max", 60 * GIB)
    assert system(groups) == Reading(32 * GIB, 64 * GIB)
    assert system_memory(groups / "no such folder") == Reading(32 * GIB, 64 * GIB)


def test_a_group_that_is_fuller_than_the_machine_counts(groups: Path) -> None:
    """Its own limit or that of one around it, whichever is closer; pages of files are not counted as used."""
    limit(groups / "outer/inner", str(8 * GIB), 7 * GIB, cached=1 * GIB)
    assert system(groups) == Reading(6 * GIB, 8 * GIB)
    limit(groups / "outer", str(10 * GIB), 9 * GIB)
    assert system(groups) == Reading(9 * GIB, 10 * GIB)
    limit(groups / "outer", str(10 * GIB), 9 * GIB, cached=8 * GIB)
    limit(groups / "outer/inner", str(8 * GIB), 7 * GIB, cached=6 * GIB)
    assert system(groups) == Reading(32 * GIB, 64 * GIB)


def test_a_container_finds_its_group_at_the_top(groups: Path) -> None:
    """Its path is then one of the machine's, which is not there inside."""
    (groups.parents[2] / "proc/self/cgroup").write_text("4:memory:/x\n0::/system.slice/container\n")
    limit(groups, str(4 * GIB), 3 * GIB)
    assert system(groups) == Reading(3 * GIB, 4 * GIB)


def test_the_system_of_this_machine_can_be_read() -> None:
    """Whatever it is: something is used, and not more than there is."""
    reading = pressure_sources.system_memory()
    assert 0 < reading.used <= reading.total
