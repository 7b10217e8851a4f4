"""The options of `embed` and `rerank`: what is refused, and with which words."""

from __future__ import annotations

import math
from typing import Any

import pytest

from erllama_py.errors import InvalidOption
from erllama_py.options.embedding import (
    EmbedOptions,
    RerankOptions,
    parse_embed_options,
    parse_rerank_options,
)

BOTH = [
    ({"truncate": "middle"}, "truncate"),
    ({"truncate": 1}, "truncate"),
    ({"truncate": None}, "truncate"),
    ({"deadline": 0}, "deadline"),
    ({"deadline": -1.0}, "deadline"),
    ({"deadline": math.nan}, "deadline"),
    ({"deadline": math.inf}, "deadline"),
    ({"deadline": "1"}, "deadline"),
    ({"on_crash": "retry"}, "on_crash"),
    ({"on_crash": None}, "on_crash"),
    ({"temperature": 0.5}, "temperature"),
]
EMBED = [
    ({"pooling": "max"}, "pooling"),
    ({"pooling": 1}, "pooling"),
    ({"pooling": "rank"}, "pooling"),
    ({"normalize": 1}, "normalize"),
    ({"normalize": None}, "normalize"),
    ({"dimensions": 0}, "dimensions"),
    ({"dimensions": -8}, "dimensions"),
    ({"dimensions": 8.0}, "dimensions"),
    ({"dimensions": True}, "dimensions"),
    ({"dimensions": 1 << 40}, "dimensions"),
    ({"method": "model"}, "method"),
]
RERANK = [
    ({"method": "magic"}, "method"),
    ({"method": True}, "method"),
    ({"top_n": 0}, "top_n"),
    ({"top_n": 1.5}, "top_n"),
    ({"top_n": "all"}, "top_n"),
    ({"pooling": "mean"}, "pooling"),
    ({"cache_salt": ""}, "cache_salt"),
    ({"cache_salt": 5}, "cache_salt"),
    ({"cache_salt": "\ud800"}, "cache_salt"),
    ({"priority": 1001}, "priority"),
    ({"priority": "high"}, "priority"),
]


@pytest.mark.parametrize(("given", "option"), BOTH + EMBED)
def test_bad_values_of_embed_are_refused_by_name(given: dict[str, Any], option: str) -> None:
    """Wrong types, out of bounds, and names that are not its own."""
    with pytest.raises(InvalidOption) as caught:
        parse_embed_options(given)
    assert caught.value.option == option


@pytest.mark.parametrize(("given", "option"), BOTH + RERANK)
def test_bad_values_of_rerank_are_refused_by_name(given: dict[str, Any], option: str) -> None:
    """Wrong types, out of bounds, and names that are not its own."""
    with pytest.raises(InvalidOption) as caught:
        parse_rerank_options(given)
    assert caught.value.option == option


def test_every_option_has_a_row_of_bad_values() -> None:
    """So a new one cannot be forgotten."""
    assert set(EmbedOptions.__struct_fields__) <= {option for _, option in BOTH + EMBED}
    assert set(RerankOptions.__struct_fields__) <= {option for _, option in BOTH + RERANK}


def test_a_near_name_is_told() -> None:
    """A misspelt option, and what another library calls one."""
    with pytest.raises(InvalidOption) as caught:
        parse_embed_options({"normalise": True})
    assert caught.value.nearest == "normalize"
    with pytest.raises(InvalidOption) as caught:
        parse_rerank_options({"timeout": 1.0})
    assert caught.value.nearest == "deadline"
