"""What a model's machine makes of copies that take long: what is put back, what is saved of idle sequences, and why
not."""

from __future__ import annotations

import pytest
from helpers.requests import (
    IDLE,
    NOTHING,
    captured,
    finished,
    found,
    generate_of,
    hit_of,
    jobs,
    restored,
    row_read,
    rows_of,
    run,
    submit,
)
from helpers.rows import IDENTITY

from erllama_py.cache.keys import pack_tokens
from erllama_py.engine.jobs import Capture, Drop, Restore
from erllama_py.engine.rates import GRACE, Rates, computed, copied_into, copied_out
from erllama_py.scheduler.cells import Slot, written
from erllama_py.scheduler.messages import AnswerSaved, Complete, EndLookUp, ReadRows, SaveAll
from erllama_py.scheduler.reuse import NOT_WORTH, describe_miss
from erllama_py.scheduler.state import State, changed, with_slot

PROMPT = list(range(100, 1400))
ROWS = rows_of(PROMPT, 256, 512, 768, 1024)
HIT = hit_of(PROMPT, 256, 512, 768, 1024)
COMPUTED = computed(Rates(), 512, 512, 0.0512)  # a tenth of a millisecond a token
SLOW_OUT = copied_out(COMPUTED, 256, GRACE)
SLOW_INTO = copied_into(COMPUTED, 256, GRACE)
HELD = with_slot(IDLE, Slot(0, pack_tokens(range(1200)), 0, IDENTITY, 0, written((), 0, 1200, 1000)))


def with_rates(rates: Rates, state: State = IDLE) -> State:
    return changed(state, rates=rates)


def test_rows_are_not_read_where_putting_them_back_is_known_to_be_slow() -> None:
    """The prompt is computed at once, and the answer says so."""
    state, effects = run(with_rates(SLOW_INTO), submit(1, PROMPT), found(1, HIT))
    assert generate_of(effects).keep == 0
    _, effects = run(state, finished(1, [], held=1300))
    (answer,) = (effect for effect in effects if isinstance(effect, Complete))
    assert answer.outline.miss_reason == NOT_WORTH


def test_rows_with_the_logits_of_the_end_are_no_exception() -> None:
    """One decode that they save is not worth seconds."""
    tokens = PROMPT[:1024]
    hit = hit_of(tokens, 256, 512, 768, 1024, logits=(1024,))
    _, effects = run(with_rates(SLOW_INTO), submit(1, tokens), found(1, hit))
    assert generate_of(effects).keep == 0


def test_before_anything_is_known_the_first_row_decides() -> None:
    """The second is handed over when the first is in; what is known by then ends the chain there."""
    state, effects = run(IDLE, submit(1, PROMPT), found(1, HIT))
    assert effects == [ReadRows(1, ROWS, singly=1)]
    state, effects = run(state, row_read(1, ROWS[0]))
    assert isinstance(jobs(effects)[0], Restore)
    state, effects = run(with_rates(SLOW_INTO, state), restored(1, ROWS[0]))
    job = generate_of(effects)
    assert job.keep == 256
    assert job.saves is not None
    assert job.saves.captured_to == 1024  # the others are saved all the same
    (ended,) = (effect for effect in effects if isinstance(effect, EndLookUp))
    assert (ended.hit.kind, ended.rows, ended.stopped, ended.refused) == ("partial", ROWS[:1], True, None)
    _, effects = run(state, finished(1, [], held=1300))
    (answer,) = (effect for effect in effects if isinstance(effect, Complete))
    assert answer.outline.miss_reason == NOT_WORTH


def test_rows_that_were_handed_over_before_that_are_waited_for() -> None:
    """They lie in the cells when the request begins."""
    state, _ = run(IDLE, submit(1, PROMPT), found(1, HIT), row_read(1, ROWS[0]), row_read(1, ROWS[1]))
    state, effects = run(with_rates(SLOW_INTO, state), restored(1, ROWS[0]))
    assert jobs(effects) == []
    state, effects = run(state, row_read(1, ROWS[2]))
    assert jobs(effects) == []
    state, effects = run(state, restored(1, ROWS[1]))
    assert generate_of(effects).keep == 512


def test_fast_rows_are_read_ahead() -> None:
    """Once one was measured, none waits for another."""
    _, effects = run(with_rates(copied_into(COMPUTED, 256, 0.001)), submit(1, PROMPT), found(1, HIT))
    assert effects == [ReadRows(1, ROWS, singly=0)]


def test_slow_rows_are_tried_again_one_by_one() -> None:
    """When there is credit for it."""
    rates = SLOW_INTO
    for _ in range(9):
        rates = computed(rates, 16, 512, 8.0)
    rates = computed(rates, 512, 512, 0.0512)
    rates = changed(rates, computed=COMPUTED.computed)
    _, effects = run(with_rates(rates), submit(1, PROMPT), found(1, HIT))
    assert effects == [ReadRows(1, ROWS, singly=4)]


def test_an_idle_sequence_is_forgotten_where_saving_it_is_a_loss() -> None:
    """And whoever asked for it gets an answer."""
    state, effects = run(with_rates(SLOW_OUT, HELD), SaveAll(90, "evict"))
    assert jobs(effects) == [Drop(0)]
    assert AnswerSaved(90) in effects
    assert state.slots[0].is_free


def test_an_idle_sequence_is_saved_in_longer_pieces_where_these_are_worth_it() -> None:
    """Half a second for 2,048 tokens, which take ten to compute."""
    rates = copied_out(copied_out(computed(Rates(), 512, 512, 0.6), 256, 0.3), 1024, 0.3)
    state, effects = run(with_rates(rates, HELD), SaveAll(90, "evict"))
    (job,) = jobs(effects)
    assert isinstance(job, Capture)
    assert (job.start, job.end) == (0, 1200)
    _, effects = run(state, captured(job.request_id, 0, 1200))
    assert jobs(effects) == [Drop(0)]


@pytest.mark.parametrize("rates", [Rates(), COMPUTED, copied_out(COMPUTED, 256, 0.001)])
def test_else_it_is_saved_as_always(rates: Rates) -> None:
    """In ranges of 512 tokens."""
    _, effects = run(with_rates(rates, HELD), SaveAll(90, "evict"))
    (job,) = jobs(effects)
    assert (job.start, job.end) == (0, 512)


def test_a_few_live_tokens_do_not_hide_that_nothing_is_saved() -> None:
    """Nearly all prompts begin alike."""
    held = [*PROMPT[:3], 7, 8, 9]
    state, _ = run(with_rates(SLOW_OUT), submit(1, held), found(1), finished(1, [], held=6))
    state, effects = run(state, submit(2, PROMPT), found(2))
    assert generate_of(effects).keep == 3
    _, effects = run(state, finished(2, [], held=1300))
    (answer,) = (effect for effect in effects if isinstance(effect, Complete))
    assert (answer.outline.miss_reason or "").startswith("nothing is saved: copying 1300 tokens out takes")


def test_a_miss_says_that_copying_is_slow() -> None:
    """Only where that is why there is no more."""
    assert describe_miss(NOTHING, 1300, 0, SLOW_OUT) == (
        "nothing is saved: copying 1300 tokens out takes 500 ms or more, and computing them 130 ms, of which a copy "
        "may take 25%"
    )
    ends = hit_of(PROMPT, 256, 512)
    assert (describe_miss(ends, 1300, 0, SLOW_OUT) or "").startswith("what is saved ends at token 512, and no more is")
    assert describe_miss(NOTHING, 1300, 0, COMPUTED) == "nothing is saved for this model"
    assert describe_miss(NOTHING, 10, 128, SLOW_OUT) == "prompts below min_tokens (128) are not saved"
