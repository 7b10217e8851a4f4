"""Forced tokens on the engine thread: they go into one decode together, and nothing else of a request is different."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any
from unittest.mock import patch

import pytest
from helpers.engine import generate
from helpers.structures import lark, schema, schemas
from helpers.worker import Bench, bench, prompt
from hypothesis import given
from hypothesis import strategies as st

from erllama_py.engine.jobs import (
    Captured,
    CapturePlan,
    Finished,
    Grant,
    Park,
    Parked,
    Report,
    Restore,
    Resume,
    Text,
    Wants,
)
from erllama_py.engine.stub import StubSampler
from erllama_py.options.sampling import Sampling

PERSON = schema({
    "type": "object",
    "properties": {"full_name": {"type": "string", "maxLength": 5}, "the_kind_of_person": {"enum": ["alpha", "beta"]}},
    "required": ["full_name", "the_kind_of_person"], "additionalProperties": False,
})  # fmt: skip
ONE_WAY = lark('start: "there is only one way to say this, and it is long"')
TEXT = "there is only one way to say this, and it is long"
MEMORIES: list[dict[str, Any]] = [{}, {"memory": "window", "n_swa": 32}, {"memory": "recurrent"}, {"memory": "hybrid"}]


@contextmanager
def by_draws() -> Iterator[None]:
    """No token comes without a draw: what is forced is the only one that the structure allows."""
    with patch.object(StubSampler, "forced", lambda self: []):
        yield


def asking(grammar: str = PERSON, request_id: int = 1, seed: int | None = None, **fields: Any) -> Any:
    sampling = Sampling(grammar=grammar, temperature=0.0 if seed is None else 1.0, seed=seed)
    return generate(request_id, prompt(1), **({"max_new_tokens": 400, "sampling": sampling} | fields))


def finished(one: Bench, request_id: int = 1) -> Finished:
    one.run()
    end = one.ended(request_id)
    assert isinstance(end, Finished), end
    return end


def told(end: Finished) -> tuple[Any, ...]:
    """What a caller sees of it."""
    return end.text, end.token_ids, end.reason, end.stop_sequence


@pytest.mark.slow
@given(of=schemas(), seed=st.none() | st.integers(0, 1000), most=st.just(400) | st.integers(1, 40))
def test_the_reply_is_that_of_draws_alone(of: dict[str, Any], seed: int | None, most: int) -> None:
    """Whatever the schema, the seed and the most tokens that it may have; with no more decodes."""
    one, other = bench(), bench()
    one.do(asking(schema(of), seed=seed, max_new_tokens=most))
    together = finished(one)
    with by_draws():
        other.do(asking(schema(of), seed=seed, max_new_tokens=most))
        alone = finished(other)
    assert told(together) == told(alone)
    assert len(one.decodes) <= len(other.decodes)


def test_what_is_forced_is_decoded_together() -> None:
    """One decode for the prompt and one for each piece of the text, the last of which nothing follows."""
    one = bench()
    one.do(asking(ONE_WAY))
    end = finished(one)
    assert (end.text, end.reason) == (TEXT, "stop")
    assert one.decodes == [[(0, 10)]]
    one.do(asking(lark(f'start: "{TEXT}" /[xy]/'), request_id=2, keep=0))
    assert finished(one, 2).text[:-1] == TEXT
    assert one.decodes[1:] == [[(0, 10)], [(0, 1 + 32)], [(0, len(TEXT) - 33)]]  # a chunk beside the row's first


def test_statistics_count_a_forced_token_as_generated() -> None:
    """Not as computed for the prompt; a decode counts once."""
    one = bench()
    one.do(asking(lark('start: "abc" /[xy]/')))
    end = finished(one)
    assert (end.prefill_tokens, end.decodes, len(end.token_ids), end.held) == (10, 1, 4, 13)


@pytest.mark.parametrize("stop", ["one way", "this, and", "long"])
def test_a_stop_sequence_inside_of_what_is_forced_ends_the_reply(stop: str) -> None:
    """At the token that completes it: what follows is not a part of the reply."""
    one = bench()
    one.do(asking(ONE_WAY, stop_sequences=(stop,)))
    end = finished(one)
    at = TEXT.index(stop)
    assert (end.text, end.reason, end.stop_sequence) == (TEXT[:at], "stop", stop)
    assert bytes(end.token_ids).decode() == TEXT[: at + len(stop)]


@pytest.mark.parametrize(("most", "reason"), [(1, "length"), (len(TEXT) - 1, "length"), (len(TEXT), "stop")])
def test_the_most_tokens_are_kept_inside_of_what_is_forced(most: int, reason: str) -> None:
    """A reply that is complete with just as many is complete."""
    for context in (by_draws, nullcontext):
        one = bench()
        with context():
            one.do(asking(ONE_WAY, max_new_tokens=most))
            end = finished(one)
        assert (end.text, end.reason) == (TEXT[:most], reason)


def test_a_stream_has_it_in_one_piece() -> None:
    """All that is known is told at once, with its tokens."""
    one = bench()
    one.do(asking(lark('start: "abc" /[xy]/ "def"'), stream=True))
    end = finished(one)
    texts = one.of(Text, 1)
    assert [text.text[:3] for text in texts] == ["abc", end.text[3] + "de"]
    assert [token for text in texts for token in text.token_ids] == end.token_ids


def test_where_log_probabilities_are_wanted_it_is_decoded_together_too() -> None:
    """Each token has those of the model, whether it was forced or not; those at the end are decoded for that."""
    one = bench()
    one.do(asking(lark(f'start: "{TEXT[:20]}" /[xy]/ "{TEXT[20:]}"'), report=Report(logprobs=2), stream=True))
    end = finished(one)
    assert end.text[:20] + end.text[21:] == TEXT
    assert [told.token_id for told in end.logprobs or ()] == end.token_ids
    assert one.decodes == [[(0, 10)], [(0, 20)], [(0, len(TEXT) - 20)]]
    assert [len(text.token_ids) for text in one.of(Text, 1)] == [20, 1 + len(TEXT) - 20]


@pytest.mark.parametrize("limit", [10, 11, 12, 20, 40])
def test_cells_are_asked_for_before_they_are_needed(limit: int) -> None:
    """Up to the limit it decodes what it can, then it waits."""
    one = bench()
    one.do(asking(lark(f'start: "{TEXT}" /[xy]/'), limit=limit))
    for _ in range(8):
        one.tick()
    assert one.used() <= limit
    assert one.of(Wants, 1) == [Wants(1, limit)]
    one.do(Grant(1, 30))
    one.run()
    assert one.used() == 30 if limit < 30 else one.of(Wants)
    one.do(Grant(1, 1 << 30))
    assert finished(one).text[:-1] == TEXT


@pytest.mark.parametrize("memory", MEMORIES, ids=["full", "window", "recurrent", "hybrid"])
@pytest.mark.parametrize("after", range(5))
def test_a_request_parked_among_forced_tokens_goes_on_where_it_was(memory: dict[str, Any], after: int) -> None:
    """With cells put back, in another sequence, whatever of the forced tokens was decoded by then."""
    grammar = lark(f'start: "{TEXT}" /[a-z]{{3}}/ "{TEXT}" /[a-z]/')
    plan = CapturePlan(captured_to=0, prompt_ends=(8,), interval=16, min_tokens=8)
    whole = bench(**memory)
    whole.do(asking(grammar, saves=plan, seed=3))
    expected = finished(whole)
    one = bench(**memory)
    one.do(asking(grammar, saves=plan, seed=3))
    one.tick(after + 1)
    one.do(Park(1))
    one.run()
    (parked,) = one.of(Parked)
    for copied in one.of(Captured, 1):
        assert copied.payload is not None
        one.do(Restore(request_id=1, seq_id=3, start=copied.start, end=copied.end, payload=copied.payload))
    one.do(Resume(request_id=1, seq_id=3, keep=parked.held, limit=1 << 30))
    end = finished(one)
    assert told(end) == told(expected)
    assert end.prefill_tokens == 10


@pytest.mark.parametrize("memory", MEMORIES, ids=["full", "window", "recurrent", "hybrid"])
def test_ranges_that_end_among_forced_tokens_are_copied_out(memory: dict[str, Any]) -> None:
    """Whole and each at its end, as without the shortcut."""
    plan = CapturePlan(captured_to=0, prompt_ends=(8,), interval=16, min_tokens=8)
    ranges = []
    for context in (nullcontext, by_draws):
        one = bench(**memory)
        with context():
            one.do(asking(lark(f'start: "{TEXT}" /[a-z]{{3}}/'), saves=plan))
            finished(one)
        copies = [copied for copied in one.of(Captured, 1) if copied.reason != "finish"]
        ranges.append([(copied.start, copied.end, bytes(copied.payload or b"")) for copied in copies])
    assert ranges[0] == ranges[1]
    assert [end for _, end, _ in ranges[0]] == [8, 26, 42, 58]


@pytest.mark.slow
@given(schemas(), st.integers(0, 100), st.integers(1, 3))
def test_others_say_what_they_say_alone(of: dict[str, Any], seed: int, others: int) -> None:
    """Requests with and without a structure share decodes."""
    one = bench()
    one.do(asking(schema(of), seed=seed))
    for other in range(others):
        one.do(generate(2 + other, prompt(2 + other), seq_id=1 + other, max_new_tokens=12))
    together = finished(one)
    solo = bench()
    solo.do(asking(schema(of), seed=seed))
    assert told(together) == told(finished(solo))
    for other in range(others):
        solo.do(generate(2 + other, prompt(2 + other), seq_id=1 + other, max_new_tokens=12))
        assert told(finished(solo, 2 + other)) == told(finished(one, 2 + other))
