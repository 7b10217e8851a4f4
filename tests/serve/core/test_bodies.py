"""Bodies that would take long to read."""

from __future__ import annotations

import json
from typing import Any

import pytest
from helpers.served import served
from hypothesis import given, settings
from hypothesis import strategies as st

from erllama_py.serve.core import bodies
from erllama_py.serve.core.bodies import BOUNDS, Bound, check_values
from erllama_py.serve.core.problems import Problem

ASK: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 1}
MOST_VALUES, MOST_NUMBERS, MOST_FRACTIONS, MOST_LONG = (bound.most for bound in BOUNDS)
NAMES = {str(number): number for number in range(MOST_VALUES)}


@pytest.mark.anyio
@pytest.mark.parametrize(
    "more",
    [
        {"unknown": [[]] * MOST_VALUES}, {"unknown": [{}] * MOST_VALUES}, {"unknown": NAMES},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}] * (MOST_VALUES // 5)}]},
    ],
    ids=["lists", "objects", "names", "parts"],
)  # fmt: skip
async def test_too_many_values_are_refused(more: dict[str, Any]) -> None:
    """They would hold up the event loop, and with it everybody's streams."""
    async with served() as at:
        answer = await at.client.post("/v1/chat/completions", json=ASK | more)
        assert answer.status_code == 413
        assert answer.json()["error"]["code"] == "too_many_values"


@pytest.mark.anyio
@pytest.mark.parametrize("text", ['say "yes", [or] {no}\\', "\\", '"', '\\\\"', "[{"])
async def test_what_is_within_a_text_does_not_count(text: str) -> None:
    """Nor do numbers, as far as they are quickly read."""
    body = {"text": text * MOST_VALUES, "tokens": [1] * (MOST_NUMBERS - 99), "of": [0.5] * 9, "far": [1e300] * 9}
    await check_values(json.dumps(body).encode())


@pytest.mark.anyio
@pytest.mark.parametrize("text", ["1e300,", "0.5 ", "7" * 32, "1e+999"])
async def test_numbers_within_a_text_do_not_count(text: str) -> None:
    """They are not made into numbers."""
    body = {"text": text * MOST_NUMBERS}
    await check_values(json.dumps(body).encode())


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("number", "most"),
    [
        ("7", MOST_NUMBERS), ("-123456", MOST_NUMBERS), ("null", MOST_NUMBERS), ("0.5", MOST_FRACTIONS),
        ("1e5", MOST_FRACTIONS), ("12E-3", MOST_FRACTIONS), ("1e300", MOST_LONG), ("1.5E+300", MOST_LONG),
        ("2e-308", MOST_LONG), ("1e0300", MOST_LONG), ("7" * 40, MOST_LONG), ("0." + "3" * 40, MOST_LONG),
        ("7" * 400, MOST_LONG // 12), ("7" * 200 + "e5", MOST_LONG // 6),
    ],
)  # fmt: skip
async def test_too_many_numbers_are_refused(number: str, most: int) -> None:
    """The fewer the longer they take: of `1e300` each takes a thousand times as long as of others."""
    await check_values(f"[{','.join([number] * most)}]".encode())
    with pytest.raises(Problem) as refused:
        await check_values(f"[{','.join([number] * (most + most // 4 + 2))}]".encode())
    assert refused.value.code == "too_many_values"


@pytest.mark.slow
def test_values_are_counted_to_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever their texts are."""

    def size(value: Any) -> int:
        match value:
            case dict():
                return 1 + sum(1 + size(one) for one in value.values())
            case list():
                return 1 + sum(map(size, value))
            case str():
                return 1
        return 0

    texts = st.text('"\\[{,:a', max_size=5)
    values = st.recursive(st.integers() | texts, lambda one: st.lists(one) | st.dictionaries(texts, one), max_leaves=9)

    @settings(max_examples=50)
    @given(values)
    def counted(value: Any) -> None:
        body = json.dumps(value).encode()
        for most, refused in ((size(value), False), (size(value) - 1, True)):
            monkeypatch.setattr(bodies, "BOUNDS", (Bound(most, "values", BOUNDS[0].marks),))
            if 0 <= most < len(body):
                assert _refuses(body) == refused

    counted()


def _refuses(body: bytes) -> bool:
    checking = check_values(body)
    try:
        while True:
            checking.send(None)
    except StopIteration:
        return False
    except Problem:
        return True
