"""From what a caller passes to a request: it fits into the context, and the gates go with it."""

from __future__ import annotations

from typing import Any

import pytest
from helpers.requests import finished, found, hit_of, restored, row_read, rows_of, run
from helpers.rows import IDENTITY
from helpers.states import A, B, asked, begun, state_with

from erllama_py.engine.jobs import Forked
from erllama_py.errors import ContextOverflow
from erllama_py.model.request import make_completion, make_request, too_late
from erllama_py.options.mappings import PolicyOptsDict
from erllama_py.options.policy import parse_policy
from erllama_py.options.request import RequestOptions
from erllama_py.results import Stats
from erllama_py.scheduler.messages import CancelRequest, Complete, Effect, Request

N_CTX = 16


def request_of(length: int, *, gates: PolicyOptsDict | None = None, **fields: Any) -> Request:
    return make_request(
        1, [7] * length, RequestOptions(), identity=IDENTITY, plan=None, policy=parse_policy(gates or {}), n_ctx=N_CTX,
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


def test_a_reply_whose_length_is_not_asked_for_has_a_bound() -> None:
    """A model that repeats itself does not fill a context of 131,072 tokens; one that asks for more gets it."""
    parts: dict[str, Any] = {"identity": IDENTITY, "plan": None, "policy": parse_policy({}), "seed": 0, "now": 0.0}
    for most, n_ctx, given in ((None, 131_072, 8192), (None, 16, 13), (20_000, 131_072, 20_000), (20_000, 16, 13)):
        request = make_request(1, [7] * 3, RequestOptions(response_tokens=most), n_ctx=n_ctx, **parts)
        assert request.max_new_tokens == given


def test_the_gate_says_how_long_a_look_up_waits_for_a_save() -> None:
    """In seconds, for the cache."""
    assert request_of(3, gates={"session_resume_wait_ms": 1250}).wait_seconds == 1.25
    assert request_of(3, gates={"session_resume_wait_ms": 0}).wait_seconds == 0.0


# --- where the time went: requests are submitted at 0.0, and their prefill takes 0.1 -------------------------------


def stats_of(effects: list[Effect], now: float = 100.0) -> Stats:
    """The statistics of the request that is answered."""
    (answer,) = (effect for effect in effects if isinstance(effect, Complete))
    return make_completion(answer, now).stats


def times(stats: Stats) -> tuple[float, float, float, float]:
    return stats.queued_seconds, stats.lookup_seconds, stats.restore_seconds, round(stats.first_token_seconds, 6)


def test_time_in_the_queue_and_of_the_look_up_is_counted() -> None:
    """Until there is a sequence, then until the cache has answered."""
    state = begun(state_with(n_seq_max=1), asked(1, A))
    state, _ = run(state, asked(2, B))
    state, _ = run(state, finished(1, [], held=60, captured_to=60), now=3.0)
    state, _ = run(state, found(2), now=5.0)
    _, effects = run(state, finished(2, [7], held=60), now=9.0)
    assert times(stats_of(effects)) == (3.0, 2.0, 0.0, 5.1)


def test_time_that_rows_take_is_counted_also_where_they_cannot_be_read() -> None:
    """From the cache's answer until the engine may begin."""
    rows = rows_of(A, 20, 40)
    looking, _ = run(state_with(), asked(1, A), now=1.0)
    state, _ = run(looking, found(1, hit_of(A, 20, 40)), now=2.0)
    there = (row_read(1, rows[0]), row_read(1, rows[1]), restored(1, rows[0]), restored(1, rows[1]))
    for last in (there, (row_read(1, None),)):
        after, _ = run(state, *last, now=6.0)
        _, effects = run(after, finished(1, [7], held=60))
        assert times(stats_of(effects)) == (1.0, 1.0, 4.0, 6.1)


def test_time_that_a_shared_prompt_is_waited_for_is_counted() -> None:
    """The cache has long answered when the beginning is there: it is known only then what to begin with."""
    state = begun(state_with(), asked(1, A))
    state, _ = run(state, asked(2, [*A[:40], *B[:20]]), now=1.0)
    for first, then in ((found(2), Forked(2, 40)), (Forked(2, 40), found(2))):
        after, _ = run(state, first, now=2.0)
        after, _ = run(after, then, now=7.0)
        _, effects = run(after, finished(2, [7], held=60))
        assert times(stats_of(effects)) == (1.0, 6.0, 0.0, 7.1)


def test_a_cancelled_request_has_waited_until_then() -> None:
    """In the queue, for the cache, or for a shared prompt."""
    state = begun(state_with(n_seq_max=2), asked(1, A))
    state, _ = run(state, asked(2, [*A[:40], *B[:20]]), now=1.0)
    state, _ = run(state, asked(3, B), found(2), now=2.0)
    _, effects = run(state, CancelRequest(2), now=6.0)
    assert times(stats_of(effects)) == (1.0, 5.0, 0.0, 6.0)
    _, effects = run(state, CancelRequest(3), now=6.0)
    assert times(stats_of(effects, 6.0)) == (6.0, 0.0, 0.0, 6.0)


def test_a_call_that_is_too_late_for_a_request_has_waited_until_then() -> None:
    """The same as one whose deadline passes in the queue."""
    late = too_late(RequestOptions(logprobs=1, prompt_logprobs=0), 2.0, 5.0)
    assert times(late.stats) == (3.0, 0.0, 0.0, 3.0)
    assert (late.finish_reason, late.generated, late.prompt_tokens, late.cache_hit_kind) == ("deadline", [], 0, "cold")
    assert (late.logprobs, late.prompt_logprobs) == ([], [])
