"""The door for tiers: what is refused, and what comes out of what is let in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from erllama_py.errors import InvalidOption
from erllama_py.options.tiers import DiskTier, RamFileTier, RamTier, TierSpec, parse_tier

MIB = 1 << 20


def refusal(spec: object) -> InvalidOption:
    """The error for `spec`."""
    with pytest.raises(InvalidOption) as caught:
        parse_tier(spec)
    return caught.value


WRONG: list[tuple[object, str, str]] = [
    (None, "options", "expected DiskTier, RamFileTier or a mapping, got NoneType"),
    ("/srv/rows", "options", "expected DiskTier, RamFileTier or a mapping, got str"),
    (RamTier(MIB), "options", "expected DiskTier, RamFileTier or a mapping, got RamTier"),
    ({}, "kind", "expected one of 'disk', 'ram_file', got None"),
    ({"kind": "ram", "root": "a"}, "kind", "expected one of 'disk', 'ram_file', got 'ram'"),
    ({"kind": ["disk"], "root": "a"}, "kind", "expected one of 'disk', 'ram_file', got ['disk']"),
    ({"kind": "disk"}, "root", "a DiskTier needs a directory"),
    ({"kind": "ram_file", "quota_bytes": MIB}, "root", "a RamFileTier needs a directory"),
    ({"kind": "disk", "root": ""}, "root", "a path is not empty and has no NUL character"),
    ({"kind": "disk", "root": "a\0b"}, "root", "a path is not empty and has no NUL character"),
    ({"kind": "disk", "root": 7}, "root", "expected str, got int"),
    ({"kind": "disk", "root": b"rows"}, "root", "expected str, got bytes"),
    ({"kind": "disk", "root": "a", "quota_bytes": MIB - 1}, "quota_bytes", "expected int >= 1048576, got 1048575"),
    ({"kind": "disk", "root": "a", "quota_bytes": "20G"}, "quota_bytes", "expected int, got str"),
    ({"kind": "disk", "root": "a", "quota_bytes": 1e9}, "quota_bytes", "expected int, got float"),
    ({"kind": "disk", "root": "a", "quota_bytes": True}, "quota_bytes", "expected int, got bool"),
    ({"kind": "disk", "root": "a", 1: 2}, "options", "the names of options are str"),
    (DiskTier("", MIB), "root", "a path is not empty and has no NUL character"),
    (DiskTier("a", 0), "quota_bytes", "expected int >= 1048576, got 0"),
]


@pytest.mark.parametrize(("spec", "option", "problem"), WRONG, ids=range(len(WRONG)))
def test_what_is_no_tier_is_refused_in_one_sentence(spec: object, option: str, problem: str) -> None:
    """Structs are checked as mappings are: their constructors check nothing."""
    error = refusal(spec)
    assert error.option == option
    assert error.problem.startswith(problem)  # what to write instead may follow


def test_an_unknown_name_is_refused_with_the_nearest_one() -> None:
    """A misspelt quota is not silently the default."""
    error = refusal({"kind": "disk", "root": "a", "quota_byte": MIB})
    assert (error.option, error.nearest) == ("quota_byte", "quota_bytes")


def test_a_mapping_makes_the_struct_of_its_kind(tmp_path: Path) -> None:
    """With the default quota where none is given."""
    root = str(tmp_path)
    assert parse_tier({"kind": "disk", "root": root, "quota_bytes": MIB}) == DiskTier(root, MIB)
    assert parse_tier({"kind": "ram_file", "root": root}) == RamFileTier(root)
    assert parse_tier({"kind": "disk", "root": tmp_path}) == DiskTier(root)


def test_a_relative_root_is_taken_from_the_working_directory_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A later change of directory does not move the rows; a path object will do in a struct too."""
    monkeypatch.chdir(tmp_path)
    assert parse_tier({"kind": "disk", "root": "rows"}).root == str(tmp_path / "rows")
    assert parse_tier(RamFileTier(Path("rows"))) == RamFileTier(str(tmp_path / "rows"))


def test_what_was_given_is_not_changed() -> None:
    """The caller's mapping can be used again."""
    options = {"kind": "disk", "root": "rows"}
    parse_tier(options)
    assert options == {"kind": "disk", "root": "rows"}


def parsed_or_refused(options: dict[str, Any]) -> tuple[TierSpec, InvalidOption | None]:
    """What the door makes of `options`; any other error goes through."""
    try:
        return parse_tier(options), None
    except InvalidOption as error:
        return DiskTier(""), error


values = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4) | st.binary(max_size=4)


@given(
    st.dictionaries(st.sampled_from(["kind", "root", "quota_bytes", "x"]), values)
    | st.fixed_dictionaries({"kind": st.sampled_from(["disk", "ram_file"]), "root": st.text(max_size=4)})
)
def test_any_mapping_is_refused_in_our_words_or_comes_out_complete(options: dict[str, Any]) -> None:
    """No foreign error leaves the door; what it lets in has an absolute root and goes through it again unchanged."""
    spec, refused = parsed_or_refused(options)
    if refused is not None:
        assert refused.option in {*options, "kind", "root"}
        return
    assert Path(spec.root).is_absolute()
    assert parse_tier(spec) == spec
