"""When cells of a request at work are copied out: after its first tokens where that is possible, and never too late."""

from __future__ import annotations

from typing import Any

import pytest
from helpers.engine import generate
from helpers.worker import Bench, bench, prompt

from erllama_py.engine.backend import MemoryKind
from erllama_py.engine.jobs import Cancel, Captured, CapturePlan, Fork, Forked, Park, Parked, Text
from erllama_py.engine.stub_logits import END

KINDS: list[MemoryKind] = ["full", "window", "recurrent", "hybrid"]
ENDS = (16, 32, 48, 64)
PLAN = CapturePlan(captured_to=0, prompt_ends=ENDS, interval=16, min_tokens=8)
LETTERS = [ord("a")] * 100


def of_memory(memory: MemoryKind, **context: Any) -> Bench:
    sizes = {"n_batch": 64, "n_ubatch": 32} | context
    return bench(memory=memory, n_swa=20 if memory == "window" else 0, context_opts=sizes)


def order(one: Bench) -> list[str | int]:
    """What was reported of request 1, in order: its text, and where the ranges end that were copied."""
    told: list[str | int] = []
    for outcome in one.outcomes:
        if isinstance(outcome, Captured):
            assert outcome.payload is not None
            told.append(outcome.end)
        elif isinstance(outcome, Text):
            told.append(outcome.text)
    return told


def copied(one: Bench) -> list[tuple[int, int]]:
    return [(range_.start, range_.end) for range_ in one.of(Captured, 1) if range_.payload is not None]


def test_with_full_attention_two_tokens_go_before_the_copies() -> None:
    """Then one range goes between each two tokens."""
    one = of_memory("full")
    one.script(generate(1, prompt(1, 64), saves=PLAN, max_new_tokens=8, stream=True), LETTERS)
    one.tick(6)
    assert order(one) == ["a", "a", 16, "a", 32, "a", 48, "a", 64, "a"]


def test_slices_of_a_prompt_are_copied_as_they_are_read() -> None:
    """Only what its last slice completes waits."""
    one = of_memory("full", n_batch=32)
    one.script(generate(1, prompt(1, 64), saves=PLAN, max_new_tokens=8, stream=True), LETTERS)
    one.tick()
    assert order(one) == [16, 32]
    one.tick(4)
    assert order(one) == [16, 32, "a", "a", 48, "a", 64, "a"]


@pytest.mark.parametrize("memory", KINDS[1:])
def test_a_state_is_copied_while_the_sequence_stands_there(memory: MemoryKind) -> None:
    """The first token goes before the last copy, which the second cannot: it would change what is copied."""
    one = of_memory(memory)
    one.script(generate(1, prompt(1, 64), saves=PLAN, max_new_tokens=8, stream=True), LETTERS)
    while len(one.of(Text)) < 3:
        one.tick()
    before = [16, 32] if memory == "window" else [16, 32, 48]  # a window's slices end with a micro-batch, not a range
    assert order(one) == [*before, "a", *ENDS[len(before) :], "a", "a"]


@pytest.mark.parametrize("memory", KINDS)
@pytest.mark.parametrize("ends", ["parked", "cancelled", "by length", "by its end token"])
@pytest.mark.parametrize("tokens", range(1, 7))
def test_nothing_is_lost_of_one_that_leaves_early(memory: MemoryKind, ends: str, tokens: int) -> None:
    """However many tokens it had: all that its sequence held is copied, in ranges that follow each other."""
    one = of_memory(memory)
    draws = [*LETTERS[: tokens - 1], END] if ends == "by its end token" else LETTERS
    most = tokens if ends == "by length" else 100
    one.script(generate(1, prompt(1, 64), saves=PLAN, max_new_tokens=most, stream=True), draws)
    while len(one.of(Text)) < tokens and one.worker.busy:
        one.tick()
    if ends in ("parked", "cancelled"):
        one.do(Park(1) if ends == "parked" else Cancel(1))
    one.run()
    found = copied(one)
    assert [start for start, _ in found] == [0, *(end for _, end in found[:-1])]
    assert {16, 32, 48, 64} <= {end for _, end in found}
    assert found[-1][1] == (one.of(Parked)[0].held if ends == "parked" else 64 + tokens - 1)


def test_a_reply_without_tokens_copies_at_once() -> None:
    """There is no token that could go first."""
    one = of_memory("full")
    one.do(generate(1, prompt(1, 64), saves=PLAN, max_new_tokens=0))
    one.tick()
    assert [end for _, end in copied(one)] == list(ENDS)


def test_a_prompt_that_is_kept_whole_is_answered_before_it_is_copied() -> None:
    """Its first token comes from kept logits, without a decode."""
    one = of_memory("full")
    one.do(generate(1, prompt(1, 64), max_new_tokens=0, keep_logits=True))
    one.run()
    logits = one.backend.logits(0)
    one.outcomes.clear()
    job = generate(2, prompt(1, 64), keep=64, logits=logits, saves=PLAN, max_new_tokens=4, stream=True)
    one.script(job, LETTERS)
    one.run()
    assert order(one)[:3] == ["a", "a", 16]
    assert [range_.end for range_ in one.of(Captured, 2)] == [16, 32, 48, 64, 67]


@pytest.mark.parametrize("tokens", [0, 1, 2, 3])
def test_what_others_begin_with_is_copied_before_it_is_shared(tokens: int) -> None:
    """However far the first has come: else each of them would copy it out. Text goes first, and the rest waits."""
    one = of_memory("full")
    forks = [Fork(request_id=number, source=0, seq_id=number, length=50) for number in (2, 3)]
    one.script(generate(1, prompt(1, 64), saves=PLAN, max_new_tokens=8, stream=True), LETTERS)
    if not tokens:
        one.do(*forks)
    one.tick(max(1, tokens))
    if tokens:
        one.do(*forks)
    one.run()
    assert [outcome for outcome in one.outcomes if isinstance(outcome, Forked)] == [Forked(2, 50), Forked(3, 50)]
    at = one.outcomes.index(Forked(2, 50))
    before = [type(outcome) for outcome in one.outcomes[:at] if isinstance(outcome, Captured | Text)]
    assert before[: max(1, min(tokens, 2))] == [Text] * max(1, min(tokens, 2))
    assert [range_.end for range_ in one.outcomes[:at] if isinstance(range_, Captured)] == [16, 32, 48]
