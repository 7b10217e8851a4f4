"""Prompts beside streams, through the worker: how many decodes they take, by the clock of the stub."""

from __future__ import annotations

from itertools import repeat

import pytest
from helpers.engine import generate
from helpers.worker import Bench, bench, prompt

from erllama_py.engine.jobs import Finished, Generate
from erllama_py.options.model import SchedulerOpts

STALL = 0.1  # seconds; the default
TOKEN = 5  # drawn again and again: no reply ends early


def timed(row_seconds: float, token_seconds: float) -> Bench:
    """A worker whose decodes cost so much: a token of a prompt as much as one of a reply, beside the fixed part."""
    many = bench(
        scheduler=SchedulerOpts(), context_opts={"n_ctx": 16384, "n_batch": 512, "n_ubatch": 512, "n_seq_max": 9}
    )
    many.recorder.row_seconds, many.recorder.token_seconds = row_seconds - token_seconds, token_seconds
    return many


def streaming(many: Bench) -> None:
    """A stream that goes on, and has been measured."""
    many.script(generate(1, prompt(1), max_new_tokens=4000, limit=4096), repeat(TOKEN))
    many.tick(10)


def read(many: Bench, job: Generate) -> list[float]:
    """What each decode took until a prompt of one more request was in."""
    many.do(job)
    took = []
    while not many.of(Finished, job.request_id):
        before = many.recorder.now
        many.tick()
        took.append(many.recorder.now - before)
    return took


def test_a_prompt_beside_a_slow_stream_takes_a_handful_of_decodes() -> None:
    """164 tokens beside a stream whose decodes take 3 s each: not 41 slices of four."""
    many = timed(3.0, 0.055)
    streaming(many)
    took = read(many, generate(2, prompt(2, 164), seq_id=1, max_new_tokens=1))
    assert len(took) <= 6
    assert max(took) <= 2.0 * 3.0


@pytest.mark.parametrize("row_seconds", [0.005, 0.02, 0.049, 0.05, 0.06, 0.099, 0.1, 0.5, 5.0])
@pytest.mark.parametrize("tokens_of_a_row", [5, 50, 500])
def test_what_a_decode_costs_does_not_decide_whether_a_prompt_gets_on(row_seconds: float, tokens_of_a_row: int) -> None:
    """Both the prompt and the stream lose a factor at most: never a prompt that takes for ever."""
    many = timed(row_seconds, row_seconds / tokens_of_a_row)
    streaming(many)
    bound = max(STALL, 2.0 * row_seconds)
    took = read(many, generate(2, prompt(2, 700), seq_id=1, max_new_tokens=1))
    assert sum(took) <= 2.5 * 700 * row_seconds / tokens_of_a_row + 4 * bound
    assert max(took) <= 1.01 * bound


def test_a_prompt_is_read_faster_again_when_a_slow_spell_is_over() -> None:
    """Ten times slower while a first prompt is read: the second one takes few decodes more than before."""
    many = timed(0.01, 0.001)
    streaming(many)
    before = read(many, generate(2, prompt(2, 700), seq_id=1, max_new_tokens=1))
    many.recorder.row_seconds, many.recorder.token_seconds = 0.09, 0.01
    read(many, generate(3, prompt(3, 700), seq_id=1, max_new_tokens=1))
    many.recorder.row_seconds, many.recorder.token_seconds = 0.009, 0.001
    after = read(many, generate(4, prompt(4, 700), seq_id=1, max_new_tokens=1))
    assert len(after) <= len(before) + 12


def test_several_prompts_at_once_take_as_long_as_one_after_the_other() -> None:
    """Eight of 700 tokens with replies of 24: the rows are shared, the prompts do not hold each other up, and they are
    in one after the other. No stream waits for longer than is allowed."""
    jobs = [generate(n, prompt(n, 700), seq_id=n, max_new_tokens=24) for n in range(1, 9)]
    alone = timed(0.01, 0.002)
    for job in jobs:
        alone.script(job, repeat(TOKEN))
        alone.run()
    many = timed(0.01, 0.002)
    for job in jobs:
        many.script(job, repeat(TOKEN))
    took, ends = [], []
    while many.worker.busy:
        before, rows = many.recorder.now, sum(count == 1 for _, count in (many.decodes or [[]])[-1])
        many.tick()
        if rows:
            took.append(many.recorder.now - before)
        ends += [one.request_id for one in many.of(Finished) if one.request_id not in ends]
    assert many.recorder.now <= 1.05 * alone.recorder.now
    assert ends == list(range(1, 9))
    assert sorted(took)[-2] <= 1.01 * STALL
