"""A reply that is cut off anywhere goes on in another engine as if nothing had happened, on every kind of memory."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from helpers.kinds_of_reply import PROMPT, STRUCTURES, WAYS, job
from helpers.lives import Life, drawn, end, goes_on, places, scores_alike, shown, texts, told
from helpers.structures import regex
from helpers.worker import bench
from hypothesis import given
from hypothesis import strategies as st

from erllama_py.engine.backend import Backend, ModelFacts
from erllama_py.engine.drawn import Drawn
from erllama_py.engine.jobs import (
    Captured,
    CapturePlan,
    Failed,
    Finished,
    Generate,
    Outcome,
    Report,
    Restore,
    Text,
)
from erllama_py.engine.stub import StubBackend
from erllama_py.options.sampling import Sampling

ROW = memoryview(b"")
GREEDY = Sampling(temperature=0.0, ignore_eos=True)
REPORTS = {
    "nothing": Report(),
    "special": Report(special=True),
    "logprobs": Report(logprobs=2, logprobs_after=True),
    "of the prompt": Report(prompt_logprobs=1),
}


def tokens_of(heard: Sequence[Text]) -> list[int]:
    """All that they brought."""
    return [token for text in heard for token in text.token_ids]


def check(engine: tuple[Backend, ModelFacts], one: Generate, cuts: list[int]) -> None:
    """Undisturbed, and in several lives, each of which ends after one of its texts."""
    whole = Life(*engine).run(one)
    heard, again = texts(whole), whole
    for cut in cuts:
        at = places(heard)[cut % len(places(heard))]
        again = Life(*engine).run(goes_on(one, heard[:at]))
        heard = [*heard[:at], *texts(again)]
    assert told(end(again)) == told(end(whole))
    assert scores_alike(end(again), end(whole), exact=one.sampling.grammar is None)
    assert shown(heard) == shown(texts(whole))
    assert tokens_of(heard) == tokens_of(texts(whole))


@given(
    way=st.sampled_from([*WAYS]), structure=st.sampled_from([*STRUCTURES]), report=st.sampled_from([*REPORTS]),
    cuts=st.lists(st.integers(0, 60), min_size=1, max_size=3), seed=st.integers(0, 99),
    stops=st.lists(st.text("etaoin shr", min_size=1, max_size=3), max_size=2),
)  # fmt: skip
def test_a_reply_goes_on_as_if_nothing_had_happened(
    engine: tuple[Backend, ModelFacts],
    way: str,
    structure: str,
    report: str,
    cuts: list[int],
    seed: int,
    stops: list[str],
) -> None:
    """Tokens, text, log-probabilities, reason, counts; whatever draws, whatever it follows, wherever it is cut."""
    sampling = Sampling(**({"seed": seed, "grammar": STRUCTURES[structure]} | WAYS[way]))
    check(engine, job(sampling, report=REPORTS[report], stop_sequences=tuple(stops)), cuts)


@given(
    cut=st.integers(0, 60), way=st.sampled_from([*WAYS]), seed=st.integers(0, 99), stream=st.booleans(),
    lost=st.integers(0, 3), at_once=st.booleans(),
)  # fmt: skip
def test_a_reply_whose_cells_were_saved_goes_on_from_them(
    engine: tuple[Backend, ModelFacts], cut: int, way: str, seed: int, stream: bool, lost: int, at_once: bool
) -> None:
    """Rows of the prompt and of the reply: what they hold is not computed again, nor copied out again. The
    rest is, also where it is computed in large slices, which have other last bits with a real model."""
    plan = CapturePlan(captured_to=0, prompt_ends=(16, 32), interval=8, min_tokens=8)
    one = job(Sampling(**({"seed": seed} | WAYS[way])), saves=plan, stream=stream, max_new_tokens=80)
    whole = Life(*engine).run(one)
    heard = texts(whole)
    at = places(heard)[cut % len(places(heard))]
    known = 0 if not at else list(whole).index(heard[at - 1])
    rows = [row for row in whole[:known] if isinstance(row, Captured) and row.payload is not None]
    rows = rows[: max(0, len(rows) - lost)]
    held = rows[-1].end if rows else 0
    plan = msgspec.structs.replace(plan, captured_to=held, prompt_ends=tuple(end for end in (16, 32) if end > held))
    again = Life(*engine).run(
        *(Restore(request_id=1, seq_id=0, start=row.start, end=row.end, payload=row.payload or ROW) for row in rows),
        msgspec.structs.replace(
            goes_on(one, heard[:at]),
            keep=held,
            saves=plan,
            retrace=not (at_once and isinstance(engine[0], StubBackend)),
        ),
    )
    assert told(end(again)) == told(end(whole))
    assert shown([*heard[:at], *texts(again)]) == shown(heard)
    later = [row for row in again if isinstance(row, Captured)]
    assert [(row.start, row.end, row.generated) for row in (*rows, *later)] == [
        (row.start, row.end, row.generated) for row in whole if isinstance(row, Captured)
    ]
    before = drawn(heard[:at])
    paid = 0 if before is None else before.draws.prefill_tokens
    computed = (len(PROMPT) if before is None else before.draws.held) - held
    assert end(again).prefill_tokens == paid + max(0, computed)


def test_without_a_stream_little_is_lost(engine: tuple[Backend, ModelFacts]) -> None:
    """Texts come all the same, each of many tokens, and never the end: that is in `Finished`."""
    one = job(Sampling(temperature=0.0, ignore_eos=True), stream=False, max_new_tokens=100)
    outcomes = Life(*engine).run(one)
    assert [len(text.token_ids) for text in texts(outcomes) if text.draws is not None] == [32, 32, 32]
    assert end(outcomes).text.startswith("".join(text.text for text in texts(outcomes)))


def test_a_structure_that_does_not_allow_what_was_drawn_ends_the_request(engine: tuple[Backend, ModelFacts]) -> None:
    """It is told why; the engine goes on."""
    one = job(Sampling(grammar=regex("[a-z]+")), drawn=Drawn(token_ids=[ord("A")]))
    (failed,) = Life(*engine).run(one)
    assert isinstance(failed, Failed)
    assert failed.failure.kind == "SamplerFailed"


def test_the_time_that_was_lost_counts_for_what_it_has_held_up() -> None:
    """The prompt, where nothing of its reply had come; else the reply. In a third life too."""
    times = dict[str, tuple[float, float]]()
    whole = timed("whole", times, job(GREEDY))
    timed("in the prompt", times, job(GREEDY, lost_seconds=8.0))
    again = goes_on(job(GREEDY), texts(whole)[:10])
    timed("in the reply", times, msgspec.structs.replace(again, lost_seconds=8.0, retrace=False))
    assert times["in the prompt"] == (times["whole"][0] + 8.0, times["whole"][1])
    before = texts(whole)[9].draws
    assert before is not None
    assert times["in the reply"][0] == before.prefill_seconds
    assert times["in the reply"][1] > before.decode_seconds + 8.0


def timed(name: str, times: dict[str, tuple[float, float]], one: Generate) -> list[Outcome]:
    """What comes of it by a clock on which decodes alone take time, and how long that says that it took."""
    alone = bench()
    alone.do(one)
    while not alone.of(Finished, 1):
        alone.tick()
    (done,) = alone.of(Finished, 1)
    times[name] = done.prefill_seconds, done.decode_seconds
    return alone.outcomes
