"""To be told how likely tokens are changes none: the same draws, by the same random numbers, in the same slices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from unittest.mock import patch

import msgspec
import pytest
from helpers.kinds_of_reply import CLOSING, PROMPT, STRUCTURES, THINKING, WAYS, job
from helpers.lives import Life, drawn, end, goes_on, places, scores_alike, shown, texts
from hypothesis import given
from hypothesis import strategies as st

from erllama_py.engine.backend import Backend, DecodeStatus, ModelFacts, Slice
from erllama_py.engine.jobs import Cancel, Finished, Generate, Outcome, Park, Report, Resume
from erllama_py.options.sampling import Sampling

REPORTS = [Report(logprobs=0), Report(logprobs=2), Report(logprobs=20, logprobs_after=True)]
TOLD = {"logprobs", "prompt_logprobs", "held", "decodes", "prefill_seconds", "decode_seconds", "first_held"}


def seen(finished: Finished) -> dict[str, Any]:
    """What a caller sees of a reply who did not ask for more."""
    return {name: value for name, value in msgspec.structs.asdict(finished).items() if name not in TOLD}


def used(outcomes: Any) -> Any:
    """The random numbers of all draws whose tokens were told, and the levels that they have led to."""
    last = drawn(texts(outcomes))
    return None if last is None else last.draws.sampler


def ways() -> st.SearchStrategy[dict[str, Any]]:
    """The job of any reply, without what is told of it."""
    return st.fixed_dictionaries({
        "sampling": st.builds(
            lambda way, structure, seed: Sampling(**({"seed": seed, "grammar": STRUCTURES[structure]} | WAYS[way])),
            st.sampled_from([*WAYS]), st.sampled_from([*STRUCTURES]), st.integers(0, 99),
        ),
        "markers": st.sampled_from([*THINKING.values()]),
        "max_new_tokens": st.integers(1, 60),
        "stop_sequences": st.lists(st.text("etaoin shr", min_size=1, max_size=3), max_size=2).map(tuple),
        "reproducible": st.booleans(),
    })  # fmt: skip


def run(engine: tuple[Backend, ModelFacts], one: Generate, **more: Any) -> list[Outcome]:
    return [*Life(*engine).run(one, **more)]


def sliced(engine: tuple[Backend, ModelFacts], one: Generate) -> tuple[list[Outcome], list[tuple[int, list[int]]]]:
    """The same, and what each decode was made of: the position that it began at, and its tokens."""
    decode, slices = engine[0].decode, list[tuple[int, list[int]]]()

    def noting(parts: Sequence[Slice]) -> DecodeStatus:
        slices.extend((part.start, [*part.tokens]) for part in parts)
        return decode(parts)

    with patch.object(engine[0], "decode", noting):
        return run(engine, one), slices


def possible(fields: dict[str, Any]) -> dict[str, Any]:
    """What closes a block of thinking is no part of a structure."""
    return fields if fields["sampling"].grammar is None else fields | {"markers": None}


@given(fields=ways(), report=st.sampled_from(REPORTS))
def test_a_reply_that_is_told_of_is_the_reply(
    engine: tuple[Backend, ModelFacts], fields: dict[str, Any], report: Report
) -> None:
    """Token by token and by all that is known of it, with as many random numbers, and in the same decodes: but for what
    is forced or written at its end, which needs no decode where it is not told of."""
    plain, slices = sliced(engine, job(**possible(fields)))
    told, others = sliced(engine, job(**possible(fields), report=report))
    one, other = end(plain), end(told)
    assert seen(one) == seen(other)
    assert used(plain) == used(told)
    assert other.logprobs is not None
    assert [entry.token_id for entry in other.logprobs] == other.token_ids
    assert shown(texts(plain)) == shown(texts(told))
    assert others[: len(slices)] == slices
    assert one.held + sum(len(tokens) for _, tokens in others[len(slices) :]) == other.held
    assert other.held == one.held or other.held == len(PROMPT) + len(other.token_ids) - 1


@given(
    fields=ways(), report=st.sampled_from(REPORTS), cuts=st.lists(st.integers(0, 60), min_size=1, max_size=3),
    stream=st.booleans(),
)  # fmt: skip
def test_a_crash_in_its_middle_leaves_it_so(
    engine: tuple[Backend, ModelFacts], fields: dict[str, Any], report: Report, cuts: list[int], stream: bool
) -> None:
    """Whoever is told of it goes on with what is told, and with the draws of the reply that nobody was told of."""
    fields = possible(fields) | {"stream": stream}
    plain, one = run(engine, job(**fields)), job(**fields, report=report)
    told = again = run(engine, one)
    heard = texts(told)
    for cut in cuts:
        at = places(heard)[cut % len(places(heard))]
        again = run(engine, goes_on(one, heard[:at]))
        heard = [*heard[:at], *texts(again)]
    assert seen(end(again)) | {"prefill_tokens": 0} == seen(end(plain)) | {"prefill_tokens": 0}
    assert scores_alike(end(again), end(told), exact=one.reproducible)
    assert (end(again).decodes, end(again).held) == (end(told).decodes, end(told).held)
    assert shown(heard) == shown(texts(told))


@given(fields=ways(), tick=st.integers(0, 30))
def test_one_that_is_cancelled_has_what_could_be_told_of(
    engine: tuple[Backend, ModelFacts], fields: dict[str, Any], tick: int
) -> None:
    """As many scores as tokens, and the text of these tokens: a beginning of the reply."""
    fields = possible(fields)
    whole = end(run(engine, job(**fields)))
    outcomes = run(engine, job(**fields, report=Report(logprobs=1)), then={tick: Cancel(1)})
    one = end(outcomes)
    assert one.token_ids == whole.token_ids[: len(one.token_ids)]
    assert [entry.token_id for entry in one.logprobs or ()] == one.token_ids
    assert one.held <= len(PROMPT) + len(one.token_ids)
    heard = [token for text in texts(outcomes) for token in text.token_ids]
    assert heard == one.token_ids[: len(heard)]
    assert "".join(text.text for text in texts(outcomes) if text.kind == "text") == one.text
    if one.reason == "cancelled":
        cut = end(run(engine, job(**(fields | {"max_new_tokens": max(1, len(one.token_ids))}))))
        assert not one.token_ids or (cut.text, cut.thinking) == (one.text, one.thinking) or cut.reason == "stop"


@given(fields=ways(), tick=st.integers(0, 30))
def test_one_that_is_parked_is_told_of_the_same(
    engine: tuple[Backend, ModelFacts], fields: dict[str, Any], tick: int
) -> None:
    """Also among tokens that nobody has drawn, whose rows are computed again. A real model has other last bits where
    these are in other slices, so it is asked for what is reproducible."""
    only = {} if engine[1].build == "stub-1" else {"reproducible": True}
    one = job(**(possible(fields) | only), report=Report(logprobs=2))
    whole = end(run(engine, one))
    life = Life(*engine)
    life.run(one, then={tick: Park(1)})
    life.run(Resume(request_id=1, seq_id=2, keep=0, limit=1 << 30))
    again = end(life.outcomes)
    assert scores_alike(again, whole, exact=one.reproducible)


@given(fields=ways())
def test_what_is_told_is_what_a_prompt_of_these_tokens_is_told(
    engine: tuple[Backend, ModelFacts], fields: dict[str, Any]
) -> None:
    """Drawn, forced or written: by the model's odds after the tokens before."""
    one = end(run(engine, job(**possible(fields), report=Report(logprobs=2))))
    scored = Report(prompt_logprobs=2, scored_from=len(PROMPT))
    prompt = [*PROMPT, *one.token_ids]
    read = end(run(engine, job(Sampling(temperature=0.0), tokens=prompt, max_new_tokens=0, report=scored)))
    for told, of_prompt in zip(one.logprobs or (), read.prompt_logprobs or (), strict=True):
        assert of_prompt is not None
        assert (told.token_id, told.bytes) == (of_prompt.token_id, of_prompt.bytes)
        assert told.logprob == pytest.approx(of_prompt.logprob, abs=0.01)
        assert [other.logprob for other in told.top_logprobs] == pytest.approx(
            [other.logprob for other in of_prompt.top_logprobs], abs=0.01
        )


@pytest.mark.parametrize("way", ["usual", "greedy"])
def test_what_nobody_has_drawn_had_no_other_odds(engine: tuple[Backend, ModelFacts], way: str) -> None:
    """After all steps it was certain, however unlikely the model finds it; and so is what a structure forces."""
    report = Report(logprobs=1, logprobs_after=True)
    for fields in ({"markers": THINKING["no thinking"]}, {"sampling": Sampling(seed=1, grammar=STRUCTURES["forced"])}):
        one = end(run(engine, job(**({"sampling": Sampling(**({"seed": 1} | WAYS[way]))} | fields), report=report)))
        told = one.logprobs or []
        some = told[: len(CLOSING)] if "markers" in fields else told[1:30]
        assert {entry.logprob_after for entry in some} == {0.0}
        assert [entry.top_logprobs_after[0].token_id for entry in some] == [entry.token_id for entry in some]
        assert min(entry.logprob for entry in some) < -1.0
