"""What `score` and `choose` take: the door for their options and for continuations."""

from __future__ import annotations

import math
from typing import Any

import pytest
from helpers.runtime import stub_runtime

import erllama_py as erllama
from erllama_py.errors import InvalidOption
from erllama_py.options.request import RequestOptions
from erllama_py.options.scores import (
    MAX_CHARACTERS,
    MAX_CONTINUATIONS,
    ScoreOptions,
    check_continuations,
    check_options,
    parse_score_options,
)

WRONG: list[tuple[str, object, str]] = [
    ("cache_salt", "", "expected str of length >= 1, got 0"),
    ("cache_salt", 5, "expected str or None, got int"),
    ("cache_salt", "\ud800", "the text has no UTF-8 form: it holds a lone surrogate"),
    ("priority", 1001, "expected int <= 1000, got 1001"),
    ("priority", -1001, "expected int >= -1000, got -1001"),
    ("priority", "high", "expected int, got str"),
    ("priority", True, "expected int, got bool"),
    ("queue_wait", -1, "expected float >= 0.0, got -1"),
    ("queue_wait", "yes", "got str"),
    ("queue_wait", math.nan, "got nan"),
    ("deadline", 0, "expected float > 0.0, got 0"),
    ("deadline", math.inf, "expected float <= 1000000000.0, got inf"),
    ("deadline", "soon", "expected float or None, got str"),
    ("on_crash", "retry", "got 'retry'"),
    ("session_id", "s", "a score is no turn of a conversation"),
    ("session_wait", True, "a score is no turn of a conversation"),
    ("parent_key", bytes(32), "a score is no turn of a conversation"),
    ("reproducible", True, "other batches than a reproducible reply"),
    ("prompt_logprobs", 1, "`prefill_only` with it tells of all of a prompt"),
    ("temperature", 0.5, "nothing is drawn for a score"),
    ("tools", [], "pass the tokens of `apply_chat_template` as the prompt"),
    ("n", 2, "nothing is drawn for a score"),
    ("prioriti", 1, "there is no such option"),
]
# What is given as continuations, and what is said of it.
WRONG_LISTS: list[tuple[object, str]] = [
    ("yes", "expected a list of texts or lists of token ids, got str"),
    (None, "got NoneType"),
    (5, "got int"),
    ({"yes", "no"}, "got set"),
    ({"yes": 1}, "got dict"),
    ((one for one in "ab"), "got generator"),
    ([], f"expected 1 to {MAX_CONTINUATIONS} texts or lists of token ids, got 0"),
    (["a"] * (MAX_CONTINUATIONS + 1), f"got {MAX_CONTINUATIONS + 1}"),
    (["a", 5], "at index 1: expected str or a list of token ids, got int"),
    (["a", None], "at index 1: expected str or a list of token ids, got NoneType"),
    (["a", b"b"], "at index 1: expected str or a list of token ids, got bytes"),
    (["a", ""], "at index 1: it is empty"),
    ([[1], []], "at index 1: it is empty"),
    (["a", "\ud800"], "the text has no UTF-8 form"),
    (["a", "b" * MAX_CHARACTERS], "expected at most 4000000 characters together, got 4000001"),
]


@pytest.mark.parametrize(("option", "value", "problem"), WRONG)
def test_a_bad_value_is_refused_with_the_reason(option: str, value: object, problem: str) -> None:
    """Options of replies too, and what is misspelt."""
    with pytest.raises(InvalidOption) as refused:
        parse_score_options({option: value})
    assert refused.value.option == option
    assert problem in refused.value.problem


def test_every_option_of_a_request_is_taken_or_refused_with_a_reason() -> None:
    """None is said not to exist."""
    for name in RequestOptions.__struct_fields__:
        if name not in ScoreOptions.__struct_fields__:
            with pytest.raises(InvalidOption) as refused:
                parse_score_options({name: None})
            assert "there is no such option" not in refused.value.problem


def test_good_options_are_taken() -> None:
    """An endless wait for room is `True`."""
    assert parse_score_options({}) == ScoreOptions()
    assert parse_score_options({"queue_wait": math.inf}).queue_wait is True
    assert parse_score_options({"deadline": 1, "priority": -3}) == ScoreOptions(deadline=1.0, priority=-3)


@pytest.mark.parametrize(("given", "problem"), WRONG_LISTS)
def test_bad_continuations_are_refused_with_the_reason(given: object, problem: str) -> None:
    """And the place."""
    with pytest.raises(InvalidOption) as refused:
        check_continuations("continuations", given)
    assert refused.value.option == "continuations"
    assert problem in refused.value.problem


def test_options_of_a_choice_are_texts_that_differ() -> None:
    """By their characters, and there is at least one."""
    assert check_options(("a", "A", " a")) == ["a", "A", " a"]
    for given, problem in [
        (["a", "b", "a"], "at index 2: the same as at index 0"),
        ([[1]], "at index 0: expected str, got list"),
        ([], "expected 1 to"),
        ("ab", "expected a list of texts, got str"),
    ]:
        with pytest.raises(InvalidOption) as refused:
            check_options(given)
        assert refused.value.option == "options"
        assert problem in refused.value.problem


@pytest.mark.anyio
async def test_what_only_the_vocabulary_knows_is_refused_there() -> None:
    """Tokens that are none, and what is no bool."""
    wrong: Any = 1
    async with stub_runtime() as (_, model):
        with pytest.raises(erllama.TokenOutOfRange):
            await model.score("hello", [[1], [1 << 20]])
        with pytest.raises(erllama.RequestError, match="a token id is an int, not str"):
            await model.score("hello", [[1], wrong_tokens()])
        with pytest.raises(erllama.RequestError, match="a prompt is a str or a list of token ids"):
            await model.score(wrong, ["a"])
        with pytest.raises(InvalidOption, match="normalize_by_length"):
            await model.choose("hello", ["a"], normalize_by_length=wrong)
        with pytest.raises(InvalidOption, match="options"):
            await model.choose("hello", ["a", "a"])


def wrong_tokens() -> Any:
    return ["1"]
