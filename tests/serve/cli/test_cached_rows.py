"""Rows as commands sum them up and choose among them."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

import erllama_py as erllama
from erllama_py.serve.cli.cached_rows import (
    NotChosen,
    chain_of,
    chosen,
    extending,
    found,
    grouped,
    parse_age,
    parse_size,
)

F, G = "f" * 64, "ea" * 32


def row(key: str, parent: str = "0", start: int = 0, end: int = 10, **more: object) -> erllama.RowInfo:
    fields: dict[str, object] = {
        "tier": "d", "nbytes": 100, "reason": "cold", "hits": 1, "created_at": 5.0, "used_at": 10.0,
        "prefill_seconds": 0.5, "fingerprint": F, "build": "b1", **more,
    }  # fmt: skip
    return erllama.RowInfo(key=key.ljust(64, "0"), parent=parent.ljust(64, "0"), start=start, end=end, **fields)  # type: ignore[arg-type]  # fields by name


ROWS = [
    row("aaaa1"), row("bbbb1", "aaaa1", 10, 20, used_at=50.0, hits=3), row("cccc1", "bbbb1", 20, 30),
    row("aaaa2", fingerprint=G, nbytes=1000), row("dddd1", "ffff9", 10, 20),
]  # fmt: skip


def keys(rows: list[erllama.RowInfo]) -> list[str]:
    return [one.key[:5] for one in rows]


def test_rows_are_summed_up_by_model_the_largest_first() -> None:
    """With the name of a model that is known."""
    first, second = grouped(ROWS, {F: "tiny"})
    assert (first.model, first.fingerprint, first.rows, first.nbytes) == (None, G, 1, 1000)
    assert (second.model, second.rows, second.tokens, second.nbytes, second.hits) == ("tiny", 4, 40, 400, 6)
    assert (second.created_at, second.used_at) == (5.0, 50.0)


def test_a_row_is_found_by_the_beginning_of_its_key() -> None:
    """One alone; how it is written does not matter."""
    assert found(ROWS, "BBBB").key == ROWS[1].key
    for key, said in (("aaaa", "2 rows begin with aaaa"), ("9999", "no row"), ("abc", "is no key"), ("xyzq", "no key")):
        with pytest.raises(NotChosen, match=said):
            found(ROWS, key)


def test_a_chain_leads_to_a_row_and_from_it() -> None:
    """From the beginning; an orphan's does not."""
    chain = chain_of(ROWS, ROWS[1])
    assert (keys(list(chain.before)), keys(list(chain.children))) == (["aaaa1"], ["cccc1"])
    assert (chain.is_whole, chain.below, chain.below_bytes) == (True, 1, 100)
    assert not chain_of(ROWS, ROWS[4]).is_whole
    assert keys(extending(ROWS, [ROWS[0].key])) == ["bbbb1", "cccc1"]


def test_what_is_given_is_met_by_all_that_is_chosen() -> None:
    """Keys, a model by its name or fingerprint, an age."""
    assert chosen(ROWS, models={}) == ROWS
    assert keys(chosen(ROWS, keys=["aaaa1", "bbbb"], models={})) == ["aaaa1", "bbbb1"]
    assert keys(chosen(ROWS, model="tiny", models={G: "tiny"})) == ["aaaa2"]
    assert keys(chosen(ROWS, model="EAEA", models={})) == ["aaaa2"]
    assert keys(chosen(ROWS, keys=["aaaa1"], model="eaea", models={})) == []
    # The first is older than 20 s, but one that extends it is not: it is needed there.
    assert keys(chosen(ROWS, unused_since=20.0, models={})) == ["cccc1", "aaaa2", "dddd1"]


@pytest.mark.parametrize("model", ["other", "abcd", "ff"])
def test_a_model_without_rows_is_named_with_those_that_have_some(model: str) -> None:
    """By name where it is known."""
    with pytest.raises(NotChosen, match=r"there are some of eaeaeaeaeaea, tiny"):
        chosen(ROWS, model=model, models={F: "tiny"})


def test_a_fingerprint_that_begins_several_is_not_enough() -> None:
    """Rows of the wrong model would go."""
    rows = [*ROWS, row("9999", fingerprint="ffff" + "0" * 60)]
    with pytest.raises(NotChosen, match="2 models have fingerprints that begin with ffff"):
        chosen(rows, model="ffff", models={})


@given(st.lists(st.tuples(st.integers(0, 9), st.floats(0, 100)), max_size=10), st.floats(0, 100))
def test_what_goes_by_age_takes_no_younger_row_with_it(made: list[tuple[int, float]], since: float) -> None:
    """All that extend a row that is chosen are chosen too."""
    rows = [row("0001", end=1)]
    for number, (parent, used) in enumerate(made, 2):
        before = rows[parent % len(rows)]
        rows.append(row(f"{number:04x}", before.key, before.end, before.end + 1, used_at=used, created_at=0.0))
    picked = chosen(rows, unused_since=since, models={})
    below = extending(rows, [one.key for one in picked])
    assert {one.key for one in below} <= {one.key for one in picked}
    assert all(one.used_at < since for one in picked)


@pytest.mark.parametrize(
    ("text", "seconds"), [("45s", 45), ("90m", 5400), ("12h", 43_200), ("30d", 2_592_000), ("1.5W", 907_200)]
)
def test_ages_are_read(text: str, seconds: float) -> None:
    """With one unit."""
    assert parse_age(text) == seconds


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [("1048576", 1 << 20), ("20GiB", 20 << 30), ("500MB", 500_000_000), ("2g", 2_000_000_000), ("1.5 KiB", 1536)],
)
def test_sizes_are_read(text: str, nbytes: int) -> None:
    """Binary units are those with an i."""
    assert parse_size(text) == nbytes


@given(st.text())
def test_any_text_is_an_age_and_a_size_or_neither(text: str) -> None:
    """Nothing else is raised, and the error shows it."""
    for parse in (parse_age, parse_size):
        with suppress(NotChosen):
            assert parse(text) >= 0
    with pytest.raises(NotChosen, match="'soon'"):
        parse_age("soon")
