"""What an engine owes its actor, on a thread and in a process of its own: the same jobs have the same outcomes."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import anyio
import msgspec
import numpy
import pytest
from helpers.anywhere import Anywhere, configuration, running
from helpers.engine import ends, generate
from helpers.lives import drawn, goes_on, places, shown, told
from helpers.runtime import until

from erllama_py.engine.backend import LoadCancelled
from erllama_py.engine.embedding import EmbedderOpts, Part
from erllama_py.engine.jobs import (
    Cancel,
    Capture,
    Captured,
    Died,
    Drop,
    Failed,
    Fault,
    Finished,
    Fork,
    Forked,
    Grant,
    Park,
    Parked,
    Prefilled,
    Report,
    Restore,
    Restored,
    Resume,
    Text,
    Wants,
)
from erllama_py.errors import ModelLoadError
from erllama_py.options.model import ModelConfig
from erllama_py.options.process import Isolation
from erllama_py.options.sampling import Sampling

pytestmark = [pytest.mark.anyio, pytest.mark.either_loop]

PROMPT = list(range(3, 83))
SCHEMA = 'start: "{" /[a-z]{3,30}/ "}"'
WAYS: tuple[tuple[dict[str, Any], Report], ...] = (
    ({"temperature": 0.0, "repetition_penalty": 1.2, "ignore_eos": True}, Report()),
    (
        {"temperature": 0.9, "seed": 7, "xtc_probability": 0.5, "xtc_threshold": 0.02, "ignore_eos": True},
        Report(logprobs=2),
    ),
    ({"mirostat": 2, "seed": 3, "ignore_eos": True}, Report(special=True)),
    ({"temperature": 0.8, "seed": 5, "grammar": SCHEMA}, Report()),
)


@pytest.fixture(params=["thread", "process"])
def isolation(request: pytest.FixtureRequest) -> Isolation:
    place: Isolation = request.param
    return place


@pytest.fixture(params=["stub", "llama"])
def config(request: pytest.FixtureRequest, isolation: Isolation, models: Path) -> ModelConfig:
    return configuration(isolation, models if request.param == "llama" else None)


async def finished(anywhere: Anywhere, request_id: int) -> Finished:
    end = await anywhere.until(ends(request_id))
    assert isinstance(end, Finished), end
    return end


async def test_a_request_is_prefilled_generated_and_finished(config: ModelConfig) -> None:
    """Progress, then the text, then one closing outcome with the counts; and the engine counts the same."""
    async with running(config) as anywhere:
        anywhere.engine.submit(generate(1, PROMPT, stream=True))
        done = await finished(anywhere, 1)
        assert (done.prefill_tokens, len(done.token_ids), done.held) == (80, 8, 87)
        assert anywhere.outcomes[0] == Prefilled(1, 80, 80)
        texts = [outcome for outcome in anywhere.outcomes if isinstance(outcome, Text)]
        assert "".join(text.text for text in texts) == done.text
        assert [token for text in texts for token in text.token_ids] == done.token_ids
        await until(lambda: anywhere.engine.work.generated == 8)
        work = anywhere.engine.work
        assert (work.decodes, work.tokens, work.prompt_tokens) == (8, 87, 80)
        assert anywhere.engine.overdue() is None
        assert anywhere.engine.pid is not None
    assert anywhere.engine.failure is None
    assert anywhere.progress[-1] == 1.0


async def test_what_was_copied_out_can_be_put_back(config: ModelConfig) -> None:
    """Cells leave an engine and come back; the reply is that of the cells that stayed."""
    async with running(config) as anywhere:
        anywhere.engine.submit(generate(1, PROMPT, max_new_tokens=4))
        stayed = await finished(anywhere, 1)
        anywhere.engine.submit(Capture(request_id=2, seq_id=0, start=0, end=80, reason="evict"))
        captured = await anywhere.until(lambda outcome: isinstance(outcome, Captured) and outcome.request_id == 2)
        assert isinstance(captured, Captured)
        assert captured.payload is not None
        before = bytes(captured.payload)
        anywhere.engine.submit(Drop(0))
        anywhere.engine.submit(Restore(request_id=3, seq_id=1, start=0, end=80, payload=captured.payload))
        restored = await anywhere.until(lambda outcome: isinstance(outcome, Restored))
        assert restored == Restored(3, 80, ok=True, held=80)
        anywhere.engine.submit(generate(4, [*PROMPT, 7], keep=80, seq_id=1, max_new_tokens=4))
        anywhere.engine.submit(generate(5, [*PROMPT, 7], keep=0, seq_id=2, max_new_tokens=4))
        warm, cold = await finished(anywhere, 4), await finished(anywhere, 5)
        assert (warm.prefill_tokens, cold.prefill_tokens) == (1, 81)
        assert warm.token_ids == cold.token_ids
        assert bytes(captured.payload) == before
        await until(lambda: anywhere.engine.rates.into != ())
        assert anywhere.engine.rates.out != ()
    assert len(stayed.token_ids) == 4


async def test_a_bad_row_is_refused(config: ModelConfig) -> None:
    """It says whose fault it is, and the engine goes on."""
    async with running(config) as anywhere:
        bad = memoryview(bytes(100_000))
        anywhere.engine.submit(Restore(request_id=3, seq_id=1, start=0, end=80, payload=bad))
        assert await anywhere.until(lambda outcome: isinstance(outcome, Restored)) == Restored(
            3, 80, False, 0, bad=True
        )
        anywhere.engine.submit(generate(1, PROMPT))
        await finished(anywhere, 1)


async def test_cells_are_shared_granted_parked_and_resumed(config: ModelConfig) -> None:
    """All jobs reach the engine in their order."""
    async with running(config) as anywhere:
        anywhere.engine.submit(generate(1, PROMPT, max_new_tokens=40, limit=90))
        anywhere.engine.submit(Fork(request_id=2, source=0, seq_id=1, length=80))
        assert await anywhere.until(lambda outcome: isinstance(outcome, Forked)) == Forked(2, 80)
        await anywhere.until(lambda outcome: isinstance(outcome, Wants))
        anywhere.engine.submit(Park(1))
        parked = await anywhere.until(lambda outcome: isinstance(outcome, Parked))
        assert isinstance(parked, Parked)
        anywhere.engine.submit(Resume(request_id=1, seq_id=1, keep=80, limit=100))
        anywhere.engine.submit(Grant(1, 1 << 20))
        done = await finished(anywhere, 1)
        anywhere.engine.submit(generate(3, PROMPT, max_new_tokens=40, seq_id=2))
        alone = await finished(anywhere, 3)
    assert done.token_ids == alone.token_ids
    assert done.token_ids[: len(parked.token_ids)] == parked.token_ids


async def test_a_structure_is_followed_and_a_bad_one_fails_its_request_alone(config: ModelConfig) -> None:
    """The error is of the class that callers know."""
    async with running(config) as anywhere:
        anywhere.engine.submit(generate(1, PROMPT, sampling=Sampling(grammar="nothing here", temperature=0.0)))
        failed = await anywhere.until(ends(1))
        assert isinstance(failed, Failed)
        assert failed.failure.kind == "InvalidGrammar"
        grammar = 'start: "yes" | "no"'
        anywhere.engine.submit(generate(2, PROMPT, sampling=Sampling(grammar=grammar, temperature=0.0)))
        assert (await finished(anywhere, 2)).text in ("yes", "no")


async def test_a_cancel_stops_a_decode_that_is_under_way(isolation: Isolation) -> None:
    """As on a thread, it does not wait for the decode's end."""
    async with running(configuration(isolation, seconds_per_token=600.0)) as anywhere:
        anywhere.engine.submit(generate(1, range(5)))
        anywhere.engine.submit(Cancel(1))
        done = await finished(anywhere, 1)
    assert (done.reason, done.held) == ("cancelled", 0)


async def test_a_load_that_fails_raises_its_own_error(isolation: Isolation) -> None:
    """With its class and fields."""
    anywhere = Anywhere(configuration(isolation, fail_load=True))
    with pytest.raises(ModelLoadError, match="told to fail"):
        await anywhere.load()
    assert await anywhere.engine.stop(60)


async def test_a_load_can_be_stopped(isolation: Isolation) -> None:
    """Nothing is left of it."""
    anywhere = Anywhere(configuration(isolation, load_seconds=3600.0))

    async def load() -> None:
        with pytest.raises(LoadCancelled):
            await anywhere.load()

    async with anyio.create_task_group() as group:
        group.start_soon(load)
        await until(lambda: anywhere.engine.pid is not None)
        assert await anywhere.engine.stop(60)


@pytest.mark.parametrize("where", ["thread", "decode"])
async def test_a_fault_in_python_ends_the_engine_with_a_report(isolation: Isolation, where: Any) -> None:
    """`Died` comes last; the report says what was under way, and for whom."""
    async with running(configuration(isolation)) as anywhere:
        anywhere.engine.submit(Fault(where))
        anywhere.engine.submit(generate(1, range(5)))
        await anywhere.engine.ended.wait()
        assert isinstance(anywhere.outcomes[-1], Died)
        assert anywhere.engine.failure is not None
        report = vars(anywhere.engine.failure)["report"]
        assert report.reason == "exception"
        assert "told to fail" in report.problem
        if where == "decode":
            assert (report.doing, report.requests) == ("prefill", (1,))


async def test_a_second_engine_uses_the_weights_of_the_first(config: ModelConfig) -> None:
    """It has a context of its own, and ends before the first."""
    async with running(config) as first:
        async with running(config, lender=first) as second:
            for anywhere in (first, second):
                anywhere.engine.submit(generate(1, PROMPT))
            replies = [(await finished(anywhere, 1)).token_ids for anywhere in (first, second)]
            assert replies[0] == replies[1]
            assert first.engine.pid == second.engine.pid
        first.engine.submit(generate(2, PROMPT))
        assert (await finished(first, 2)).token_ids == replies[0]


async def test_tokens_and_texts_are_made_without_the_engine(config: ModelConfig) -> None:
    """The vocabulary is there as long as the engine is."""
    async with running(config) as anywhere:
        tokens = anywhere.source.vocabulary.tokenize("hello", add_special=False, parse_special=False)
        assert anywhere.source.vocabulary.detokenize(tokens, special=False) == "hello"
        assert anywhere.source.vocabulary.n_vocab == anywhere.facts.n_vocab


async def test_embeddings_are_computed_where_the_weights_are(config: ModelConfig) -> None:
    """The same numbers for the same tokens, and an abort stops what was asked for before it alone."""
    async with running(config) as anywhere:
        embedder = anywhere.source.embedder(EmbedderOpts(ranks=False, threads=1))
        facts = embedder.load()
        parts = [Part(0, 0, PROMPT, True), Part(1, 0, PROMPT[:10], True)]
        rows = numpy.array(embedder.compute(parts))
        assert rows.shape == (90, facts.width)
        embedder.abort(True)
        assert embedder.compute(parts) is None
        embedder.abort(False)
        assert numpy.array_equal(numpy.array(embedder.compute(parts)), rows)
        embedder.rest()
        embedder.forget(0)
        embedder.close()
        embedder.close()


# --- the next life of a reply ---------------------------------------------------------------------------------


def texts(anywhere: Anywhere, request_id: int) -> list[Text]:
    return [one for one in anywhere.outcomes if isinstance(one, Text) and one.request_id == request_id]


async def test_replies_go_on_in_another_engine(config: ModelConfig) -> None:
    """Whatever draws them: tokens, text, log-probabilities, reason and counts are those of a reply in one life."""
    asked = [
        generate(number, PROMPT, stream=True, max_new_tokens=30, sampling=Sampling(**way), report=report)
        for number, (way, report) in enumerate(WAYS)
    ]
    async with running(config) as first, running(config) as second:
        for job in asked:
            first.engine.submit(job)
            whole = await finished(first, job.request_id)
            heard = texts(first, job.request_id)
            at = places(heard)[len(places(heard)) // 2]
            assert 0 < at < len(heard)
            second.engine.submit(goes_on(job, heard[:at]))
            again = await finished(second, job.request_id)
            assert told(again) == told(whole)
            assert shown([*heard[:at], *texts(second, job.request_id)]) == shown(heard)


async def test_a_reply_goes_on_after_the_end_of_its_engine(config: ModelConfig, isolation: Isolation) -> None:
    """From what was copied out, which outlives it; what was computed once and is not in there is computed again."""
    job = generate(1, PROMPT, stream=True, max_new_tokens=40, limit=100, sampling=Sampling(seed=5, ignore_eos=True))
    async with running(config) as first:
        first.engine.submit(job)
        await first.until(lambda outcome: isinstance(outcome, Wants))
        first.engine.submit(Capture(request_id=1, seq_id=0, start=0, end=80, reason="evict"))
        row = await first.until(lambda outcome: isinstance(outcome, Captured))
        if isolation == "process":
            os.kill(first.engine.pid or 0, signal.SIGKILL)
        else:
            first.engine.submit(Fault("thread"))
        await first.engine.ended.wait()
        assert isinstance(first.outcomes[-1], Died)
    heard, before = texts(first, 1), drawn(texts(first, 1))
    assert isinstance(row, Captured)
    assert row.payload is not None
    assert before is not None
    assert 0 < len(before.token_ids) < 40
    async with running(config) as second:
        second.engine.submit(Restore(request_id=1, seq_id=0, start=0, end=80, payload=row.payload))
        second.engine.submit(msgspec.structs.replace(goes_on(job, heard), keep=80, limit=1 << 30))
        again = await finished(second, 1)
        second.engine.submit(msgspec.structs.replace(job, request_id=2, seq_id=1, limit=1 << 30))
        whole = msgspec.structs.replace(await finished(second, 2), request_id=1)
        assert told(again) == told(whole)
        assert shown([*heard, *texts(second, 1)]) == shown(texts(second, 2))
        assert again.prefill_tokens == 80 + before.draws.held - 80
