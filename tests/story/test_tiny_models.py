"""Stories with tiny random GGUFs through llama.cpp: every kind of memory, bad files, native memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers.runtime import STUB, engine_threads
from helpers.tiny_gguf import Broken, Kind, broken_gguf, tiny_gguf

import erllama_py as erllama

pytestmark = pytest.mark.anyio

KINDS: tuple[Kind, ...] = ("dense", "window", "recurrent", "hybrid")
GREEDY: dict[str, Any] = {"temperature": 0.0, "response_tokens": 12}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


def config(path: Path | str, **context: Any) -> Any:
    sizes = {"n_ctx": 512, "n_seq_max": 1, "n_batch": 128, "n_ubatch": 64, "n_threads": 1}
    return {"model_path": path, "context_opts": sizes | context}


@pytest.mark.parametrize("n_seq_max", [1, 4])
async def test_as_many_sequences_as_a_batch_has_tokens(folder: Path, n_seq_max: int) -> None:
    """The process lives on: there is a row of logits for each of them, and for the one that is kept for copies."""
    async with erllama.Runtime() as runtime:
        options = config(tiny_gguf("dense", folder), n_batch=n_seq_max, n_ubatch=n_seq_max, n_seq_max=n_seq_max)
        model = await runtime.load_model("m", options)
        done = await model.complete("hello", n=n_seq_max, response_tokens=12, ignore_eos=True)
        assert [len(one.generated) for one in done.alternatives or (done,)] == [12] * n_seq_max


async def test_a_second_context_needs_no_file(tmp_path: Path) -> None:
    """The weights are there already, so a model goes on with all that it can though its file is moved away."""
    async with erllama.Runtime() as runtime:
        model = await runtime.load_model("m", config(path := tiny_gguf("dense", tmp_path)))
        path.unlink()
        assert (await model.complete("hello", reproducible=True, response_tokens=2)).generated


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
async def test_the_next_turn_is_warm_and_says_what_a_cold_one_says(folder: Path, kind: Kind) -> None:
    """Whatever of the live sequence is kept, the reply's tokens are those of a fresh model."""
    path = tiny_gguf(kind, folder)
    async with erllama.Runtime() as runtime:
        live = await runtime.load_model("live", config(path))
        first = await live.complete("one two three", **GREEDY)
        prompt = [*await live.tokenize("one two three"), *first.generated, *await live.tokenize(" four five")]
        warm = await live.complete(prompt, **GREEDY)
        cold = await (await runtime.load_model("cold", config(path))).complete(prompt, **GREEDY)
    assert warm.generated == cold.generated
    assert warm.cache_hit_kind == "live"
    assert warm.stats.prefill_tokens == len(prompt) - first.committed_tokens


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("length", [20, 150])
async def test_another_question_after_the_same_start_is_answered_as_if_cold(
    folder: Path, kind: Kind, length: int
) -> None:
    """Cut back where the memory allows it, begun again where it does not; never silently wrong.

    The window is 64 tokens: after 150 tokens its cells before the cut are partly forgotten.
    """
    path = tiny_gguf(kind, folder)
    async with erllama.Runtime() as runtime:
        live = await runtime.load_model("live", config(path))
        start = (await live.tokenize("a b c d e f g h " * 40))[:length]
        await live.complete([*start, *await live.tokenize(" first question")], **GREEDY | {"response_tokens": 40})
        prompt = [*start, *await live.tokenize(" second one")]
        again = await live.complete(prompt, **GREEDY)
        cold = await (await runtime.load_model("cold", config(path))).complete(prompt, **GREEDY)
    assert again.generated == cold.generated
    if kind == "dense":
        assert again.cache_delta.read >= length
    if kind in ("recurrent", "hybrid"):
        assert again.cache_hit_kind == "cold"


@pytest.mark.parametrize("kind", KINDS)
async def test_a_prefill_that_was_cancelled_does_not_spoil_the_next(folder: Path, kind: Kind) -> None:
    """Half a prompt may be in the cells; the next reply is still that of a fresh model."""
    path = tiny_gguf(kind, folder)
    async with erllama.Runtime() as runtime:
        live = await runtime.load_model("live", config(path))
        prompt = (await live.tokenize("the quick brown fox " * 100))[:400]
        async with live.stream(prompt, **GREEDY) as events:
            await anext(events)  # one slice of four is in
        after = await live.complete(prompt, **GREEDY)
        cold = await (await runtime.load_model("cold", config(path))).complete(prompt, **GREEDY)
    assert after.generated == cold.generated


async def test_several_models_run_side_by_side(folder: Path) -> None:
    """Each has its own context; neither sees the other's tokens."""
    async with erllama.Runtime() as runtime:
        models = [await runtime.load_model(kind, config(tiny_gguf(kind, folder))) for kind in KINDS]
        alone = [(await model.complete("one two", **GREEDY)).generated for model in models]
        for model in models:
            await model.complete("something else", **GREEDY)
        again = [(await model.complete("one two", **GREEDY)).generated for model in models]
    assert alone == again


BAD_FILES: list[tuple[Broken | None, dict[str, Any], type[erllama.ErllamaError]]] = [
    ("directory", {}, erllama.ModelFileNotFound),
    ("wrong_magic", {}, erllama.NotAGGUF),
    ("empty", {}, erllama.NotAGGUF),
    ("cut_in_header", {}, erllama.TruncatedGGUF),
    ("cut_in_weights", {}, erllama.TruncatedGGUF),
    ("unknown_architecture", {}, erllama.UnsupportedModel),
    (None, {"fingerprint": "0" * 64}, erllama.FingerprintMismatch),
    (None, {"quant_type": "q8_0"}, erllama.QuantMismatch),
    (None, {"quant_bits": 3}, erllama.QuantMismatch),
    (None, {"context_opts": {"n_ctx": (1 << 31) - 1}}, erllama.InsufficientMemory),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "options", "error"), [pytest.param(*row, id=f"{row[0] or 'whole'}-{row[2].__name__}") for row in BAD_FILES]
)
async def test_a_file_that_cannot_be_loaded_gives_its_own_error(
    folder: Path, how: Broken | None, options: dict[str, Any], error: type[Exception]
) -> None:
    """Nothing is left, and another model is not disturbed."""
    path = broken_gguf(how, folder) if how is not None else tiny_gguf("dense", folder)
    async with erllama.Runtime(home=folder / "home") as runtime:
        other = await runtime.load_model("other", STUB)
        with pytest.raises(error):
            await runtime.load_model("m", erllama.ModelConfig(model_path=path, **options))
        assert engine_threads() == ["erllama-other"]
        assert (await other.complete("hello", response_tokens=1, temperature=0.0)).generated
        good = await runtime.load_model("m", config(tiny_gguf("dense", folder)))
        assert (await good.complete("hello", **GREEDY)).context_tokens > 0


async def test_a_safe_load_hashes_the_file_once(folder: Path) -> None:
    """The second load of an untouched file reports the hash as done at once; a given fingerprint is compared."""
    path = tiny_gguf("dense", folder)
    steps: list[erllama.LoadProgress] = []
    async with erllama.Runtime(home=folder / "remember") as runtime:
        first = await runtime.load_model("a", config(path))
        again = await runtime.load_model(
            "b", config(path) | {"fingerprint": first.info.fingerprint}, on_progress=steps.append
        )
        assert again.info.fingerprint == first.info.fingerprint
        chunked = await runtime.load_model("c", config(path) | {"fingerprint_mode": "gguf_chunked"})
        assert chunked.info.fingerprint != first.info.fingerprint
    size = path.stat().st_size  # a stat of a local file
    assert [step for step in steps if step.stage == "hash"] == [erllama.LoadProgress("hash", size, size)]
    assert steps[-1] == erllama.LoadProgress("weights", size, size)


async def test_a_relative_path_is_resolved_and_shown(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the working directory, once, at the door."""
    path = tiny_gguf("dense", folder)
    monkeypatch.chdir(path.parent)
    async with erllama.Runtime() as runtime:
        model = await runtime.load_model(config(path.name))
        assert model.info.model_path == str(path)


@pytest.mark.slow
async def test_fifty_loads_and_unloads_leave_no_thread_and_no_name(folder: Path) -> None:
    """Through the whole tree; the process's memory is measured on the backend alone."""
    path = tiny_gguf("dense", folder)
    async with erllama.Runtime() as runtime:
        for _ in range(50):
            model = await runtime.load_model("m", config(path))
            await model.complete("hello", temperature=0.0, response_tokens=1)
            await runtime.unload(model)
        assert engine_threads() == []
        assert [branch.children for branch in runtime.tree().children if branch.name == "models"] == [()]
