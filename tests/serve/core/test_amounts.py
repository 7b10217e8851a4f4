"""Bytes and times as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from erllama_py.serve.core.amounts import amount, bytes_of, seconds_of


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        (0, 0.0), (90, 90.0), (0.5, 0.5), ("90", 90.0), ("5m", 300.0), ("1h30m", 5400.0), ("1m0.5s", 60.5),
        ("500ms", 0.5), ("2d", 172_800.0), (-1, None), ("-1", None), ("-5m", None), ("forever", None), ("Never", None),
        (float("inf"), None), (1e12, None), (" 5m ", 300.0),
    ],
)  # fmt: skip
def test_times_that_a_model_stays(given: float | str, seconds: float | None) -> None:
    """Seconds, Go's durations, and words; what is longer than any process lives is without end."""
    found = seconds_of(given)
    assert found is None if seconds is None else found == pytest.approx(seconds)


@pytest.mark.parametrize("wrong", ["", "soon", "5 minutes", "m", "1h 5m", "--1", "1e3s", "5mm5", float("nan")])
def test_what_is_no_time(wrong: float | str) -> None:
    """Is refused with what is expected."""
    with pytest.raises(ValueError, match="expected"):
        seconds_of(wrong)


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [
        ("0", 0), ("1024", 1024), ("8GiB", 8 << 30), ("8g", 8 << 30), ("8GB", 8 << 30), ("1.5 MiB", 3 << 19),
        ("2T", 2 << 40),
    ],
)  # fmt: skip
def test_numbers_of_bytes(text: str, nbytes: int) -> None:
    """Units are of 1,024, however they are written."""
    assert bytes_of(text) == nbytes


@pytest.mark.parametrize("wrong", ["", "GiB", "8 gigs", "-1", "8GiBs", "1e9"])
def test_what_is_no_number_of_bytes(wrong: str) -> None:
    """Is refused."""
    with pytest.raises(ValueError, match="expected a number of bytes"):
        bytes_of(wrong)


@given(st.integers(0, 1 << 45))
def test_what_is_shown_can_be_read(nbytes: int) -> None:
    """To the digits that are shown."""
    assert bytes_of(amount(nbytes)) == pytest.approx(nbytes, rel=0.06, abs=1)
