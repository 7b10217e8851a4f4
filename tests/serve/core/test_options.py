"""What the server says of requests: bounds of replies."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from erllama_py.options.request import DEFAULT_RESPONSE_TOKENS
from erllama_py.serve.core.exchange import UNASKED, Exchange
from erllama_py.serve.core.settings import ServerOpts


@pytest.mark.parametrize(
    ("asked", "settings", "tokens"),
    [
        (None, {}, None), (5, {}, 5), (None, {"response_tokens": 7}, 7), (9, {"response_tokens": 7}, 9),
        (None, {"max_response_tokens": 100}, 100), (200, {"max_response_tokens": 100}, 100),
        (None, {"max_response_tokens": 100_000}, 8192), (50_000, {"max_response_tokens": 100_000}, 50_000),
        (None, {"response_tokens": 20_000, "max_response_tokens": 100_000}, 20_000),
    ],
)  # fmt: skip
def test_a_reply_whose_length_nobody_said_has_the_bound_of_the_library(
    asked: int | None, settings: dict[str, Any], tokens: int | None
) -> None:
    """A bound of what may be asked for is none that everybody asks for."""
    server = SimpleNamespace(service=SimpleNamespace(settings=ServerOpts(**settings)), of_tenant=dict)
    options = Exchange.options(server, {"response_tokens": asked})  # type: ignore[arg-type]  # it reads no more of it
    assert options.get("response_tokens") == tokens
    assert UNASKED == DEFAULT_RESPONSE_TOKENS
