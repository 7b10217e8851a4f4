"""From what a caller passes to a request: it fits into the context, and the gates go with it."""

from __future__ import annotations

from typing import Any

import pytest
from helpers.rows import IDENTITY

from erllama_py.config import PolicyOpts
from erllama_py.errors import ContextOverflow
from erllama_py.model.messages import Request
from erllama_py.model.request import make_request
from erllama_py.request_options import RequestOptions

N_CTX = 16


def request_of(length: int, *, policy: PolicyOpts | None = None, **fields: Any) -> Request:
    return make_request(
        1, [7] * length, RequestOptions(), identity=IDENTITY, plan=None, policy=policy or PolicyOpts(), n_ctx=N_CTX,
        seed=0, now=0.0, **fields,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("prefill_only", "most", "words"),
    [(False, N_CTX - 1, "of 16 must hold one more for the reply"), (True, N_CTX, "of 16 has no room for them")],
)
def test_a_prompt_that_does_not_fit_is_refused_with_the_reason(prefill_only: bool, most: int, words: str) -> None:
    """Without a reply it may fill the context; the error says what is lacking, and no more."""
    assert request_of(most, prefill_only=prefill_only).n_tokens == most
    with pytest.raises(ContextOverflow) as refused:
        request_of(most + 1, prefill_only=prefill_only)
    assert str(refused.value).endswith(words)


def test_the_gate_says_how_long_a_look_up_waits_for_a_save() -> None:
    """In seconds, for the cache."""
    assert request_of(3, policy=PolicyOpts(session_resume_wait_ms=1250)).wait_seconds == 1.25
    assert request_of(3, policy=PolicyOpts(session_resume_wait_ms=0)).wait_seconds == 0.0
