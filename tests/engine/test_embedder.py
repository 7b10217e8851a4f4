"""What every embedder owes its thread: those of llama.cpp over tiny models of each kind, encoders among them, and the
stub's."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy
import pytest
from helpers.backends import MEMORY, make_subject
from helpers.tiny_bert import CONTEXT, tiny_bert
from helpers.tiny_gguf import KINDS, Kind
from hypothesis import given
from hypothesis import strategies as st

from erllama_py.engine import make_backend
from erllama_py.engine.backend import Backend, BackendFailure, FileFacts
from erllama_py.engine.embedding import Embedder, EmbedderFacts, EmbedderOpts, NoRoom, Part
from erllama_py.engine.llama.embedder import FIRST_CELLS, LEAST_BATCH, cells_for, sizes
from erllama_py.engine.llama.weights import make_context
from erllama_py.errors import ModelLoadError, ModelNotLoaded
from erllama_py.options.model import ContextOpts, ModelConfig

SUBJECTS = [f"llama-{kind}" for kind in (*KINDS, "bert", "ranker")] + ["stub-dense", "stub-bert", "stub-ranker"]
INPUTS = [[7, 8, 9], [11], [5, 6, 7, 8, 9, 10, 12, 13, 14, 15, 16]]


def make(name: str, models: Path) -> Backend:
    """A backend that is not loaded."""
    backend, kind = name.split("-")
    if kind in MEMORY:
        return make_subject(backend, kind, models)
    context = {"n_ctx": 512, "n_batch": 256, "n_ubatch": 64, "n_threads": 1, "n_threads_batch": 1, "n_seq_max": 4}
    fields: dict[str, Any] = {"backend": backend, "context_opts": context}
    if backend == "stub":
        fields["stub"] = {"embeds_only": True, "ranks": kind == "ranker"}
    else:
        fields["model_path"] = str(tiny_bert(models, ranks=kind == "ranker"))
    return make_backend("subject", msgspec.convert(fields, ModelConfig))


Opened = tuple[str, Embedder, EmbedderFacts]


@pytest.fixture(params=SUBJECTS)
def opened(request: pytest.FixtureRequest, models: Path) -> Iterator[Opened]:
    """Name, embedder and facts of a model that is loaded."""
    backend = make(request.param, models)
    backend.inspect()
    backend.load(lambda _done: True)
    embedder = backend.embedder(EmbedderOpts(ranks=request.param.endswith("ranker"), threads=1))
    yield request.param, embedder, embedder.load()
    embedder.close()
    backend.close()


def whole(seq_id: int, tokens: list[int]) -> Part:
    return Part(seq_id, 0, tokens, True)


def alone(embedder: Embedder, tokens: list[int]) -> Any:
    return embedder.compute([whole(0, tokens)]).copy()


def same(one: Any, other: Any) -> bool:
    return one.shape == other.shape and numpy.allclose(one, other, rtol=1e-3, atol=1e-3)


def test_inputs_that_share_a_decode_are_as_if_alone(opened: Opened) -> None:
    """Rows come in the order of the parts; no input sees another."""
    name, embedder, facts = opened
    expected = [alone(embedder, tokens) for tokens in INPUTS]
    together = embedder.compute([whole(seq_id, tokens) for seq_id, tokens in enumerate(INPUTS)])
    assert together.shape == (3 if name.endswith("ranker") else sum(map(len, INPUTS)), facts.width)
    assert same(together, numpy.concatenate(expected))


def test_nothing_stays_of_the_many_lengths_that_there_are(opened: Opened) -> None:
    """Not a type of ctypes for each."""
    kept: Any = ctypes._pointer_type_cache  # type: ignore[attr-defined]  # the cache that they stay in
    alone(opened[1], [65] * 7)
    before = len(kept)
    for length in range(1, 7):
        alone(opened[1], [65] * length)
    assert len(kept) == before


def test_a_sequence_is_empty_after_the_last_part_of_its_input(opened: Opened) -> None:
    """The next input in it is computed as the first was."""
    _, embedder, _ = opened
    first = alone(embedder, INPUTS[0])
    alone(embedder, INPUTS[2])
    assert same(alone(embedder, INPUTS[0]), first)


def test_an_input_in_pieces_is_as_a_whole_where_the_model_can_split(opened: Opened) -> None:
    """Beside another input, which is whole; an encoder refuses the pieces."""
    _, embedder, facts = opened
    tokens = INPUTS[2]
    expected = alone(embedder, tokens)
    if not facts.splits and facts.n_ctx == 0 and "Llama" in type(embedder).__name__:
        with pytest.raises(BackendFailure):
            embedder.compute([Part(1, 0, tokens[:4], False)])
        return
    first = embedder.compute([Part(1, 0, tokens[:4], False), whole(0, INPUTS[0])])[:4].copy()
    second = embedder.compute([whole(0, INPUTS[0]), Part(1, 4, tokens[4:], True)])
    if len(expected) == 1:  # one score for all of it
        assert same(second[-1:], expected)
    else:
        assert same(numpy.concatenate([first, second[3:]]), expected)


def test_what_is_forgotten_leaves_no_trace(opened: Opened) -> None:
    """The rest of an input that nobody wants is never computed; its sequence is used again."""
    _, embedder, facts = opened
    expected = alone(embedder, INPUTS[2])
    if facts.splits:
        embedder.compute([Part(0, 0, INPUTS[2][:4], False)])
        embedder.forget(0)
    assert same(alone(embedder, INPUTS[2]), expected)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda facts: [Part(0, 0, [7] * (facts.n_batch + 1), True)],
        lambda facts: [Part(facts.n_seq_max, 0, [7], True)],
        lambda facts: [Part(0, 0, [], True)],
    ],
)
def test_what_does_not_fit_is_refused_before_the_library_sees_it(
    opened: Opened, wrong: Callable[[EmbedderFacts], list[Part]]
) -> None:
    """llama.cpp would end the process; the embedder is usable afterwards."""
    _, embedder, facts = opened
    with pytest.raises(BackendFailure):
        embedder.compute(wrong(facts))
    assert same(alone(embedder, INPUTS[0]), alone(embedder, INPUTS[0]))


def test_the_longest_input_that_the_facts_allow_is_computed(opened: Opened) -> None:
    """A batch at a time, up to `longest` tokens; BERT has no vectors for positions beyond."""
    name, embedder, facts = opened
    if name == "llama-bert":
        assert facts.longest == CONTEXT
    embedder.reserve(facts.longest)
    tokens, start, rows = [7 + i % 9 for i in range(facts.longest)], 0, []
    while start < len(tokens):
        end = min(len(tokens), start + facts.n_batch)
        rows.append(embedder.compute([Part(0, start, tokens[start:end], end == len(tokens))]).copy())
        start = end
    assert numpy.isfinite(numpy.concatenate(rows)).all()


def test_a_flag_stops_a_computation_and_the_next_is_right(opened: Opened) -> None:
    """`None` is the answer, and nothing of it stays behind."""
    name, embedder, _ = opened
    expected = alone(embedder, INPUTS[2])
    embedder.abort(True)
    stopped = embedder.compute([whole(0, INPUTS[2])])
    embedder.abort(False)
    assert stopped is None
    assert same(alone(embedder, INPUTS[2]), expected), name


def test_an_embedder_holds_the_weights_when_its_backend_is_closed_first(models: Path) -> None:
    """And none is made over weights that are gone."""
    backend = make("llama-bert", models)
    backend.load(lambda _done: True)
    embedder = backend.embedder(EmbedderOpts(ranks=False, threads=1))
    embedder.load()
    expected = alone(embedder, INPUTS[0])
    backend.close()
    assert same(alone(embedder, INPUTS[0]), expected)
    embedder.close()
    embedder.close()
    with pytest.raises(ModelNotLoaded):
        backend.embedder(EmbedderOpts(ranks=False, threads=1))


def test_an_encoder_loads_without_cells_and_says_what_it_is(models: Path) -> None:
    """No context for generating is made: llama.cpp would have no memory for it."""
    backend = make("llama-bert", models)
    file, facts = backend.inspect(), backend.load(lambda _done: True)
    backend.close()
    assert (file.embeds_only, file.pooling, file.kv_bytes_per_token) == (True, "mean", 0)
    assert (facts.n_ctx, facts.n_embd) == (0, 64)
    assert make("llama-ranker", models).inspect().pooling == "rank"
    assert not make("llama-dense", models).inspect().embeds_only


def test_sizes_keep_the_logits_of_a_batch_small() -> None:
    """llama.cpp computes a row of logits for each token: with a large vocabulary a batch is short. An encoder's is as
    asked, and its inputs end where its positions do."""
    config = ModelConfig(context_opts=ContextOpts(n_ctx=4096, n_batch=2048))
    file = FileFacts(
        architecture="a", quant_type="f16", quant_bits=16, n_ctx_train=512, n_layer=1, kv_bytes_per_token=8
    )
    large = sizes(config, file, 1 << 18, 640, has_states=False)
    assert (large.n_batch, large.longest, large.n_ctx, large.splits) == (64, 4096, FIRST_CELLS + 64, True)
    assert sizes(config, file, 1 << 24, 640, has_states=True).n_batch == LEAST_BATCH
    encoder = msgspec.structs.replace(file, embeds_only=True, kv_bytes_per_token=0)
    found = sizes(config, encoder, 1 << 18, 640, has_states=False)
    assert (found.n_batch, found.longest, found.n_ctx, found.splits) == (2048, 512, 0, False)


@given(st.integers(1, 1 << 20), st.integers(1, 1 << 20))
def test_cells_are_made_for_an_input_in_few_steps(tokens: int, n_ctx: int) -> None:
    """Enough for it where the model has as many, and never twice as many as it needs."""
    cells = cells_for(tokens, n_ctx)
    assert min(tokens, n_ctx) <= cells <= n_ctx
    assert cells < 2 * tokens


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["dense", "window", "recurrent", "hybrid"])
def test_a_context_grows_for_an_input_that_is_longer_than_its_cells(kind: Kind, models: Path) -> None:
    """It begins small; after `reserve` an input of any length up to the model's is computed, and short ones as ever."""
    backend = make_subject("llama", kind, models, n_ctx=4096)
    backend.load(lambda _done: True)
    embedder = backend.embedder(EmbedderOpts(ranks=False, threads=1))
    facts = embedder.load()
    assert (facts.longest, facts.n_ctx) == (4096, FIRST_CELLS + facts.n_batch)
    expected = alone(embedder, INPUTS[0])
    for length in (3 * FIRST_CELLS, 4096):
        embedder.reserve(length)
        for start in range(0, length, facts.n_batch):
            end = min(length, start + facts.n_batch)
            rows = embedder.compute([Part(1, start, [7 + i % 9 for i in range(start, end)], end == length)])
            assert numpy.isfinite(rows).all()
    assert same(alone(embedder, INPUTS[0]), expected)
    embedder.close()
    backend.close()


def test_a_context_that_cannot_grow_stays_as_it_is(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What needs no more cells is computed as ever; once there is memory, so is the rest."""
    backend = make_subject("llama", "dense", models, n_ctx=4096)
    backend.load(lambda _done: True)
    embedder = backend.embedder(EmbedderOpts(ranks=False, threads=1))
    facts = embedder.load()
    expected = alone(embedder, INPUTS[0])

    def refuse(library: Any, path: str, config: ModelConfig, *args: Any, **more: Any) -> Any:
        if config.context_opts.cells > facts.n_ctx:
            raise ModelLoadError(path, "no memory")
        return make_context(library, path, config, *args, **more)

    with monkeypatch.context() as patch:
        patch.setattr("erllama_py.engine.llama.embedder.make_context", refuse)
        with pytest.raises(NoRoom, match="no memory"):
            embedder.reserve(4096)
        assert same(alone(embedder, INPUTS[0]), expected)
    embedder.reserve(4096)
    assert same(alone(embedder, INPUTS[0]), expected)
    embedder.close()
    backend.close()
