"""Bodies that would take long to read."""

from __future__ import annotations

import json
from typing import Any

import pytest
from helpers.served import served
from hypothesis import given, settings
from hypothesis import strategies as st

from erllama_py.serve.core import bodies
from erllama_py.serve.core.bodies import MOST_VALUES, check_values
from erllama_py.serve.core.problems import Problem

ASK: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 1}
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
    """Nor do numbers."""
    body = {"text": text * MOST_VALUES, "tokens": [1] * (2 * MOST_VALUES)}
    await check_values(json.dumps(body).encode())


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
            monkeypatch.setattr(bodies, "MOST_VALUES", most)
            if most >= 0 and len(body) > 2 * most:
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
