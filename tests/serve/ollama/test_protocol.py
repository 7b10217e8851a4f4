"""What bodies hold, and what becomes of it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import erllama_py as erllama
from erllama_py.serve.core.problems import Problem
from erllama_py.serve.ollama.protocol import SAMPLING, Options, error_body, sampling, schema_of, stay_of, whole


def read(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in sampling(Options(**options)).items() if value is not None}


def test_options_have_this_library_s_names() -> None:
    """Each of them, and all are options of a request."""
    assert set(SAMPLING.values()) == {field.name for field in msgspec.structs.fields(Options)}
    assert set(SAMPLING) <= {field.name for field in msgspec.structs.fields(erllama.RequestOptions)}
    assert read(num_predict=5, repeat_penalty=1.1, stop=["x"]) == {
        "response_tokens": 5, "repetition_penalty": 1.1, "stop_sequences": ["x"],
    }  # fmt: skip


@pytest.mark.parametrize("options", [{"num_predict": -1}, {"num_predict": -2}, {"num_predict": 0}, {"seed": -1}, {}])
def test_what_means_no_bound_is_none(options: dict[str, Any]) -> None:
    """Ollama's words for it."""
    assert read(**options) == {}


@given(st.integers(-(1 << 63), (1 << 64) - 1))
def test_every_seed_is_one(seed: int) -> None:
    """Those that are too large for llama.cpp are folded; negative ones leave the choice to the server."""
    found = read(seed=seed)
    assert found == ({} if seed < 0 else {"seed": seed % (1 << 32)})


@given(st.integers(-(1 << 40), 1 << 40))
def test_whole_numbers_may_have_a_point(number: int) -> None:
    """Clients write them both ways."""
    assert whole(float(number), "x") == whole(number, "x") == number


@pytest.mark.parametrize("number", [0.5, -1.25, float("inf"), float("nan")])
def test_others_are_refused(number: float) -> None:
    """With the field."""
    with pytest.raises(Problem) as refused:
        read(num_predict=number)
    assert refused.value.param == "options.num_predict"


def test_formats() -> None:
    """Nothing, any object, or a schema."""
    assert schema_of(None) is schema_of("") is None
    assert schema_of("json") == {"type": "object"}
    assert schema_of({"type": "integer"}) == {"type": "integer"}
    with pytest.raises(Problem):
        schema_of("yaml")


@pytest.mark.parametrize(
    ("value", "good"), [("5m", True), ("-1", True), ("1h30m0.5s", True), (-1, True), ("soon", False)]
)
def test_times_to_keep_a_model(value: Any, good: bool) -> None:
    """Go's durations, or seconds."""
    if good:
        assert stay_of(value) is not None
    else:
        with pytest.raises(Problem):
            stay_of(value)


def test_errors_name_their_field_once() -> None:
    """Ollama's errors are one sentence."""
    assert error_body(Problem("invalid", "too hot", param="options.temperature")) == {
        "error": "options.temperature: too hot"
    }
    assert error_body(Problem("invalid", "x: too hot", param="x")) == {"error": "x: too hot"}
