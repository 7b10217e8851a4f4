"""`reproducible=True`: the same request gives the same tokens, drawn from the same bits, whatever else happens.

On both backends and every kind of memory. The weights of the tiny models are random: each row of logits is compared by
its digest, and the control at the end shows that without the option rows do differ.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, get_args

import anyio
import pytest
from helpers.reproducible import GREEDY, HOT, Bits, Recorder, among, config, words
from helpers.runtime import until
from helpers.tiny_gguf import Kind

import erllama_py as erllama
from erllama_py.errors import ModelCrashed

pytestmark = pytest.mark.anyio

QUICK = [("stub", "recurrent")]  # real bits take seconds
SUBJECTS = [(backend, kind) for backend in ("llama", "stub") for kind in get_args(Kind)]
START = words(200)
# Prompts that share beginnings, end on the grid of slices and beside it, and are shorter than one slice.
PROMPTS = [words(30, 1), START[:64], START[:128], [*START[:128], *words(40, 2)], START, [*START, *words(150, 3)]]
NEIGHBOURS = 16


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(
    params=[
        pytest.param(subject, id="-".join(subject), marks=[] if subject in QUICK else pytest.mark.slow)
        for subject in SUBJECTS
    ]
)
def subject(request: pytest.FixtureRequest) -> tuple[str, Kind]:
    backend, kind = request.param
    return backend, kind


async def cold(options: Any, prompts: list[list[int]], **more: Any) -> list[Bits]:
    """Each prompt as the only request that a new model ever had."""
    found: list[Bits] = []
    for prompt in prompts:
        recorder = Recorder()
        async with erllama.Runtime(backend_factory=recorder.make) as runtime:
            bits, done = await recorder.ask(await runtime.load_model("m", options), prompt, **more)
            assert (done.cache_hit_kind, len(bits[1])) == ("cold", 12)
            found.append(bits)
    return found


@pytest.mark.either_loop
@pytest.mark.slow
@pytest.mark.parametrize("drawn", [GREEDY, HOT], ids=["greedy", "hot"])
async def test_among_sixteen_others_cold_and_warm_in_any_order(
    subject: tuple[str, Kind], models: Path, drawn: dict[str, Any]
) -> None:
    """All prompts at once while sixteen neighbours write on, then one by one, backwards, from what is live."""
    options, recorder = config(*subject, models), Recorder()
    expected = await cold(options, PROMPTS, **drawn)
    async with erllama.Runtime(backend_factory=recorder.make) as runtime:
        model = await runtime.load_model("m", options)
        async with among(model, NEIGHBOURS):
            found: dict[int, Bits] = {}

            async def ask(number: int) -> None:
                found[number], _ = await recorder.ask(model, PROMPTS[number], **drawn)

            async with anyio.create_task_group() as tasks:
                for number in range(len(PROMPTS)):
                    tasks.start_soon(ask, number)
            assert [found[number] for number in range(len(PROMPTS))] == expected
            for number in reversed(range(len(PROMPTS))):
                bits, _ = await recorder.ask(model, PROMPTS[number], **drawn)
                assert bits == expected[number]


@pytest.mark.either_loop
@pytest.mark.slow
@pytest.mark.parametrize("tier", ["ram", "ram_file", "disk"])
async def test_restored_from_each_tier(subject: tuple[str, Kind], models: Path, tmp_path: Path, tier: str) -> None:
    """After `evict`, and after a new runtime where the tier outlives the old one. A hit is had, and changes nothing."""
    spec = erllama.DiskTier if tier == "disk" else erllama.RamFileTier
    tiers = {} if tier == "ram" else {"t": spec(str(tmp_path), quota_bytes=1 << 28)}
    place: dict[str, Any] = {} if tier == "ram" else {"tier": tier, "tier_srv": "t"}
    options, recorder = config(*subject, models, **place), Recorder()
    expected = await cold(config(*subject, models), PROMPTS)
    for _ in range(1 if tier == "ram" else 2):
        async with erllama.Runtime(backend_factory=recorder.make, tiers=tiers) as runtime:
            model = await runtime.load_model("m", options)
            hits: list[str | None] = []
            for _ in range(2):
                for prompt, bits in zip(PROMPTS, expected, strict=True):
                    found, done = await recorder.ask(model, prompt)
                    assert found == bits
                    hits.append(done.stats.tier)
                    await model.evict()
            assert hits[-1] == ("t" if tiers else "ram")


@pytest.mark.either_loop
async def test_the_next_turn_of_a_session_is_the_same_prompt_asked_afresh(
    subject: tuple[str, Kind], models: Path
) -> None:
    """What a turn has sampled is in its cells as single rows; the next one computes it as a prompt does."""
    options, recorder = config(*subject, models), Recorder()
    async with erllama.Runtime(backend_factory=recorder.make) as runtime:
        model = await runtime.load_model("m", options)
        async with model.session() as session:
            for turn in range(3):
                given = GREEDY | {"response_tokens": 70, "reproducible": True}
                done = await session.complete(words(50, turn), **given)
                prompt = session.tokens[: -len(done.generated)]
                rows = recorder.rows[tuple(prompt), 0.0][-1]
                other = Recorder()
                async with erllama.Runtime(backend_factory=other.make) as fresh:
                    bits, _ = await other.ask(await fresh.load_model("m", options), prompt, response_tokens=70)
                assert (done.generated, rows) == bits


@pytest.mark.either_loop
async def test_parked_for_others_and_taken_up_again(subject: tuple[str, Kind], models: Path) -> None:
    """In the middle of its reply, twice: what it had sampled is computed again token by token."""
    options, prompt, length = config(*subject, models), PROMPTS[-1], 200
    given, undisturbed, recorder = GREEDY | {"response_tokens": length}, Recorder(), Recorder(20, 120)
    async with erllama.Runtime(backend_factory=undisturbed.make) as runtime:
        expected, _ = await undisturbed.ask(await runtime.load_model("m", options), prompt, **given)
    # These begin with all that the parked one has by then: their rows would be found, were they looked for.
    longer = [[*prompt, *expected[0][:drawn], *words(80, 9)] for drawn in (20, 117)]
    async with erllama.Runtime(backend_factory=recorder.make) as runtime:
        model, found = await runtime.load_model("m", options), list[tuple[Bits, erllama.Completion]]()

        async def ask() -> None:
            found.append(await recorder.ask(model, prompt, **given))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            for other in longer:
                await recorder.stopped()
                tasks.start_soon(partial(model.complete, other, reproducible=True, priority=1, response_tokens=1))
                await until(lambda: model.queue_depth == 2)
                recorder.go_on()
    ((bits, done),) = found
    assert (bits, done.stats.parks) == (expected, 2)


@pytest.mark.either_loop
@pytest.mark.slow
async def test_after_crashes_of_the_model(subject: tuple[str, Kind], models: Path) -> None:
    """A crash of the model ends the second context too, with what it had to do; the next request begins another."""
    options, recorder = config(*subject, models), Recorder(30)
    expected = await cold(options, PROMPTS[-2:])
    async with erllama.Runtime(backend_factory=recorder.make) as runtime:
        model = await runtime.load_model("m", options)
        for prompt, bits in zip(PROMPTS[-2:], expected, strict=True):
            assert (await recorder.ask(model, prompt))[0] == bits
        async with anyio.create_task_group() as tasks:

            async def open_call() -> None:
                with pytest.raises(ModelCrashed, match="restarted"):
                    await recorder.ask(model, words(9, 7), on_crash="fail")
                recorder.go_on()

            tasks.start_soon(open_call)
            await recorder.stopped()
            model.inject_fault("thread")
        for prompt, bits in zip(PROMPTS[-2:], expected, strict=True):
            assert (await recorder.ask(model, prompt))[0] == bits
        assert model.info.restarts == 1


@pytest.mark.either_loop
async def test_after_a_crash_of_the_second_context(subject: tuple[str, Kind], models: Path) -> None:
    """The model goes on; the request that was open learns of it, and the next one begins another context."""
    options, recorder = config(*subject, models), Recorder(1)
    expected = await cold(options, PROMPTS[-2:])
    async with erllama.Runtime(backend_factory=recorder.make) as runtime:
        model = await runtime.load_model("m", options)
        async with model.stream(words(9, 8), response_tokens=1) as events:
            await recorder.stopped()  # at its only draw, so that what fails is not the model's
            recorder.go_on()
            assert (await recorder.ask(model, PROMPTS[-1]))[0] == expected[-1]
            recorder.fail = True
            with pytest.raises(ModelCrashed, match="restarted"):
                await recorder.ask(model, PROMPTS[-2], on_crash="fail")
            assert [type(event) async for event in events][-1] is erllama.Done
        for prompt, bits in zip(PROMPTS[-2:], expected, strict=True):
            assert (await recorder.ask(model, prompt))[0] == bits
        assert model.info.restarts == 0


@pytest.mark.either_loop
@pytest.mark.slow
@pytest.mark.parametrize("context", [
    {"n_ctx": 512, "n_batch": 32, "n_seq_max": 1}, {"n_ctx": 4096, "n_batch": 512, "n_ubatch": 128, "n_seq_max": 3},
])  # fmt: skip
async def test_the_same_in_contexts_of_other_shapes(
    subject: tuple[str, Kind], models: Path, context: dict[str, Any]
) -> None:
    """Size, batch and sequences of the model's own context change nothing."""
    expected = await cold(config(*subject, models), PROMPTS)
    assert await cold(config(*subject, models, context_opts=context), PROMPTS) == expected


@pytest.mark.either_loop
async def test_after_neighbours_that_were_cancelled(subject: tuple[str, Kind], models: Path) -> None:
    """In the middle of their prompt, of their reply, and while they wait."""
    options, recorder = config(*subject, models), Recorder()
    expected = await cold(options, PROMPTS[-2:])
    async with erllama.Runtime(backend_factory=recorder.make) as runtime:
        model = await runtime.load_model("m", options)
        for prompt, bits in zip(PROMPTS[-2:], expected, strict=True):
            first = model.stream([*prompt, *words(200, 4)], reproducible=True)
            async with first, model.stream([*prompt, *words(200, 5)], reproducible=True):
                await anext(first)
            async with model.stream([*prompt, *words(9, 4)], **GREEDY | {"reproducible": True}) as second:
                async for event in second:
                    if isinstance(event, erllama.TextDelta):
                        break
            assert (await recorder.ask(model, prompt))[0] == bits


@pytest.mark.either_loop
@pytest.mark.slow
@pytest.mark.parametrize("kind", get_args(Kind))
async def test_without_it_the_bits_do_change(kind: Kind, models: Path) -> None:
    """The control: the same prompts, warm and among others, as plain requests."""
    options, recorder = config("llama", kind, models), Recorder()
    plain = {"reproducible": False}
    expected = await cold(options, PROMPTS, **plain)
    async with erllama.Runtime(backend_factory=recorder.make) as runtime:
        model = await runtime.load_model("m", options)
        async with among(model, NEIGHBOURS):
            found = [(await recorder.ask(model, prompt, **plain))[0] for prompt in PROMPTS * 2]
    assert [rows for _, rows in found] != [rows for _, rows in expected * 2]


async def test_with_structure_and_log_probabilities(subject: tuple[str, Kind], models: Path) -> None:
    """Tokens that a structure leaves no choice about are decoded one by one, as they would be after parking."""
    options, recorder = config(*subject, models), Recorder(6)
    given: dict[str, Any] = {"regex": "abcabcabcabc[a-z]{30}", "response_tokens": 60, "temperature": 0.0, "logprobs": 2}
    async with erllama.Runtime(backend_factory=recorder.make) as runtime:
        model, found = await runtime.load_model("m", options), list[erllama.Completion]()

        async def ask() -> None:
            found.append(await model.complete(START, reproducible=True, **given))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            await recorder.stopped()
            tasks.start_soon(partial(model.complete, words(9), reproducible=True, priority=1, response_tokens=1))
            await until(lambda: model.queue_depth == 2)
            recorder.go_on()
        await ask()
    parked, warm = found
    assert (parked.stats.parks, warm.stats.parks) == (1, 0)
    assert parked.reply.startswith("abcabcabcabc")
    assert (parked.generated, parked.logprobs) == (warm.generated, warm.logprobs)


async def test_without_a_seed_it_is_zero(subject: tuple[str, Kind], models: Path) -> None:
    """So that a hot request without one is the same each time; another seed is another request."""
    recorder = Recorder()
    async with erllama.Runtime(backend_factory=recorder.make) as runtime:
        model = await runtime.load_model("m", config(*subject, models))
        hot: dict[str, Any] = {"temperature": 1.1, "response_tokens": 12, "ignore_eos": True}
        first, done = await recorder.ask(model, START, **hot)
        assert done.stats.seed == 0
        assert (await recorder.ask(model, START, **hot, seed=0))[0] == first
        assert (await recorder.ask(model, START, **hot, seed=1))[0] != first
