"""The words that a place in a body may have, for the error about one that is none of them."""

from __future__ import annotations

from typing import Literal

import msgspec
import pytest
from helpers.served import served

from erllama_py.serve.core.bodies import parse
from erllama_py.serve.core.choices import choices
from erllama_py.serve.core.problems import Problem

Word = Literal["a", "b"]


class Inner(msgspec.Struct, rename={"kind": "class"}):
    kind: Word | None = None
    number: int = 0


class Outer(msgspec.Struct):
    word: Word = "a"
    either: int | Literal["c"] = 1
    one: Inner | None = None
    many: list[Inner] | str = ""
    words: tuple[Word, ...] = ()
    named: dict[str, Inner] = {}


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ('{"word": "x"}', "word: expected one of 'a', 'b', got 'x'"),
        ('{"either": "x"}', "either: expected one of 'c', got 'x'"),
        ('{"one": {"class": "x y"}}', "one.class: expected one of 'a', 'b', got 'x y'"),
        ('{"many": [{}, {"class": "x"}]}', "many[1].class: expected one of 'a', 'b', got 'x'"),
        ('{"words": ["a", "x"]}', "words[1]: expected one of 'a', 'b', got 'x'"),
        ('{"named": {"n": {"class": "x"}}}', "named[...].class: expected one of 'a', 'b', got 'x'"),
    ],
)
def test_a_wrong_word_is_told_with_those_that_there_are(body: str, said: str) -> None:
    """Wherever it stands: in a struct, a list, a mapping, beside other types, under another name."""
    with pytest.raises(Problem) as caught:
        parse(body.encode(), Outer)
    assert caught.value.message == said
    assert caught.value.param == said.partition(":")[0]


@pytest.mark.parametrize("path", ["one.number", "nowhere", "many[0].number", "word.further", ""])
def test_where_there_are_no_words_there_are_none(path: str) -> None:
    """Nor in a place that is not there."""
    assert choices(Outer, path) == []


@pytest.mark.anyio
async def test_a_request_hears_which_words_it_might_have_said() -> None:
    """As of any option of the library."""
    ask = {"model": "tiny", "messages": [{"role": "user", "content": "x"}], "reasoning_effort": "x"}
    async with served() as at:
        error = (await at.client.post("/v1/chat/completions", json=ask)).json()["error"]
        assert error["message"].startswith("reasoning_effort: expected one of 'high', 'low', 'max', ")
